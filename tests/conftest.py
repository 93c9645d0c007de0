"""What all tests share: library warnings filtered by message, data by environment variable, few threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rdtrain.config.check import check
from rdtrain.config.compose import composed
from rdtrain.config.schema import Config
from rdtrain.quiet import LIBRARY_WARNINGS

# Tests run on all cores already, and so do their commands; torch, which nothing here imports, reads this once.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Filter the same library warnings that the commands filter; all others are errors (pyproject.toml)."""
    for message, category in LIBRARY_WARNINGS:
        config.addinivalue_line("filterwarnings", f"ignore:{message}:{category.__name__}")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with kodak/, bsds500/ and mnist/: $RDTRAIN_TEST_DATA, or ../shared/data beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RDTRAIN_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no test data: set RDTRAIN_TEST_DATA (looked in {folder})")
    return folder


TINY = (
    "experiment=quickstart",
    "hp.N=4",
    "hp.M=6",
    "dataset.batch_size=4",
    "dataset.valid_batch_size=2",
    "engine.num_epochs=2",
    "engine.epoch_steps=3",
    "engine.device=cpu",
    "engine.threads=1",
    "logger.figures=null",
    "logger.entropy_report=null",
    "infer.max_images=1",
    "infer.every_n_epochs=2",
)


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    """Make a configuration of a few seconds: `configure("conv=plain", "seed=2")`; runs go to tmp_path/runs."""

    def make(*overrides: str) -> Config:
        raw, problems = composed([*TINY, f"paths.runs={tmp_path / 'runs'}", *overrides])
        assert raw is not None and problems == [], problems
        config, problems = check(raw)
        assert config is not None and problems == [], problems
        return config

    return make

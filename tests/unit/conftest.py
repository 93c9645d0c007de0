"""Helpers beside the tests, such as tiny_codecs, are imported by name; importlib mode puts no folder on the path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread, as `rdtrain-eval` does, and leave torch's number of threads as it was."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def factorized() -> Any:
    """A copy to be evaluated, trained for a second; not to be changed."""
    from tiny_codecs import trained_model

    from rdtrain.evaluation import evaluation_copy

    return evaluation_copy(trained_model("bmshj2018-factorized"))

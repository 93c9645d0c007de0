"""Fits of kernels as a user makes them, in this process: from the composed configuration to the run folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rdtrain.errors import UserError
from rdtrain.kernels import figures, results
from rdtrain.kernels.ranking import Cell, standings
from rdtrain.kernels.results import Result
from rdtrain.kernels.schema import Config
from rdtrain.kernels.targets import make_target
from rdtrain.kernels.task import planned, problems, run

EXPERIMENTS = sorted(
    path.name.removesuffix(".yaml") for path in files("rdtrain.conf").joinpath("experiment/kernels").iterdir()
)
TINY = ("target.name=edge", "inputs.size=10", "inputs.batch=2", "fit.steps=6", "fit.epoch_steps=3", "fit.seeds=2")


MINE = """
import dataclasses, numpy
from rdtrain.conv.transform import Transform

@dataclasses.dataclass(frozen=True)
class UpsideDown(Transform):
    def basis(self, kernel_size):
        return numpy.eye(kernel_size[0] * kernel_size[1])[::-1]
"""


WRONG = """
import dataclasses, numpy
from rdtrain.conv.transform import Transform

def _taps(kernel_size):
    return kernel_size[0] * kernel_size[1]

class Narrow(Transform):
    def basis(self, kernel_size):
        return numpy.eye(_taps(kernel_size))[:, 1:]

class Listed(Transform):
    def basis(self, kernel_size):
        return numpy.eye(_taps(kernel_size)).tolist()

class Infinite(Transform):
    def basis(self, kernel_size):
        return numpy.full((1, _taps(kernel_size)), numpy.inf)

class Broken(Transform):
    def basis(self, kernel_size):
        return {}["tap"]

class Whole(Transform):
    def basis(self, kernel_size):
        return numpy.eye(_taps(kernel_size))

class Deaf(Whole):
    def gain(self, weight_shape, out_axis):
        return numpy.zeros(1)

class Complex(Transform):
    def basis(self, kernel_size):
        return numpy.fft.fft(numpy.eye(_taps(kernel_size)))

class Restless(Transform):
    def basis(self, kernel_size):
        return numpy.random.default_rng().normal(size=(_taps(kernel_size),) * 2)

@dataclasses.dataclass
class Loose(Whole):
    scale: float = 1.0

class Wide(Whole):
    def gain(self, weight_shape, out_axis):
        return numpy.ones(7)
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def raw(*overrides: str) -> Any:
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        return OmegaConf.to_container(compose("kernels", overrides=list(overrides)), resolve=True)


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    def make(*overrides: str) -> Config:
        composed = raw(*overrides, f"paths.runs={tmp_path}")
        assert problems(composed) == []
        return Config.model_validate(composed)

    return make


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_without_mistakes(name: str) -> None:
    assert len(EXPERIMENTS) == 11
    composed = raw(f"experiment=kernels/{name}")
    found = problems(composed)
    if name == "trained":
        assert found == ["target.name=trained needs a convolution: type target.checkpoint=RUN target.layer=g_a.0"]
    else:
        assert found == []
    assert Config.model_validate(composed).to_dict() == composed


def test_a_fit_leaves_a_whole_run_folder(
    configure: Callable[..., Config],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "my_kernel_forms.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    config = configure(*TINY, "++transforms.mine._target_=my_kernel_forms.UpsideDown")
    folder = run(config, ["seed=1"])
    assert planned(config) == (config, folder)
    summary = json.loads(folder.summary.read_text())
    assert (summary["status"], summary["steps"], summary["warnings"]) == ("finished", 6, [])
    steps, traces = results.read_traces(folder.metrics)
    assert steps.tolist() == [0, 3, 6]
    found = results.read_results(folder.figures / "results.csv")
    assert len(found) == 2 * len({one.arm for one in found}) and {one.seed for one in found} == {1, 2}
    for one in found:
        last = traces["kernel_error", one.arm][-1, one.seed - 1]
        assert one.kernel_error == pytest.approx(last, rel=1e-5)
        assert np.hypot(one.error_low, one.error_high) == pytest.approx(one.kernel_error, rel=1e-5)
        assert summary["final"][f"train/kernel_error/{one.arm}/seed{one.seed}"] == last
    events = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0}).Reload()
    assert [point.value for point in events.Scalars("train/loss/rfft/seed2")] == pytest.approx(
        traces["loss", "rfft"][1:, 1].tolist()
    )
    assert all((folder.figures / name).stat().st_size > 5000 for name in ("curves.png", "frequencies.png"))
    assert yaml_of(folder.config) == config.to_dict() and folder.overrides.read_text() == "seed=1\n"
    before = folder.metrics.stat().st_mtime_ns
    capsys.readouterr()
    assert run(config).path == folder.path and folder.metrics.stat().st_mtime_ns == before
    assert "already finished" in capsys.readouterr().out


def yaml_of(path: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(path))


def test_another_order_of_the_taps_changes_nothing(
    configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_kernel_forms.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    folder = run(configure(*TINY, "++transforms.mine._target_=my_kernel_forms.UpsideDown"))
    errors = {(one.arm, one.seed): one.kernel_error for one in results.read_results(folder.figures / "results.csv")}
    assert [errors["mine", seed] for seed in (1, 2)] == pytest.approx(
        [errors["plain", seed] for seed in (1, 2)], rel=1e-4
    )
    assert "plain-as-mine" not in {arm for arm, _ in errors}  # it hides no learning rate


def test_the_loop_prints_the_same_numbers_for_plain_and_rdft(
    configure: Callable[..., Config],
) -> None:
    config = configure("experiment=kernels/loop", "target.name=edge", "fit.seeds=2", "inputs.size=20", "fit.steps=100")
    assert (config.optimizer["lr"], config.inputs.batch, config.inputs.padding) == (1e-4, 16, 5)
    steps, traces = results.read_traces(run(config).metrics)
    plain, rdft, rfft = (traces["loss", arm][1:] for arm in ("plain", "rdft", "rfft"))
    assert plain.shape == (5, 2) and steps[-1] == 100
    np.testing.assert_allclose(rdft, plain, rtol=2e-6)
    assert [f"{value:.4f}" for value in rdft.ravel()] == [f"{value:.4f}" for value in plain.ravel()]
    assert np.abs(rfft / plain - 1).max() > 1e-4


def test_arms_are_alone_with_their_loss(configure: Callable[..., Config]) -> None:
    """An arm that diverges leaves the others as they are."""
    few = tuple(f"transforms.{name}=null" for name in ("rdft", "dct", "dct9", "attenuated"))
    wild = run(configure(*TINY, *few, "optimizers.sgd.lr=100", "fit.optimizer=sgd", "fit.steps=30"))
    found = {(one.arm, one.seed): one for one in results.read_results(wild.figures / "results.csv")}
    assert not np.isfinite(found["plain", 1].kernel_error) or found["plain", 1].kernel_error > 1e3
    assert json.loads(wild.summary.read_text())["status"] == "finished"
    together = run(configure(*TINY))
    alone = run(configure(*TINY, *few))
    losses = [results.read_traces(folder.metrics)[1]["loss", "rfft"][1:] for folder in (together, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_titles_say_what_the_configuration_says(configure: Callable[..., Config]) -> None:
    config = configure("target.name=edge", "inputs.name=pink", "inputs.crop=1", "fit.seeds=4", "fit.optimizer=sgd",
                       "++optimizers.sgd.momentum=0.9")  # fmt: skip
    assert figures.title(config, make_target(config.target, 1)) == (
        "edge (vertical edges) 4->4, K=5, groups=4; pink 48x48, batch 4, padding 5 zeros, crop 1; "
        "SGD, lr 0.0001, momentum 0.9; 4 seeds"
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["fit.optimizer=adamm"],
            "there is none of that name under optimizers; did you mean adam?",
        ),
        (["++optimizers.adam.lrr=1"], "optimizers.adam.lrr does not exist: did you mean optimizers.adam.lr"),
        (["optimizers.adam._target_=torch.optim.Adafactor"], "its steps depend on other numbers of the same tensor"),
        (
            ["optimizers.adam._target_=torch.optim.LBFGS"],
            "LBFGS doesn't support per-parameter options",
        ),
        (["++transforms.mine._target_=nowhere.Mine"], "transforms.mine._target_=nowhere.Mine: is no class of kind"),
        (
            ["++transforms.plain._target_=rdtrain.conv.transforms.Rfft"],
            "transforms.plain: plain kernels and",
        ),
        (["transforms.dct9.K=0"], "transforms.dct9: conv.dct.coefficients=0"),
        (["fit.steps=50"], "fit.steps=50: should be a multiple of fit.epoch_steps=20; type 40"),
        (["inputs.size=4", "inputs.padding=0"], "inputs.size=4: nothing is left of the output; type inputs.size=11"),
        (["inputs.name=pink", "inputs.size=1"], "inputs.size=1: a single pixel has no frequencies"),
        (["optimizers.adam.lr=0"], "optimizers.adam.lr=0: should be a number above 0"),
        (["inputs.padding_mode=reflect", "inputs.size=5"], "inputs.padding=5 is too wide for reflect"),
        (["inputs.name=images", "inputs.size=5000"], "inputs.size=5000: the smallest photograph has"),
    ],
)
def test_mistakes_say_what_to_type(overrides: list[str], said: str) -> None:
    (problem,) = problems(raw(*overrides))
    assert said in problem


@pytest.mark.parametrize(
    "wrong", ["fit.steps=10", "fit.optimizer=adamm", "optimizers.adam._target_=torch.optim.Adafactor"]
)
def test_a_single_fit_is_checked_before_anything_is_made(wrong: str, tmp_path: Path) -> None:
    config = Config.model_validate(raw(wrong, f"paths.runs={tmp_path}"))
    with pytest.raises(UserError, match=wrong.partition("=")[0]):
        run(config)
    assert list(tmp_path.iterdir()) == []


def test_axes_of_all_cells_have_names_and_controls_their_transforms_colour() -> None:
    cells = [Cell(target, inputs, "Adam", 1e-3) for target in ("edge", "random") for inputs in ("pink", "white")]
    arms = ("plain", "few", "plain-as-few", "plain-from-few")
    traces = {("kernel_error", arm): np.array([[1.0, 2.0], [0.1, 0.2]]) * i for i, arm in enumerate(arms, 1)}
    figure = figures.curve_grid("curves", "title", dict.fromkeys(cells, (np.array([0.0, 20.0]), traces))).figure
    assert figure.get_supylabel() == "relative error of the kernels"
    assert [axes.get_xlabel() for axes in figure.axes] == [""] * 2 + ["optimizer steps"] * 2
    _, few, as_few, from_few = figure.axes[0].lines
    assert few.get_color() == as_few.get_color() == from_few.get_color()
    assert [line.get_linestyle() for line in (few, as_few, from_few)] == ["-", "--", ":"]


def test_errors_against_stored_numbers() -> None:
    """Forms whose names differ in a number are one line, and what they can reach another one; controls are left out."""
    cell = Cell("edge", "images", "Adam", 1e-3)
    found = standings(
        Result(*cell, arm, 1.0, numbers, seed, 6, None, 1.0, error * seed, 0.0, 0.0, floor)
        for seed in (1, 2)
        for arm, numbers, error, floor in (
            ("plain", 25, 0.5, 0.0), ("plain-from-zigzag4", 25, 9.0, 0.0),
            ("zigzag10", 10, 0.2, 0.0), ("zigzag4", 4, 0.3, 0.1),
        )
    )  # fmt: skip
    (axes,) = figures.sizes("sizes", "title", found).figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert axes.get_title() == "edge, images, Adam 0.001"
    drawn = {container.get_label(): container[0] for container in axes.containers}
    assert drawn.keys() == {"plain", "zigzag"}
    np.testing.assert_allclose(drawn["zigzag"].get_xydata(), [[4, 0.3 * 2**0.5], [10, 0.2 * 2**0.5]])
    (reachable,) = (line for name, line in lines.items() if line.get_linestyle() == "--")
    np.testing.assert_allclose(reachable.get_xydata(), [[4, 0.1], [10, 0.0]])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Narrow", "its basis for kernels of 5x5 is of shape \\(25, 24\\); return an array of shape \\(S, 25\\)"),
        ("Listed", "its basis for kernels of 5x5 is a list; return an array of shape"),
        ("Infinite", "its basis for kernels of 5x5 is zero or not finite; mend its class"),
        ("Broken", "has no basis for kernels of 5x5 \\(KeyError: 'tap'\\); mend its class"),
        ("Complex", "its basis for kernels of 5x5 is complex; return real and imaginary parts as rows of their own"),
        ("Restless", "its basis for kernels of 5x5 is another one at every call; give its random numbers a seed"),
        ("Loose", "has no basis for kernels of 5x5 \\(TypeError: unhashable type: 'Loose'\\); write @dataclass"),
        ("Deaf", "its gain is 0 or not finite somewhere; mend its class"),
        ("Wide", "its gain is of shape \\(7,\\); return an array that broadcasts to \\(4, 2, 25\\)"),
    ],
)
def test_a_users_transform_is_tried_on_the_targets_kernels(
    name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong_kernel_forms.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = problems(raw(*TINY, f"++transforms.mine._target_=wrong_kernel_forms.{name}"))
    assert re.fullmatch(f"transforms.mine: {sentence}.*", problem)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0.0, r"target.layer=g_a.0: its kernels in .*model.pth are nothing but zeros; type another layer"),
        (float("nan"), r"target.checkpoint=.*model.pth: g_a.0.weight holds numbers that are not finite; .*"),
    ],
)
def test_kernels_that_nothing_can_be_learned_from_are_refused(value: float, sentence: str, tmp_path: Path) -> None:
    torch.save({"g_a.0.weight": torch.full((2, 2, 3, 3), value)}, tmp_path / "model.pth")
    trained = ("target.name=trained", f"target.checkpoint={tmp_path / 'model.pth'}", "target.layer=g_a.0")
    (problem,) = problems(raw(*TINY, *trained, "inputs.name=images"))
    assert re.fullmatch(sentence, problem)


def test_a_fit_of_other_trained_kernels_is_not_taken_for_done(configure: Callable[..., Config], tmp_path: Path) -> None:
    weights = {"g_a.0.weight": torch.randn(2, 2, 3, 3)}
    torch.save(weights, tmp_path / "model.pth")
    trained = ("target.name=trained", f"target.checkpoint={tmp_path / 'model.pth'}", "target.layer=g_a.0")
    config = configure(*TINY, *trained, "inputs.name=images")
    folder = run(config)
    assert json.loads(folder.environment.read_text())["data"].keys() == {"target", "inputs"}
    assert run(config).path == planned(config)[1].path
    torch.save({"g_a.0.weight": 2 * weights["g_a.0.weight"]}, tmp_path / "model.pth")
    for again in (run, planned):
        with pytest.raises(UserError, match="the target data are not those that the run in"):
            again(config)

"""Whole runs of a tiny model in this process."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import compressai
import numpy as np
import pytest
import torch
from catalyst import dl
from compressai.losses import RateDistortionLoss as PeerLoss
from compressai.models import FactorizedPrior
from compressai.optimizers import net_aux_optimizer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rdtrain import build, checkpoint
from rdtrain.config.schema import Config
from rdtrain.data.inventory import make_stores, take_inventory
from rdtrain.errors import UserError
from rdtrain.evaluation import evaluate_image
from rdtrain.metrics import csv_columns, tag
from rdtrain.models import build_model, complete
from rdtrain.run_folder import RunFolder
from rdtrain.train import train

Configure = Callable[..., Config]


def _rows(folder: RunFolder) -> list[dict[str, str]]:
    with open(folder.metrics, newline="") as file:
        return list(csv.DictReader(file))


def _same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))  # type: ignore[arg-type]
    return a == b


class _Losses(dl.Callback):
    """Collects the loss of every step; stops the run with an error at one of them."""

    def __init__(self, stop_after_epoch: int | None = None) -> None:
        super().__init__(order=95)
        self.values: list[float] = []
        self.stop_after_epoch = stop_after_epoch

    def on_batch_end(self, runner: dl.IRunner) -> None:
        if runner.is_train_loader:
            self.values.append(float(runner.batch_metrics["loss/forward/unclamped"]))

    def on_epoch_end(self, runner: dl.IRunner) -> None:
        if runner.epoch_step == self.stop_after_epoch:
            raise KeyboardInterrupt


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Losses]:
    """Add a `_Losses` to the next run."""

    def add(**options: int) -> _Losses:
        losses, callbacks = _Losses(**options), build.callbacks
        monkeypatch.setattr(build, "callbacks", lambda config: {**callbacks(config), "losses": losses})
        return losses

    return add


def test_twenty_steps_equal_a_bare_loop(configure: Configure, watch: Callable[..., _Losses]) -> None:
    config = configure("conv=plain", "hp.N=8", "hp.M=12", "engine.num_epochs=1", "engine.epoch_steps=20")
    losses = watch()
    train(config)

    config = complete(config)
    inventory, _ = take_inventory(config.dataset)
    assert inventory is not None
    loader = build.loaders(config, make_stores(inventory, config.dataset), 1)["train"]
    loader.sampler.seek(1)  # type: ignore[attr-defined]
    net, loss = build_model(config.model.name, config.hp, config.seed), PeerLoss(lmbda=0.0067)
    adam = {"net": {"type": "Adam", "lr": 1e-3}, "aux": {"type": "Adam", "lr": 1e-3}}
    optimizers = net_aux_optimizer(net, adam)
    torch.manual_seed(config.seed + 1)  # Catalyst seeds every loader with seed + epoch
    expected = []
    for batch in loader:
        x = batch["x"].float() / 255
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        terms = loss(net(x), x)
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizers["net"].step()
        net.aux_loss().backward()
        optimizers["aux"].step()
        expected.append(terms["loss"].item())
    assert len(expected) == 20
    assert losses.values == pytest.approx(expected, rel=1e-5)
    assert expected[-1] < expected[0]


def test_the_run_folder_says_everything(configure: Configure) -> None:
    config = configure("logger.figures={_target_: rdtrain.callbacks.Figures}")
    folder = train(config, ["experiment=quickstart", "seed=1"])
    names = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
    for name in (
        "config.yaml", "overrides.txt", "environment.json", "metrics.csv", "summary.json", "checkpoints/last.pt",
        "checkpoints/best.pt", "export/model.pth", "figures/loss.png",
    ):  # fmt: skip
        assert name in names
    assert not [name for name in names if name.endswith(".tmp")]
    assert folder.overrides.read_text() == "experiment=quickstart\nseed=1\n"

    environment = json.loads(folder.environment.read_text())
    assert environment["packages"]["compressai"] == compressai.__version__
    assert environment["data"]["train"]["images"] == 7 and len(environment["data"]["train"]["fingerprint"]) == 64

    rows = _rows(folder)
    assert list(rows[0]) == csv_columns()
    assert [(row["epoch"], row["step"], row["loader"]) for row in rows] == [
        ("1", "3", "train"), ("1", "3", "valid"), ("2", "6", "train"), ("2", "6", "valid"), ("2", "6", "infer"),
    ]  # fmt: skip

    summary = json.loads(folder.summary.read_text())
    assert summary["status"] == "finished" and (summary["epochs"], summary["steps"]) == (2, 6)
    assert summary["run_id"] == folder.id and summary["switch"] is None
    losses = {int(row["epoch"]): float(row["loss/forward/unclamped"]) for row in rows if row["loader"] == "valid"}
    assert summary["best"]["loss"] == min(losses.values()) == losses[summary["best"]["epoch"]]
    assert summary["final"]["infer/bpp/real"] == float(rows[-1]["bpp/real"])


def test_tensorboard_and_csv_have_the_same_numbers(configure: Configure) -> None:
    folder = train(configure())
    events = EventAccumulator(str(folder.tensorboard))
    events.Reload()
    compared = 0
    for row in _rows(folder):
        for name, text in row.items():
            if name in ("epoch", "step", "loader") or not text:
                continue
            scalars = {event.step: event.value for event in events.Scalars(tag(row["loader"], name))}
            assert scalars[int(row["step"])] == pytest.approx(float(text), rel=1e-6)
            compared += 1
    assert compared > 80
    assert any(name.startswith("infer/") for name in events.Tags()["images"])
    assert "hparam/infer/bpp/real" in events.Tags()["scalars"]


def test_real_and_forward_agree(configure: Configure) -> None:
    final = json.loads(train(configure("infer.max_images=null")).summary.read_text())["final"]
    assert final["infer/mse/real/clamped"] == pytest.approx(final["infer/mse/forward/clamped"], abs=1e-6)
    assert final["infer/loss/forward/clamped"] <= final["infer/loss/forward/unclamped"]
    assert final["infer/bpp/real"] > final["infer/bpp/forward"]


def test_validation_does_not_depend_on_its_batch_size(configure: Configure) -> None:
    one, two = (
        json.loads(train(configure(f"dataset.valid_batch_size={size}")).summary.read_text())["final"] for size in (1, 2)
    )
    names = [name for name in one if name.startswith("valid/") and "/time/" not in name]
    assert len(names) >= 7
    for name in names:
        assert one[name] == pytest.approx(two[name], rel=1e-6), name


def test_best_is_the_best_and_not_the_last(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wreck(dl.Callback):
        def on_epoch_start(self, runner: dl.IRunner) -> None:
            if runner.epoch_step == 3:
                for parameter in runner.net.g_s.parameters():
                    parameter.data.mul_(4)

    callbacks = build.callbacks
    monkeypatch.setattr(build, "callbacks", lambda config: {**callbacks(config), "wreck": Wreck(order=1)})
    folder = train(configure("engine.num_epochs=3"))
    losses = [float(row["loss/forward/unclamped"]) for row in _rows(folder) if row["loader"] == "valid"]
    best, last = checkpoint.read(folder.best), checkpoint.read(folder.last)
    assert best["epoch"] == losses.index(min(losses)) + 1 < 3 == last["epoch"]
    assert not torch.equal(best["model"]["g_a.0.bias"], last["model"]["g_a.0.bias"])
    exported = torch.load(folder.exported, weights_only=True)
    assert torch.equal(exported["g_a.0.bias"], best["model"]["g_a.0.bias"])


def test_the_export_is_stock_compressai(configure: Configure) -> None:
    config = complete(configure())
    folder = train(config)
    net = FactorizedPrior.from_state_dict(torch.load(folder.exported, weights_only=True)).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        coded = net.compress(x)
        decoded = net.decompress(coded["strings"], coded["shape"])["x_hat"]
        assert torch.equal(decoded, net(x)["x_hat"].clamp(0, 1))
    row = evaluate_image(net, x, build.criterion(config))
    assert row.metrics["bpp/real"] == 8 * len(coded["strings"][0][0]) / 64**2


def test_an_interrupted_run_continues_to_the_same_end(configure: Configure, watch: Callable[..., _Losses]) -> None:
    whole = train(configure("engine.num_epochs=3", "engine.ema_decay=0.9"))
    expected = checkpoint.read(whole.last), _rows(whole)
    whole.path.rename(whole.path.parent.parent / "whole")

    config = configure("engine.num_epochs=3", "engine.ema_decay=0.9")
    with pytest.MonkeyPatch.context() as patch:
        losses, callbacks = _Losses(stop_after_epoch=1), build.callbacks
        patch.setattr(build, "callbacks", lambda config: {**callbacks(config), "losses": losses})
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert json.loads(whole.summary.read_text())["status"] == "interrupted"
    assert checkpoint.read(whole.last)["epoch"] == 1

    losses = watch()
    train(config)
    assert len(losses.values) == 2 * 3  # only the steps that were missing
    state, rows = checkpoint.read(whole.last), _rows(whole)
    for ours, theirs in ((state, expected[0]),):
        for key in ("model", "ema", "optimizer", "scheduler", "callbacks", "best", "epoch", "steps"):
            assert _same(ours[key], theirs[key]), key
    for row, other in zip(rows, expected[1], strict=True):
        assert {k: v for k, v in row.items() if "time/" not in k} == {
            k: v for k, v in other.items() if "time/" not in k
        }


def test_a_run_without_its_optimizer_state_does_not(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above: equality there is not an accident."""
    folder = train(configure("engine.num_epochs=3"))
    weights = checkpoint.read(folder.last)["model"]
    folder.path.rename(folder.path.parent.parent / "whole")
    with pytest.MonkeyPatch.context() as patch:
        losses, callbacks = _Losses(stop_after_epoch=1), build.callbacks
        patch.setattr(build, "callbacks", lambda config: {**callbacks(config), "losses": losses})
        with pytest.raises(KeyboardInterrupt):
            train(configure("engine.num_epochs=3"))
    state = checkpoint.read(folder.last)
    state["optimizer"]["net"]["state"] = {}
    torch.save(state, folder.last)
    train(configure("engine.num_epochs=3"))
    assert not _same(checkpoint.read(folder.last)["model"], weights)


def test_a_finished_run_is_not_repeated(
    configure: Configure, watch: Callable[..., _Losses], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(configure())
    before = folder.last.stat().st_mtime_ns
    losses = watch()
    assert train(configure()).path == folder.path
    assert losses.values == [] and folder.last.stat().st_mtime_ns == before
    assert "already finished" in capsys.readouterr().out


def test_early_stopping_infers_in_its_last_epoch(configure: Configure) -> None:
    config = configure(
        "conv=plain",
        "engine.num_epochs=9",
        "infer.every_n_epochs=100",
        "optimizer.net.lr=1e-9",
        "callbacks.early_stopping.patience=1",
    )
    rows = _rows(train(config))
    assert [(row["epoch"], row["loader"]) for row in rows][-3:] == [("3", "train"), ("3", "valid"), ("3", "infer")]


def test_accumulated_gradients_are_those_of_the_large_batch(
    configure: Configure, watch: Callable[..., _Losses], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without noise the gradient of 4 + 4 images is that of 8.
    monkeypatch.setattr(
        compressai.entropy_models.EntropyModel, "quantize", lambda self, inputs, mode, means=None: inputs
    )
    common = (
        "conv=plain",
        "infer.every_n_epochs=9",
        "engine.num_epochs=1",
        "engine.clip_grad_norm=null",
        "optimizer=sgd",
    )
    large = train(configure(*common, "dataset.batch_size=8"))
    small = train(configure(*common, "dataset.batch_size=4", "engine.accumulate=2"))
    a, b = (checkpoint.read(folder.last) for folder in (large, small))
    assert a["steps"] == b["steps"] == 3
    for name, value in a["model"].items():
        torch.testing.assert_close(b["model"][name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scheduler", ["onecycle", "cosine", "constant"])
def test_each_scheduler_sets_the_learning_rate(configure: Configure, scheduler: str) -> None:
    never = "conv.switch.trigger=never"
    rows = _rows(train(configure(f"scheduler={scheduler}", never)))
    rates = [float(row["lr/net"]) for row in rows if row["loader"] == "train"]
    assert (len(set(rates)) == 1) == (scheduler == "constant")


@pytest.mark.parametrize("name", ["engine.precision=bf16", "engine.channels_last=false", "criterion.form=dr"])
def test_other_ways_of_computing_also_train(configure: Configure, name: str) -> None:
    rows = _rows(train(configure(name)))
    assert all(0 < float(row["bpp/forward"]) < 100 for row in rows)


def test_weights_to_start_from(configure: Configure) -> None:
    first = train(configure("conv=plain"))
    config = complete(configure("conv=plain", f"model.checkpoint={first.exported}"))
    net = build.model(config, None)
    exported = torch.load(first.exported, weights_only=True)
    assert all(torch.equal(value, exported[name]) for name, value in net.named_parameters())


def test_a_name_is_a_hash_of_what_is_computed(configure: Configure, tmp_path: Path) -> None:
    one = RunFolder.of(complete(configure("model.quality=3", "criterion.lmbda=null")))
    assert one.id == RunFolder.of(complete(configure("model.quality=3", "criterion.lmbda=0.0067"))).id
    assert one.id == RunFolder.of(complete(configure("logger.tensorboard.images=1", f"paths.runs={tmp_path}"))).id
    assert one.id != RunFolder.of(complete(configure("seed=2"))).id
    assert one.path.name == f"{one.id}-bmshj2018-factorized-rfft-lmbda0.0067-seed1"


def test_a_diverged_run_says_so_and_keeps_its_last_good_epoch(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poison(dl.Callback):
        def on_epoch_start(self, runner: dl.IRunner) -> None:
            if runner.epoch_step == 2:
                runner.net.g_a[0].bias.data[0] = math.nan

    callbacks = build.callbacks
    monkeypatch.setattr(build, "callbacks", lambda config: {**callbacks(config), "poison": Poison(order=1)})
    config = configure("engine.num_epochs=3")
    with pytest.raises(
        UserError, match=r"the train loss of step 4 is nan.*: the run has diverged.*try optimizer.net.lr"
    ):
        train(config)
    folder = RunFolder.of(complete(config))
    assert json.loads(folder.summary.read_text())["status"] == "failed"
    state = checkpoint.read(folder.last)
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_run_does_not_continue_on_other_images(configure: Configure, tmp_path: Path) -> None:
    def pictures(seed: int) -> None:
        for part in ("train", "valid"):
            (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(seed).integers(0, 256, (64, 64 + seed, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / part / "a.png")

    config = configure("dataset=image_folder", f"dataset.root={tmp_path / 'data'}")
    pictures(1)
    folder = train(config)
    pictures(2)
    with pytest.raises(UserError, match="the train and valid and infer images are not those that the run"):
        train(config)
    assert json.loads(folder.environment.read_text())["data"]["train"]["images"] == 1


@pytest.mark.parametrize("source", ["plain", "rfft", "rdft", "attenuated"])
@pytest.mark.parametrize("target", ["plain", "rfft", "attenuated"])
def test_a_run_starts_from_a_checkpoint_of_any_form(configure: Configure, source: str, target: str) -> None:
    def form(name: str) -> tuple[str, ...]:
        return ("conv=plain",) if name == "plain" else (f"conv.transform={name}", "conv.switch.trigger=never")

    short = ("engine.num_epochs=1", "engine.epoch_steps=1", "infer.every_n_epochs=9", "engine.ema_decay=0.5")
    first = train(configure(*short, *form(source)))
    net = build.model(complete(configure(*form(target), f"model.checkpoint={first.last}")), None)
    exported = torch.load(first.exported, weights_only=True)
    assert isinstance(net.g_a[0].weight, torch.Tensor)
    torch.testing.assert_close(net.g_a[0].weight.detach(), exported["g_a.0.weight"], rtol=1e-5, atol=1e-6)
    assert torch.equal(net.g_a[0].bias, exported["g_a.0.bias"])

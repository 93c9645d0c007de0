"""engine.profile: the trace and the summary of a run."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from catalyst import dl
from rdtrain.callbacks import Profile
from rdtrain.callbacks.profile import name_forward_passes, part_of, parts
from torch.profiler import ProfilerActivity, profile

from rdtrain import build, preflight
from rdtrain.config.schema import Config
from rdtrain.models import build_model
from rdtrain.run_folder import RunFolder
from rdtrain.train import train

Configure = Callable[..., Config]


def _names(folder: RunFolder) -> Counter[str]:
    events = json.loads(gzip.decompress((folder.path / "profile" / "trace.json.gz").read_bytes()))["traceEvents"]
    return Counter(event["name"] for event in events if event.get("ph") == "X")


def test_a_run_leaves_a_trace_of_whole_steps_and_says_where_they_went(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("engine.profile=true", "engine.num_epochs=1", "engine.epoch_steps=6", "logger.profile.wait=2")
    folder = train(configure("conv=plain", *words, "logger.profile.steps=3"))
    names = _names(folder)
    assert {part: names[f"forward {part}"] for part in ("g_a", "entropy_bottleneck", "g_s")} == {
        "g_a": 3,
        "entropy_bottleneck": 3,
        "g_s": 3,
    }
    assert names["Optimizer.step#Adam.step"] == 2 * 3  # of the network and of the quantiles
    assert sum(count for name, count in names.items() if name.startswith("enumerate(DataLoader)")) == 3

    text = (folder.path / "profile" / "summary.txt").read_text()
    assert text in capsys.readouterr().out
    assert len(text.splitlines()) <= 40
    whole = float(re.match(r"profile of 3 training steps: ([\d.]+) ms each", text)[1])  # type: ignore[index]
    head = text[: text.index("operations by")]
    shown = {
        name: (float(ms), float(share)) for ms, share, name in re.findall(r" +([\d.]+) ms +([\d.]+) %  (.+)", head)
    }
    assert {"backward", "optimizer steps", "waiting for data", "forward g_a", "forward g_s"} < set(shown)
    assert sum(ms for ms, _ in shown.values()) == pytest.approx(whole, abs=0.2)
    assert sum(share for _, share in shown.values()) == pytest.approx(100, abs=0.6)
    assert min(ms for ms, _ in shown.values()) >= 0
    assert shown["backward"][0] > shown["zeroing of gradients"][0]
    assert [path.name for path in (folder.path / "profile").iterdir() if path.suffix == ".tmp"] == []


def test_without_the_key_nothing_is_recorded(configure: Configure) -> None:
    folder = train(configure("conv=plain", "engine.num_epochs=1"))
    assert not (folder.path / "profile").exists()


def test_a_short_epoch_is_recorded_whole_and_a_failure_ends_the_recording(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fail(dl.Callback):
        def on_batch_end(self, runner: Any) -> None:
            if runner.is_valid_loader:
                raise ArithmeticError
            if failing and runner.loader_batch_step == 2:
                raise ArithmeticError

    failing, make = True, build.callbacks
    monkeypatch.setattr(build, "callbacks", lambda config: {**make(config), "fail": Fail(order=101)})
    config = configure("conv=plain", "engine.profile=true", "engine.num_epochs=1")
    with pytest.raises(ArithmeticError):
        train(config)
    assert not torch.autograd._profiler_enabled()
    failing = False
    with pytest.raises(ArithmeticError):
        train(config)
    (folder,) = RunFolder.of(config).path.parent.iterdir()
    assert _names(RunFolder(folder))["Optimizer.step#Adam.step"] == 2 * 3


def test_nested_parts_count_once() -> None:
    def event(name: str, us: float, parent: Any = None) -> Any:
        return SimpleNamespace(name=name, cpu_time_total=us, cpu_parent=parent)

    outer = event("forward h_s", 1000)
    between = event("aten::conv2d", 600, outer)
    step = event("Optimizer.step#Adam.step", 250)
    events = [outer, between, event("forward inner", 500, between), step, event("Optimizer.step#SGD.step", 150)]
    found = parts(events)
    assert found == {"forward h_s": pytest.approx(1e-3), "optimizer steps": pytest.approx(4e-4)}
    assert part_of("aten::mul") is None and part_of("enumerate(DataLoader)#x.__next__") == "waiting for data"


def test_hooks_of_forward_passes_go_as_they_came() -> None:
    net = build_model("bmshj2018-factorized", {"N": 4, "M": 6}, 0)
    handles = name_forward_passes(net)
    x = torch.rand(1, 3, 64, 64)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        net(x)
    assert "forward g_s" in {event.name for event in recorded.events()}
    for handle in handles:
        handle.remove()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.children())


def test_defaults_are_those_of_the_configuration(configure: Configure) -> None:
    own, made = Profile(), build.callbacks(configure())["profile"]
    assert (own.wait, own.steps) == (made.wait, made.steps)


def test_a_run_that_goes_on_at_an_epochs_end_records_the_next(configure: Configure) -> None:
    """As where all batches of an epoch were done before an interruption: recording begins and sees no step."""
    config = configure("engine.profile=true", "engine.accumulate=2", "engine.compile=true")
    folder = RunFolder.of(config)
    folder.path.mkdir(parents=True)
    runner: Any = SimpleNamespace(config=config, is_train_loader=True, loader_batch_len=2, folder=folder)
    runner.engine = SimpleNamespace(is_main_process=True, device=torch.device("cpu"))
    recorder = Profile(wait=0, steps=2)
    recorder.on_loader_start(runner)
    recorder.on_loader_end(runner)
    assert not torch.autograd._profiler_enabled() and not (folder.path / "profile").exists()
    recorder.on_loader_start(runner)
    for _ in range(2):
        torch.ones(3).sum()
        recorder.on_batch_end(runner)
    text = (folder.path / "profile" / "summary.txt").read_text()
    assert text.startswith("profile of 2 training batches") and "the rest (forward pass, loss, clipping" in text
    assert recorder.done and not torch.autograd._profiler_enabled()


@pytest.mark.parametrize("typed", ["steps=0", "wait=-1"])
def test_impossible_numbers_of_steps_are_told_to_the_user(configure: Configure, typed: str) -> None:
    (told,) = preflight.problems(configure(f"logger.profile.{typed}").to_dict())
    assert told.startswith("logger.profile") and typed in told

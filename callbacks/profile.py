"""Records where the time of a training step goes."""

from __future__ import annotations

import gzip
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from catalyst import dl
from rdtrain.runners import ImageCompressionRunner
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.hooks import RemovableHandle

from rdtrain.files import write_bytes, write_text

_FORWARD = "forward "
# What torch calls the parts of a step: our words, how its names begin.
_PARTS = (
    ("waiting for data", "enumerate(DataLoader)"),
    ("backward", "autograd::engine::evaluate_function"),
    ("optimizer steps", "Optimizer.step#"),
    ("zeroing of gradients", "Optimizer.zero_grad#"),
)
_OPERATIONS = 12  # that the summary names


class Profile(dl.Callback):
    """Observer: with `engine.profile=true`, a trace of some training steps and a summary of where they went.

    Writes `profile/trace.json.gz`, which chrome://tracing and ui.perfetto.dev show, and `profile/summary.txt`, which is
    printed too. The steps are those of the first epoch that this process trains; recording makes them slower, small
    models more than large ones. With `engine.accumulate` above 1 all of this counts batches. In the configuration:

        logger:
          profile:
            _target_: rdtrain.callbacks.Profile
            wait: 5
            steps: 10

    Args:
        wait: steps that are let pass, because first steps are slower; fewer in an epoch that is shorter than both.
        steps: that are recorded.

    Raises:
        ValueError: `wait` is negative, or `steps` below 1.
    """

    def __init__(self, wait: int = 5, steps: int = 10) -> None:
        if wait < 0 or steps < 1:
            raise ValueError(f"wait={wait} and steps={steps}: type at least 0 and at least 1")
        super().__init__(order=99)  # after all others but the summary, so that theirs is part of the step
        self.wait, self.steps = wait, steps
        self.profiler: profile | None = None
        self.done = False

    def on_loader_start(self, runner: ImageCompressionRunner) -> None:
        """Choose the steps.

        Args:
            runner: of this run.
        """
        wanted = runner.config.engine.profile and runner.is_train_loader and runner.engine.is_main_process
        if not wanted or self.done:
            return
        self.left_to_wait = max(0, min(self.wait, runner.loader_batch_len - self.steps))
        self.left = self.steps
        if self.left_to_wait == 0:
            self._begin(runner)

    def on_batch_end(self, runner: ImageCompressionRunner) -> None:
        """Begin or end recording.

        Args:
            runner: of this run.
        """
        if not runner.is_train_loader:
            return
        if self.profiler is not None:
            self.left -= 1
            if self.left == 0:
                self._end(runner)
        elif not self.done and runner.config.engine.profile and runner.engine.is_main_process:
            self.left_to_wait -= 1
            if self.left_to_wait <= 0:
                self._begin(runner)

    def on_loader_end(self, runner: ImageCompressionRunner) -> None:
        """End recording in an epoch that was too short.

        Args:
            runner: of this run.
        """
        if self.profiler is not None:
            self._end(runner)

    def on_exception(self, runner: ImageCompressionRunner) -> None:
        """Leave nothing behind that records.

        Args:
            runner: of this run.
        """
        if self.profiler is not None:
            self._stop()

    def _begin(self, runner: ImageCompressionRunner) -> None:
        # Hooks would break up the graph of a compiled model.
        self.handles = [] if runner.config.engine.compile else name_forward_passes(runner.net)
        on_cuda = runner.engine.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
        self.profiler = profile(activities=activities)
        self.profiler.start()
        self.began = time.perf_counter()

    def _stop(self) -> profile:
        assert self.profiler is not None
        self.profiler.stop()
        for handle in self.handles:
            handle.remove()
        stopped, self.profiler, self.done = self.profiler, None, True
        return stopped

    def _end(self, runner: ImageCompressionRunner) -> None:
        if runner.engine.device.type == "cuda":
            torch.cuda.synchronize(runner.engine.device)
        seconds, steps = time.perf_counter() - self.began, self.steps - self.left
        stopped, folder, engine = self._stop(), runner.folder.path / "profile", runner.config.engine
        if steps == 0:  # a continued run had no batch of this epoch left
            self.done = False
            return
        rest = ("forward pass, " if engine.compile else "") + "loss, clipping, metrics, logging"
        text = summary(stopped, seconds, steps, "steps" if engine.accumulate == 1 else "batches", f"the rest ({rest})")
        folder.mkdir(exist_ok=True)
        _write_trace(stopped, folder / "trace.json.gz")
        write_text(folder / "summary.txt", text)
        print(f"{text}{folder / 'trace.json.gz'}: the whole trace, for ui.perfetto.dev", flush=True)


def name_forward_passes(net: torch.nn.Module) -> list[RemovableHandle]:
    """Let the forward passes of a model's parts appear in a trace under the parts' names.

    Args:
        net: whose direct children are its parts.

    Returns:
        What removes that again.
    """
    handles = []
    for name, part in net.named_children():
        running: list[Any] = []

        def enter(*_: Any, label: str = _FORWARD + name, running: list[Any] = running) -> None:
            running.append(record_function(label))
            running[-1].__enter__()

        def leave(*_: Any, running: list[Any] = running) -> None:
            running.pop().__exit__(None, None, None)

        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    return handles


def summary(recorded: profile, seconds: float, steps: int, unit: str, rest: str) -> str:
    """Say on one screen where the steps went.

    Args:
        recorded: profiler that was stopped.
        seconds: that it recorded.
        steps: in that time.
        unit: what to call them.
        rest: what to call the time in no part.

    Returns:
        Lines: the parts of a step, then the operations that took longest themselves.
    """
    spent = parts(recorded.events())
    spent[rest] = seconds - sum(spent.values())
    lines = [f"profile of {steps} training {unit}: {1000 * seconds / steps:.1f} ms each while recorded"]
    lines += [
        f"{1000 * took / steps:10.2f} ms {100 * took / seconds:5.1f} %  {name}"
        for name, took in sorted(spent.items(), key=lambda item: -item[1])
    ]
    lines.append("operations by the time spent in themselves:")
    operations = [one for one in recorded.key_averages() if not one.key.startswith((_FORWARD, *dict(_PARTS).values()))]
    for one in sorted(operations, key=lambda one: -_self_us(one))[:_OPERATIONS]:
        took = _self_us(one) / 1e6
        calls = one.count / steps
        lines.append(f"{1000 * took / steps:10.2f} ms {100 * took / seconds:5.1f} %  {one.key[:70]} ({calls:g} times)")
    return "\n".join(lines) + "\n"


def parts(events: Iterable[Any]) -> dict[str, float]:
    """Add up the parts of a step.

    Args:
        events: of torch's profiler.

    Returns:
        Seconds on the CPU by part; a part inside another counts as the outer one's.
    """
    spent: dict[str, float] = {}
    for event in events:
        name = part_of(event.name)
        if name is not None and not any(part_of(outer.name) for outer in _around(event)):
            spent[name] = spent.get(name, 0.0) + event.cpu_time_total / 1e6
    return spent


def part_of(name: str) -> str | None:
    """Which part of a step an event is.

    Args:
        name: torch's.

    Returns:
        Our words; None for an event that is no part by itself.
    """
    if name.startswith(_FORWARD):
        return name
    return next((words for words, begins in _PARTS if name.startswith(begins)), None)


def _around(event: Any) -> Iterable[Any]:
    while (event := event.cpu_parent) is not None:
        yield event


def _self_us(one: Any) -> float:
    return float(one.self_device_time_total or one.self_cpu_time_total)


def _write_trace(recorded: profile, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(whole))
        content = gzip.compress(whole.read_bytes())
    write_bytes(path, content)

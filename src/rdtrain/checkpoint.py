"""Everything that a run needs to go on, as tensors and plain containers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdtrain.errors import UserError
from rdtrain.weights import read_file

if TYPE_CHECKING:
    from rdtrain.runners import ImageCompressionRunner

FORMAT = 1
_KEYS = {  # of a checkpoint to continue from; to evaluate one, its weights are enough
    "run_id", "epoch", "within_epoch", "steps", "batch_step", "sample_step", "elapsed_s", "is_last_epoch", "best",
    "final", "switched_at", "warnings", "events", "skipped", "spectral", "conv", "model", "gradients", "ema",
    "optimizer", "scheduler", "callbacks",
}  # fmt: skip


def capture(runner: ImageCompressionRunner, within_epoch: bool = False) -> dict[str, Any]:
    """Collect the state of a run, at the end of an epoch or between two training steps.

    At the end of an epoch no random state is in it: the runner seeds every loader from the seed and the epoch's number.

    Args:
        runner: of the run.
        within_epoch: the epoch goes on; all processes of the run call this together.

    Returns:
        Nested dicts of tensors, numbers and strings; those of the model and the optimizers are the live ones. `epoch`
        counts whole epochs.
    """
    return {
        "format": FORMAT,
        "run_id": runner.folder.id,
        "epoch": runner.epoch_step - within_epoch,
        "within_epoch": runner.place_in_epoch() if within_epoch else None,
        "steps": runner.steps,
        "batch_step": runner.batch_step,
        "sample_step": runner.sample_step,
        "elapsed_s": runner.elapsed_s,
        "is_last_epoch": runner.is_last_epoch and not within_epoch,
        "best": runner.best.state_dict(),
        "final": dict(runner.final),
        "switched_at": runner.switched_at,
        "warnings": list(runner.warnings),
        "events": list(runner.events),
        "skipped": runner.skipped,
        "spectral": runner.is_spectral,
        "conv": runner.config.conv.model_dump(),
        "model": runner.net.state_dict(),
        "gradients": _gradients(runner) if within_epoch else {},
        "ema": None if runner.ema is None else runner.ema.state_dict(),
        "optimizer": {name: optimizer.state_dict() for name, optimizer in runner.optimizer.items()},
        "scheduler": {name: scheduler.state_dict() for name, scheduler in runner.scheduler.items()},
        "callbacks": {name: callback.state_dict() for name, callback in _stateful(runner)},
    }


def restore(runner: ImageCompressionRunner, state: dict[str, Any]) -> None:
    """Put the state back.

    Args:
        runner: of the same configuration; its model already has the checkpoint's conv form.
        state: of `capture`.
    """
    runner.net.load_state_dict(state["model"])
    for name, gradient in state["gradients"].items():
        runner.net.get_parameter(name).grad = gradient.to(runner.engine.device)
    if runner.ema is not None:
        runner.ema.load_state_dict(state["ema"])
    for name, optimizer in runner.optimizer.items():
        optimizer.load_state_dict(state["optimizer"][name])
    for name, scheduler in runner.scheduler.items():
        scheduler.load_state_dict(state["scheduler"][name])
    for name, callback in _stateful(runner):
        callback.load_state_dict(state["callbacks"][name])
    runner.epoch_step, runner.steps = state["epoch"], state["steps"]
    runner.batch_step, runner.sample_step = state["batch_step"], state["sample_step"]
    runner.elapsed_s, runner.final = state["elapsed_s"], state["final"]
    runner.switched_at, runner.warnings = state["switched_at"], state["warnings"]
    runner.events, runner.skipped = state["events"], state["skipped"]
    runner.best.load_state_dict(state["best"])
    runner.within_epoch = state["within_epoch"]
    runner.need_early_stop = runner.is_last_epoch = state["is_last_epoch"]


def _gradients(runner: ImageCompressionRunner) -> dict[str, Any]:
    # The switch measures the optimizer's next step with those of the epoch's last one; nothing else reads them.
    if not (runner.switch_pending and runner.is_last_batch):
        return {}
    return {name: p.grad for name, p in runner.net.named_parameters() if p.grad is not None}


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours; nothing but tensors and plain containers is accepted.

    Args:
        path: `last.pt` or `best.pt`.

    Returns:
        What `capture` collected, on the CPU.

    Raises:
        UserError: the file is damaged, or of another version.
    """
    try:
        state = read_file(path)
        _check_sums(path)
    except Exception as error:  # a damaged directory of the archive leads its reader to raise anything
        raise UserError(f"{path} cannot be read ({error}); {_anew(path)}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of this version of rdtrain; {_anew(path)}")
    return state


def _anew(path: Path) -> str:
    return f"delete {path.parent} to begin the run anew"


def _whole(path: Path) -> dict[str, Any]:
    state = read(path)
    if missing := sorted(_KEYS - state.keys()):
        raise UserError(f"{path} lacks {', '.join(missing)}; {_anew(path)}")
    return state


def _check_sums(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:  # torch.load does not look
            raise zipfile.BadZipFile(f"{damaged} is not what was written")


def newest(last: Path, best: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Read the checkpoint to continue from.

    Args:
        last: the newest checkpoint.
        best: an older one of the same run, used where `last` is damaged.

    Returns:
        Its content, None where there is no checkpoint yet, and a sentence about damage.

    Raises:
        UserError: there are checkpoints, and none of them can be read.
    """
    if not last.exists():
        return None, None
    try:
        return _whole(last), None
    except UserError as error:
        if not best.exists():
            raise
        state = _whole(best)
        return (
            state,
            f"{error.problems[0].split(';')[0]}; the run goes on from {best.name}, after epoch {state['epoch']}",
        )


def _stateful(runner: ImageCompressionRunner) -> list[tuple[str, Any]]:
    return [(name, callback) for name, callback in runner.callbacks.items() if hasattr(callback, "load_state_dict")]

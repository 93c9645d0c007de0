"""What is done about a training that has diverged: the batch is kept, the run goes back and takes smaller steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdtrain import checkpoint
from rdtrain.config.schema import Config
from rdtrain.errors import UserError
from rdtrain.files import write_tensors
from rdtrain.health import Event
from rdtrain.run_folder import RunFolder

MOST_BATCHES = 10  # files of a run; the first ones tell most
_RATES = (  # names in the states of torch's optimizers and schedulers
    "lr", "initial_lr", "max_lr", "min_lr", "swa_lr", "_last_lr", "base_lrs", "max_lrs", "min_lrs", "default_min_lr",
    "eta_min",
)  # fmt: skip
_PARTS = ("model", "ema", "optimizer")  # of a checkpoint: those with numbers that training computed


@dataclass(frozen=True)
class TrainedStep:
    """What is to be known about an optimizer step if its numbers are not finite.

    Args:
        epoch: of the step.
        step: its number, from 1.
        lr: the net's learning rate.
        images: its batches as they were loaded, uint8 (B, 3, H, W).
        terms: terms of the loss of each batch.
        grad_norm: of the net.
    """

    epoch: int
    step: int
    lr: float
    images: list[Tensor]
    terms: list[dict[str, Tensor]]
    grad_norm: Tensor

    def describe(self) -> str:
        """Say what was seen.

        Returns:
            A clause with the numbers.
        """
        losses = ", ".join(f"{float(terms['loss/forward/unclamped']):g}" for terms in self.terms)
        return f"the train loss of step {self.step} is {losses}, the norm of its gradient {float(self.grad_norm):g}"


def save_batch(run: Path, trained: TrainedStep, gradients: Sequence[str], rank: int = 0) -> Path | None:
    """Keep a batch whose step was not finite, to be looked at with `torch.load(..., weights_only=True)`.

    Args:
        run: the run's folder.
        trained: the step.
        gradients: names of parameters whose gradients are not finite; empty where they were gone already.
        rank: of this process; others than the first one have files of their own.

    Returns:
        `health/step-N.pt`; None if the folder has enough.
    """
    path = run / "health" / (f"step-{trained.step}.pt" if rank == 0 else f"step-{trained.step}-rank-{rank}.pt")
    path.parent.mkdir(exist_ok=True)
    if not path.exists() and len(list(path.parent.glob("step-*.pt"))) >= MOST_BATCHES:
        return None
    terms = [{name: float(value) for name, value in terms.items()} for terms in trained.terms]
    content = {"epoch": trained.epoch, "step": trained.step, "lr": trained.lr, "terms": terms}
    images = [x.cpu() for x in trained.images]
    write_tensors(path, {**content, "x": images, "grad_norm": float(trained.grad_norm), "gradients": list(gradients)})
    return path


def lower_rates(state: dict[str, Any], factor: float) -> None:
    """Scale the whole schedule of the net's learning rate: what it is, began with, rises to and falls to.

    Args:
        state: a checkpoint, changed in place.
        factor: of all rates.
    """
    optimizer = state["optimizer"]["net"]
    optimizer["param_groups"] = _scaled(optimizer["param_groups"], factor)
    if "net" in state["scheduler"]:
        state["scheduler"]["net"] = _scaled(state["scheduler"]["net"], factor)


def _scaled(value: Any, factor: float, is_rate: bool = False) -> Any:
    if isinstance(value, dict):
        return {key: _scaled(item, factor, key in _RATES) for key, item in value.items()}
    if isinstance(value, list | tuple):  # of rates, or of groups, or of schedulers that follow each other
        return type(value)(_scaled(item, factor, is_rate) for item in value)
    return value * factor if is_rate and value is not None else value


def is_finite(value: Any) -> bool:
    """Whether a checkpoint's numbers can be trained on.

    Args:
        value: nested containers.

    Returns:
        False if any tensor in it holds NaN or Inf.
    """
    if isinstance(value, Tensor):
        return bool(torch.isfinite(value).all())
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return all(map(is_finite, items))


def lowered_checkpoint(config: Config, folder: RunFolder, epoch: int, step: int, reason: str) -> dict[str, Any]:
    """Make the state that a diverged run goes on from.

    That is `last.pt`; `best.pt` where that one is not finite, or led to the same end before. Rates are lowered once for
    every rollback so far, whichever of the two they come from.

    Args:
        config: of the run.
        folder: of the run.
        epoch: in which it diverged.
        step: optimizer steps until then.
        reason: what was seen.

    Returns:
        A checkpoint that knows of this rollback.

    Raises:
        UserError: the policy is another one, it was tried often enough, or there is nothing to go back to.
    """
    if config.health.on_nan != "rollback":
        raise UserError(f"{reason}: the run has diverged; {advice(config, folder)}")
    newest, _ = checkpoint.newest(folder.last, folder.best)
    if newest is None or newest["is_last_epoch"]:  # what fails after the training is no matter of its rate
        raise UserError(f"{reason}: the run has diverged; {advice(config, folder)}")
    earlier = [event for event in newest["events"] if event["kind"] == "rollback"]
    if len(earlier) >= config.health.retries:
        raise UserError(
            f"{reason}: the run has diverged, after {len(earlier)} rollbacks (health.retries) to lower learning rates "
            f"as well; {advice(config, folder)}"
        )
    state = _good(newest, folder, [event["back_to"] for event in earlier])
    if state is None:
        raise UserError(f"{reason}: the run has diverged, and so have its checkpoints; {advice(config, folder)}")
    known = sum(event["kind"] == "rollback" for event in state["events"])
    lower_rates(state, config.health.lr_factor ** (len(earlier) + 1 - known))
    lr = state["optimizer"]["net"]["param_groups"][0]["lr"]
    done = f"went back to step {state['steps']} with the learning rate {lr:g}"
    event = Event("rollback", epoch, step, reason, done, state["steps"])
    state["events"] = [*newest["events"], event.to_dict()]
    state["warnings"] = [*newest["warnings"], event.sentence]
    return state


def _good(newest: dict[str, Any], folder: RunFolder, tried: Sequence[int]) -> dict[str, Any] | None:
    usable = is_finite([newest[part] for part in _PARTS])
    if usable and newest["steps"] not in tried:
        return newest
    best = checkpoint.read(folder.best) if folder.best.exists() else None
    if best is not None and is_finite([best[part] for part in _PARTS]):
        return best
    return newest if usable else None


def advice(config: Config, folder: RunFolder) -> str:
    """Say what to do about a run that diverges.

    Args:
        config: of the run.
        folder: of the run.

    Returns:
        A clause.
    """
    lr = config.optimizer.net.get("lr")
    lower = "a lower optimizer.net.lr" if lr is None else f"optimizer.net.lr={lr / 10:g}"
    kept = folder.path / "health"
    look = f"; its batches are in {kept}" if kept.exists() else ""
    return f"try {lower} or a smaller engine.clip_grad_norm{look}"

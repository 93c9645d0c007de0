"""Is this run healthy? Decisions only: the runner and `rdtrain.callbacks.Health` feed numbers in and act.

What is watched follows what peers' users report: rates that collapse, auxiliary losses that fall and then climb
(CompressAI issues 148 and 322), losses that are NaN at random (75, 92). The thresholds are a factor of three and more
away from what 12 healthy runs of `experiment=switch_vs_plain` show.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LOWEST_BPP = 0.01
"""Bits per pixel; the lowest published rate of CompressAI's models is about ten times that."""
LARGEST_MSE = 0.25
"""Images in [0, 1]; a grey picture (0.5) is never further from any image."""
EXPLODED = 10.0
"""Valid MSE over the best so far; healthy runs reach 2.3 between two epochs."""
AUX_CLIMBED, AUX_EPOCHS, AUX_NOISE = 2.0, 3, 0.1
"""Auxiliary loss over the lowest so far, for so many epochs in a row, above this share of its first value; healthy
runs reach 1.1, and near zero it jitters."""
SPIKE, SPIKE_WINDOW, SPIKE_FROM = 10.0, 20, 5
"""Mean gradient norm of an epoch over the median of the last epochs; from so many epochs on. Healthy runs reach 2.8."""
DEAD, DEAD_SHARE = 0.01, 0.9
"""A channel is dead below this share of the mean channel's bits. At the lowest published rates most channels are."""

Evidence = TypeVar("Evidence")


class Diverged(Exception):
    """Training cannot go on with these weights; the message says what was seen."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a run's health.

    Args:
        kind: a word, the same for the same trouble.
        epoch: in which it was seen.
        step: optimizer steps until then.
        seen: what, with its numbers.
        advice: what to try, or what was done.
        back_to: step of the checkpoint that the run went back to, None if it did not.
    """

    kind: str
    epoch: int
    step: int
    seen: str
    advice: str
    back_to: int | None = None

    @property
    def sentence(self) -> str:
        """The event as it is printed."""
        return f"epoch {self.epoch}, step {self.step}: {self.seen}; {self.advice}"

    def to_dict(self) -> dict[str, Any]:
        """The event as a checkpoint and summary.json keep it.

        Returns:
            Its fields by name.
        """
        return asdict(self)


class _Rule(Protocol):
    advice: str

    def look(self, metrics: Mapping[str, float]) -> str | None: ...


class _Collapse:
    advice = "hardly anything is sent: let the distortion count more (criterion.lmbda), or try a lower optimizer.net.lr"

    def look(self, metrics: Mapping[str, float]) -> str | None:
        bpp = metrics.get("valid/bpp/forward", math.nan)
        return f"the valid rate is {bpp:.2g} bit/pixel" if bpp < LOWEST_BPP else None


class _Explosion:
    advice = "try a lower optimizer.net.lr or a smaller engine.clip_grad_norm"

    def __init__(self) -> None:
        self.best = math.inf

    def look(self, metrics: Mapping[str, float]) -> str | None:
        mse, best = metrics.get("valid/mse/forward/unclamped", math.nan), self.best
        self.best = min(best, mse) if mse == mse else best
        if mse > best and mse > min(EXPLODED * best, LARGEST_MSE):
            worse = ", more than a grey picture's" if mse > LARGEST_MSE else ""
            return f"the valid MSE is {mse:.3g}, {mse / best:.3g} times the best so far{worse}"
        return None


class _ClimbingAux:
    advice = (
        "the quantiles no longer follow the densities: try a higher optimizer.aux.lr (rdtrain's own bitstreams use "
        "quantiles found by bisection and do not suffer)"
    )

    def __init__(self) -> None:
        self.first = self.lowest = math.inf
        self.high = 0

    def look(self, metrics: Mapping[str, float]) -> str | None:
        aux = metrics.get("train/aux_loss", math.nan)
        if not math.isfinite(aux):
            return None
        self.first = aux if math.isinf(self.first) else self.first
        self.lowest = min(self.lowest, aux)
        climbed = aux > max(AUX_CLIMBED * self.lowest, AUX_NOISE * self.first)
        self.high = self.high + 1 if climbed else 0
        if self.high < AUX_EPOCHS:
            return None
        return f"the auxiliary loss is {aux:.4g}, {aux / self.lowest:.3g} times its lowest, for {self.high} epochs now"


class _Spike:
    advice = "try a lower optimizer.net.lr or a smaller engine.clip_grad_norm, and look for an unusual image"

    def __init__(self) -> None:
        self.norms: list[float] = []

    def look(self, metrics: Mapping[str, float]) -> str | None:
        norm, before = metrics.get("train/grad_norm", math.nan), self.norms
        if not math.isfinite(norm):
            return None
        self.norms = list(deque([*before, norm], SPIKE_WINDOW))
        usual = median(before) if len(before) >= SPIKE_FROM else math.inf
        if norm <= SPIKE * usual:
            return None
        return f"the gradient's mean norm is {norm:.3g}, {norm / usual:.3g} times the median of the epochs before"


class _DeadChannels:
    advice = "the rate does not need them: fewer channels (hp.M) cost less time and memory"

    def look(self, metrics: Mapping[str, float]) -> str | None:
        share = metrics.get("infer/dead/y", math.nan)
        return f"{share:.0%} of the channels of y carry next to no bits" if share > DEAD_SHARE else None


class HealthMonitor:
    """Looks at every epoch's metrics and speaks once of each kind of trouble: collapse, explosion, aux, spike, dead."""

    def __init__(self) -> None:
        self.warned: list[str] = []
        self.rules: dict[str, _Rule] = {
            "collapse": _Collapse(),
            "explosion": _Explosion(),
            "aux": _ClimbingAux(),
            "spike": _Spike(),
            "dead": _DeadChannels(),
        }

    def update(self, epoch: int, step: int, metrics: Mapping[str, float]) -> list[Event]:
        """Look at one more epoch.

        Args:
            epoch: 1-based.
            step: optimizer steps so far.
            metrics: by `<loader>/<metric>`, and `infer/dead/y` of `dead_share`; what was not measured is left out.

        Returns:
            What is new.
        """
        seen = {kind: rule.look(metrics) for kind, rule in self.rules.items()}
        events = [
            Event(kind, epoch, step, what, self.rules[kind].advice)
            for kind, what in seen.items()
            if what is not None and kind not in self.warned
        ]
        self.warned += [event.kind for event in events]
        return events

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns:
            Plain numbers and words.
        """
        return {"warned": list(self.warned), "rules": {kind: dict(vars(rule)) for kind, rule in self.rules.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Args:
            state: of `state_dict`.
        """
        self.warned = list(state["warned"])
        for kind, rule in self.rules.items():
            vars(rule).update(state["rules"][kind])


def dead_share(bits: NDArray[Any]) -> float:
    """Find how many channels carry next to nothing.

    Args:
        bits: of each channel, (C,), of one image or a mean over several.

    Returns:
        The share of channels with less than `DEAD` of the mean channel's bits.
    """
    return float(np.mean(bits < DEAD * bits.mean()))


def nonfinite_gradients(named_parameters: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Find where a gradient went wrong.

    Args:
        named_parameters: of a model after its backward pass.

    Returns:
        Names of the parameters whose gradient holds NaN or Inf.
    """
    return [name for name, p in named_parameters if p.grad is not None and not bool(torch.isfinite(p.grad).all())]


class StepGuard(Generic[Evidence]):
    """Says of every training step whether its numbers are finite.

    Args:
        late: say so of a step when the next one is looked at, so that the host does not wait for the device; until
            then the weights may have taken a step that is not finite, and `settle` has to be asked before they are
            written anywhere.
    """

    def __init__(self, late: bool) -> None:
        self.late = late
        self._flag: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._evidence: Evidence | None = None

    def look(self, number: Tensor, evidence: Evidence) -> Evidence | None:
        """Look at one more step.

        Args:
            number: that is finite if the step is, of shape ().
            evidence: what is to be known about the step if it is not.

        Returns:
            The evidence of a step that is not finite: this one, with `late` the one before; None if all is well.
        """
        if not self.late:
            return None if math.isfinite(number) else evidence
        failed = self.settle()
        # To the CPU without waiting, torch copies into pinned memory, which may be read when the event has passed.
        self._flag, self._evidence = torch.isfinite(number).to("cpu", non_blocking=True), evidence
        if number.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        return failed

    def settle(self) -> Evidence | None:
        """Ask about the step that is still open, and wait for the answer.

        Returns:
            Its evidence if it was not finite.
        """
        flag, evidence, self._flag, self._evidence = self._flag, self._evidence, None, None
        if flag is None:
            return None
        if self._copied is not None:
            self._copied.synchronize()
        return None if bool(flag) else evidence

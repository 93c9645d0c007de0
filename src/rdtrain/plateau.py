"""When to switch: the rule of torch's ReduceLROnPlateau, asked without side effects before the scheduler steps.

The private `_is_better` and `_reset` of torch's lr_scheduler.py (2.14) are relied on; the tests compare with stock
schedulers on random sequences, so a torch that changes the rule is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from rdtrain.config.schema import Switch
from rdtrain.errors import UserError


def bad_epochs_left(scheduler: ReduceLROnPlateau, metric: float) -> int:
    """How many more bad epochs there would be before a drop.

    Args:
        scheduler: as it is before this epoch's step; not changed.
        metric: this epoch's metric. NaN counts as bad.

    Returns:
        0 if `scheduler.step(metric)` now would be the drop, n if it would come with the n-th bad epoch after this one.
    """
    if scheduler.in_cooldown:
        return scheduler.cooldown_counter + scheduler.patience
    better = scheduler._is_better(float(metric), scheduler.best)
    return scheduler.patience + 1 - (0 if better else scheduler.num_bad_epochs + 1)


def would_lower(scheduler: ReduceLROnPlateau) -> bool:
    """Whether a drop would change anything: some group's learning rate falls by more than the scheduler's `eps`.

    Args:
        scheduler: not changed.

    Returns:
        false if every group is at its `min_lr` or so small that torch leaves it.
    """
    groups = scheduler.optimizer.param_groups
    floors = scheduler.min_lrs
    if len(floors) != len(groups) and scheduler.default_min_lr is not None:
        floors = [scheduler.default_min_lr] * len(groups)
    rates = [float(group["lr"]) for group in groups]
    return any(
        rate - max(rate * scheduler.factor, floor) > scheduler.eps for rate, floor in zip(rates, floors, strict=True)
    )


def would_drop(scheduler: ReduceLROnPlateau, metric: float) -> bool:
    """Whether `scheduler.step(metric)` would now lower a learning rate.

    Args:
        scheduler: as it is before this epoch's step; not changed.
        metric: this epoch's metric.

    Returns:
        true if it would. A scheduler at its minimum drops nothing.
    """
    return bad_epochs_left(scheduler, metric) == 0 and would_lower(scheduler)


def restart(scheduler: ReduceLROnPlateau, metric: float) -> None:
    """Takes the place of this epoch's `scheduler.step(metric)`: a fresh scheduler that has seen it, at the same lr.

    Args:
        scheduler: changed; it keeps its options, and its count of epochs goes on.
        metric: this epoch's metric, the new best unless it is NaN or worse than all.
    """
    scheduler._reset()
    if scheduler._is_better(float(metric), scheduler.best):
        scheduler.best = float(metric)
    else:
        scheduler.num_bad_epochs = 1
    scheduler.last_epoch += 1


class SwitchDecision:
    """Decides at the end of each epoch, before the scheduler steps, whether to switch now; says yes at most once.

    Args:
        settings: `conv.switch.*`, checked by `rdtrain.config.check`: `trigger` is `plateau` (the scheduler would drop,
            or `lead` bad epochs before that), `epoch` (`at` epochs are finished) or `never`.
    """

    def __init__(self, settings: Switch) -> None:
        self.settings = settings
        self.epoch: int | None = None

    def check(self, scheduler: LRScheduler | None) -> None:
        """Refuses a scheduler that this trigger cannot follow; to be called before training starts.

        Args:
            scheduler: the network's scheduler, or None.

        Raises:
            UserError: `plateau` with another scheduler, or a lead that is longer than its patience.
        """
        if self.settings.trigger != "plateau":
            return
        if not isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(
                f"conv.switch.trigger=plateau needs ReduceLROnPlateau, the scheduler is {type(scheduler).__name__}: "
                "type scheduler=plateau, or conv.switch.trigger=epoch conv.switch.at=N, or conv.switch.trigger=never"
            )
        lead = self.settings.lead
        if lead > scheduler.patience:
            raise UserError(
                f"conv.switch.lead={lead} exceeds the scheduler's patience: type at most {scheduler.patience}"
            )

    def decide(self, epoch: int, metric: float, scheduler: LRScheduler | None) -> bool:
        """Whether to switch now.

        Args:
            epoch: how many epochs are finished, this one included.
            metric: what the scheduler will be given.
            scheduler: as it is before this epoch's step; not changed.

        Returns:
            true at one epoch at most; `self.epoch` then holds it.
        """
        if self.epoch is None and self._due(epoch, metric, scheduler):
            self.epoch = epoch
            return True
        return False

    def _due(self, epoch: int, metric: float, scheduler: LRScheduler | None) -> bool:
        if self.settings.trigger == "plateau":
            self.check(scheduler)
            plateau = cast(ReduceLROnPlateau, scheduler)
            return bad_epochs_left(plateau, metric) <= self.settings.lead and would_lower(plateau)
        return self.settings.trigger == "epoch" and epoch >= cast(int, self.settings.at)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs.

        Returns:
            the epoch of the switch, or None.
        """
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict`.

        Args:
            state: what `state_dict` returned.
        """
        self.epoch = state["epoch"]

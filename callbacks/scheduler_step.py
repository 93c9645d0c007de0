"""Steps the schedulers."""

from __future__ import annotations

from catalyst import dl
from rdtrain.runners import ImageCompressionRunner
from torch.optim.lr_scheduler import ReduceLROnPlateau


class SchedulerStep(dl.Callback):
    """Algorithm: steps every scheduler once an epoch, or once an optimizer step (`scheduler.interval`).

    ReduceLROnPlateau is given the monitored value (`runner.monitor`). In the configuration:

        callbacks:
          scheduler:
            _target_: rdtrain.callbacks.SchedulerStep
    """

    def __init__(self) -> None:
        super().__init__(order=50)

    def on_batch_end(self, runner: ImageCompressionRunner) -> None:
        """Step schedulers of interval `step` after an optimizer step.

        Args:
            runner: of this run.
        """
        if runner.is_train_loader and runner.stepped and runner.config.scheduler.interval == "step":
            for scheduler in runner.scheduler.values():
                scheduler.step()

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Step schedulers of interval `epoch`.

        Args:
            runner: of this run.
        """
        if runner.config.scheduler.interval == "step":
            return
        for name, scheduler in runner.scheduler.items():
            if name == "net" and runner.drop_absorbed:
                continue  # the switch took the place of this step
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(runner.monitored)
            else:
                scheduler.step()

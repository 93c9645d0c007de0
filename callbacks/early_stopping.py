"""Ends a run that no longer improves."""

from __future__ import annotations

from typing import Any

from catalyst import dl
from rdtrain.runners import ImageCompressionRunner

from rdtrain.early_stop import EarlyStopChecker


class EarlyStopping(dl.Callback):
    """Algorithm: stops after `patience` epochs in which the monitored value did not improve.

    It decides when the monitored loader ends, so that the last epoch still infers; it waits for a switch of convs that
    is still to come, and starts anew after it. In the configuration:

        callbacks:
          early_stopping:
            _target_: rdtrain.callbacks.EarlyStopping
            patience: 21
            threshold: 1e-4

    Args:
        patience: epochs without an improvement that are let pass.
        threshold: smallest relative improvement that counts.
    """

    def __init__(self, patience: int = 21, threshold: float = 1e-4) -> None:
        super().__init__(order=55)
        self.checker = EarlyStopChecker(patience, threshold)

    def on_loader_end(self, runner: ImageCompressionRunner) -> None:
        """Decide whether this is the last epoch.

        Args:
            runner: of this run.
        """
        if runner.loader_key == runner.monitor_loader:
            stop = self.checker.check(runner.loader_metrics[runner.monitor_metric])
            runner.is_last_epoch = runner.is_last_epoch or (stop and not runner.switch_pending)

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """End the run after its last epoch; start anew after the switch.

        Args:
            runner: of this run.
        """
        if runner.switched_at is not None and runner.switched_at["epoch"] == runner.epoch_step:
            self.checker.restart()
            self.checker.check(runner.monitored)
        runner.need_early_stop = runner.is_last_epoch

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns:
            The checker's state.
        """
        return self.checker.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Args:
            state: of `state_dict`.
        """
        self.checker.load_state_dict(state)

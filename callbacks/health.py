"""Warns of what goes wrong in a training."""

from __future__ import annotations

from typing import Any

from catalyst import dl
from rdtrain.runners import ImageCompressionRunner

from rdtrain.health import HealthMonitor, dead_share
from rdtrain.latents import mean_channel_bpp


class Health(dl.Callback):
    """Observer: says once of each kind of trouble what was seen and what to try; see `rdtrain.health`.

    It prints, and adds to `warnings` and `events` of summary.json; TensorBoard shows the text `health/<kind>`. What is
    done about NaN is set by `health.on_nan`, with or without this callback. In the configuration:

        callbacks:
          health:
            _target_: rdtrain.callbacks.Health
    """

    def __init__(self) -> None:
        super().__init__(order=72)
        self.monitor = HealthMonitor()

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Look at the epoch's metrics.

        Args:
            runner: of this run.
        """
        measured = runner.measured()
        metrics = {f"{loader}/{name}": value for loader, values in measured.items() for name, value in values.items()}
        if "infer" in measured and runner.shown:
            bpp = mean_channel_bpp(runner.shown)
            metrics |= {f"infer/dead/{name}": dead_share(values) for name, values in bpp.items()}
        for event in self.monitor.update(runner.epoch_step, runner.steps, metrics):
            runner.note(event)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns:
            The monitor's state.
        """
        return self.monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Args:
            state: of `state_dict`.
        """
        self.monitor.load_state_dict(state)

"""Turns all spectral convs plain when the first drop of the learning rate would occur."""

from __future__ import annotations

from typing import Any

from catalyst import dl
from rdtrain.runners import ImageCompressionRunner

from rdtrain.conv.convert import lost_share
from rdtrain.conv.moments import ShadowMoments
from rdtrain.conv.optimizers import update_norm
from rdtrain.models import make_model
from rdtrain.plateau import SwitchDecision, restart


class SpectralSwitch(dl.Callback):
    """Algorithm: makes all convs plain at the end of the epoch that `conv.switch.*` says, once.

    With `conv.switch.trigger=plateau` that is the epoch in which an untouched ReduceLROnPlateau would make its first
    drop; the drop is absorbed, and the scheduler goes on as a fresh one that has seen this epoch's value, or it happens
    as well (`conv.switch.on_drop=apply`). The model's function, the optimizer object and its parameters' order stay.

    It logs `conv/spectral` (1, then 0), a text in TensorBoard, and `switch` in summary.json. In the configuration:

        callbacks:
          switch:
            _target_: rdtrain.callbacks.SpectralSwitch
    """

    def __init__(self) -> None:
        super().__init__(order=45)
        self.shadow: ShadowMoments | None = None

    def on_experiment_start(self, runner: ImageCompressionRunner) -> None:
        """Get ready for the run's conv form.

        Args:
            runner: of this run.
        """
        settings = runner.config.conv.switch
        self.decision = SwitchDecision(settings)
        if not runner.is_spectral:
            return
        if runner.resume_from is None:
            _warn_of_lost_kernels(runner)
        self.decision.check(runner.scheduler.get("net"))
        runner.switch_pending = settings.trigger != "never"
        if runner.switch_pending and settings.moments == "shadow":
            self.shadow = ShadowMoments(runner.net, runner.optimizer["net"])

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Decide, before the scheduler steps, and switch.

        Args:
            runner: of this run.
        """
        if not runner.switch_pending:
            return
        scheduler, settings = runner.scheduler.get("net"), runner.config.conv.switch
        if not self.decision.decide(runner.epoch_step, runner.monitored, scheduler):
            return
        before = update_norm(runner.net, runner.optimizer["net"])
        converted = runner.become_plain(settings.moments, self.shadow)
        self.shadow = None
        after = update_norm(runner.net, runner.optimizer["net"], [layer.name for layer in converted])
        runner.switched_at = {
            "epoch": runner.epoch_step,
            "step": runner.steps,
            "convs": len(converted),
            "loss": runner.monitored,
            "lr": runner.optimizer["net"].param_groups[0]["lr"],
            "update_norm_before": before,
            "update_norm_after": after,
        }
        if settings.trigger == "plateau" and settings.on_drop == "absorb":
            restart(scheduler, runner.monitored)
            runner.drop_absorbed = True
        if runner.engine.is_main_process:
            print(f"switch: {len(converted)} convs became plain after epoch {runner.epoch_step}, step {runner.steps}")

    def on_experiment_end(self, runner: ImageCompressionRunner) -> None:
        """Say so if the switch never came.

        Args:
            runner: of this run.
        """
        if runner.switch_pending:
            trigger = runner.config.conv.switch.trigger
            _warn(runner, f"the run ended before its switch (trigger={trigger}); its convs are exported plain")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns:
            The decision, and the tracked moments where there are any.
        """
        shadow = None if self.shadow is None else self.shadow.state_dict()
        return {"decision": self.decision.state_dict(), "shadow": shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Args:
            state: of `state_dict`.
        """
        self.decision.load_state_dict(state["decision"])
        if self.shadow is not None:
            self.shadow.load_state_dict(state["shadow"])


def _warn_of_lost_kernels(runner: ImageCompressionRunner) -> None:
    config = runner.config
    if config.model.checkpoint is None or config.conv.transform != "dct" or config.conv.dct.coefficients is None:
        return
    lost = lost_share(runner.net, make_model(config, spectral=False, start_from=config.model.checkpoint))
    if lost > 0:
        _warn(
            runner,
            f"the kernels of model.checkpoint lost {lost:.1%} of their norm, since conv.dct.coefficients="
            f"{config.conv.dct.coefficients} keeps no more of them; to start from all of them type "
            "conv.dct.coefficients=null",
        )


def _warn(runner: ImageCompressionRunner, warning: str) -> None:
    runner.warnings.append(warning)
    if runner.engine.is_main_process:
        print(warning)

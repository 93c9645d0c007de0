"""One fit, from a configuration to a finished run folder. Reads from top to bottom."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import torch
from catalyst import dl
from pydantic import ValidationError
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from rdtrain.config.targets import make
from rdtrain.data.decode import probe_image
from rdtrain.data.photos import find_photos
from rdtrain.data.scan import fingerprint
from rdtrain.engine import Engine
from rdtrain.errors import UserError
from rdtrain.experiment import Record, folder_of, run_experiment, write_table
from rdtrain.kernels import figures, results
from rdtrain.kernels.arms import Arm, make_arms
from rdtrain.kernels.bank import KernelBank, relative_error
from rdtrain.kernels.checks import find_problems, optimizer_problems
from rdtrain.kernels.draws import convolutions
from rdtrain.kernels.inputs import Stream, drawer, make_loader
from rdtrain.kernels.measures import frequency_error
from rdtrain.kernels.ranking import DIVERGED, standing_rows, standings
from rdtrain.kernels.schema import Config
from rdtrain.kernels.targets import Target, make_target
from rdtrain.report.figures import save_png
from rdtrain.run_folder import RunFolder
from rdtrain.runners.kernel_fitting import KernelFittingRunner


def problems(raw: dict[str, Any]) -> list[str]:
    """What is wrong beyond the types of the keys.

    Args:
        raw: composed configuration as plain containers.

    Returns:
        One sentence for every mistake; none where the types are wrong, which the schema tells.
    """
    try:
        return find_problems(Config.model_validate(raw))
    except ValidationError:
        return []


def planned(config: Config) -> tuple[Config, RunFolder]:
    """What a fit is called before it begins.

    Args:
        config: without mistakes.

    Returns:
        The same, and where the run will lie.

    Raises:
        UserError: there is no such optimizer or target.
    """
    if mistakes := optimizer_problems(config):
        raise UserError(mistakes)
    target = make_target(config.target, config.seed, config.fit.draws)
    return config, folder_of(config, slug(config, target), what_is_read(config, target))


def run(config: Config, overrides: Sequence[str] = ()) -> RunFolder:
    """Fit kernels, or leave alone what is finished.

    Args:
        config: of the fit.
        overrides: what the user typed, for the record.

    Returns:
        The run's folder.

    Raises:
        UserError: the configuration has a mistake.
    """
    if mistakes := find_problems(config):
        raise UserError(mistakes)
    targets = [make_target(config.target, seed, config.fit.draws) for seed in config.seeds]
    weights = torch.stack([target.weight for target in targets])
    return run_experiment(
        config,
        slug(config, targets[0]),
        overrides,
        what_is_read(config, targets[0]),
        lambda record, engine, writer: _fit(config, targets[0], weights, record, engine, writer),
    )


def what_is_read(config: Config, target: Target) -> dict[str, Any]:
    """What a fit takes from files.

    Args:
        config: of the fit.
        target: what is learned.

    Returns:
        Fingerprints of a trained target's kernels and of the photographs that are looked at.
    """
    found: dict[str, Any] = {}
    if config.target.name == "trained":
        found["target"] = hashlib.sha256(target.weight.numpy().tobytes()).hexdigest()
    if config.inputs.name == "images":
        found["inputs"] = fingerprint(map(probe_image, find_photos().train))
    return found


def slug(config: Config, target: Target) -> str:
    """What a person wants to read in a folder's name.

    Args:
        config: of the fit.
        target: what is learned.

    Returns:
        Such as `edge-pink-adam-lr0.001-seed1`.
    """
    name = f"{target.label}-{config.inputs.name}-{config.fit.optimizer}-lr{config.optimizer['lr']}-seed{config.seed}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def _fit(
    config: Config, target: Target, weights: torch.Tensor, record: Record, engine: Engine, writer: SummaryWriter
) -> None:
    fit, inputs = config.fit, config.inputs
    arms = make_arms(config, (weights.shape[-2], weights.shape[-1]))
    size = tuple(target.weight.shape)
    drawn = [convolutions(size, seed, fit.draws) for seed in config.seeds]
    initial = torch.stack([begun.weight for begun, _ in drawn])
    biases = (torch.stack([begun.bias for begun, _ in drawn]), torch.stack([wanted.bias for _, wanted in drawn]))
    geometry = (target.groups, inputs.padding, inputs.padding_mode, inputs.crop)
    bank = KernelBank(arms, initial, weights, *geometry, biases if fit.bias else None)
    shape = (inputs.batch, target.in_channels, inputs.size, inputs.size)
    stream = Stream(drawer(inputs.name), shape, config.seeds, fit.epoch_steps, fit.draws)
    names = [arm.name for arm in arms]
    runner = KernelFittingRunner(names, config.seeds, fit.tolerance)
    runner.train(
        engine=engine,
        model=bank,
        optimizer=make_optimizer(config, arms, bank),
        loaders={"train": make_loader(stream)},
        callbacks={"log": FitLog(record, writer)},
        seed=config.seed,
        num_epochs=fit.steps // fit.epoch_steps,
    )
    record.final = {f"train/{name}": value for name, value in runner.epoch_metrics["train"].items()}
    found = results.collect(config, target.label, arms, bank, runner.last_losses.cpu(), runner.reached.numbers())
    write_table(results.file_of(record.folder.path), results.as_rows(found))
    judged = standings(found)
    record.table("arms", standing_rows(judged))
    if lost := [one.arm for one in judged if one.largest >= DIVERGED]:
        record.warn(f"{', '.join(lost)} diverged in a repetition; type a smaller optimizers.{config.fit.optimizer}.lr")
    _draw(config, target, record, names, bank)


def make_optimizer(config: Config, arms: Sequence[Arm], bank: KernelBank) -> Optimizer:
    """One optimizer for everyone, each arm with its own learning rate.

    Args:
        config: names the optimizer.
        arms: of the bank.
        bank: with the parameters.

    Returns:
        The optimizer, a parameter group an arm.
    """
    lr = float(config.optimizer["lr"])
    groups = [{"params": bank.learned(index), "lr": lr * arm.lr_factor} for index, arm in enumerate(arms)]
    return make(config.optimizer, groups)


@torch.no_grad()
def _draw(config: Config, target: Target, record: Record, names: list[str], bank: KernelBank) -> None:
    steps, traces = results.read_traces(record.folder.metrics)
    title = figures.title(config, target)
    errors = frequency_error(bank.gap(), bank.targets).mean(dim=1).cpu().numpy()
    plots = [
        figures.curves("curves", title, steps, traces),
        figures.frequency_maps("frequencies", title, dict(zip(names, errors, strict=True))),
    ]
    for plot in plots:
        save_png(plot.figure, record.folder.figures / f"{plot.name}.png")


class FitLog(dl.Callback):
    """Observer: a row of `metrics.csv` and points in TensorBoard after every epoch; part of every fit.

    Args:
        record: of the run.
        writer: of its event file.
    """

    def __init__(self, record: Record, writer: SummaryWriter) -> None:
        super().__init__(order=70)
        self.record, self.writer = record, writer

    @torch.no_grad()
    def on_experiment_start(self, runner: KernelFittingRunner) -> None:
        """Write down where everyone begins.

        Args:
            runner: of this fit.
        """
        errors = relative_error(runner.bank.gap(), runner.bank.targets)
        self.record.log(self.writer, 0, "train", runner.named("kernel_error", errors))

    def on_epoch_end(self, runner: KernelFittingRunner) -> None:
        """Write down the epoch's numbers.

        Args:
            runner: of this fit.
        """
        self.record.steps = runner.steps
        self.record.log(self.writer, runner.epoch_step, "train", runner.epoch_metrics["train"])

"""From what a user names (a run, one of its checkpoints, somebody's .pth) to a model that can be evaluated."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from compressai.models import CompressionModel
from compressai.zoo.pretrained import load_pretrained

from rdtrain.coding.classes import use_coder
from rdtrain.coding.context import WAVEFRONT, use_coding_order
from rdtrain.config.check import check
from rdtrain.config.compose import completed
from rdtrain.config.nearest import suggestion
from rdtrain.config.schema import Config
from rdtrain.errors import UserError
from rdtrain.evaluation import evaluation_copy
from rdtrain.export import judged_model
from rdtrain.losses import RateDistortionLoss
from rdtrain.models import complete, image_models, load_weights, make_model, read_weights
from rdtrain.probes import LatentOverflow
from rdtrain.run_folder import RunFolder

_TABLES = ("_quantized_cdf", "_cdf_length", "_offset", "scale_table")
_COMPUTED = (*_TABLES, "quantiles")  # an evaluation computes these from the other tensors
_MISFIT = (RuntimeError, KeyError, AttributeError, TypeError, ValueError, IndexError)


@dataclass(frozen=True)
class Subject:
    """A model to be evaluated.

    Args:
        source: the file that the weights came from.
        name: in CompressAI's registry.
        model: plain, with tables, on the CPU: an `evaluation_copy`.
        criterion: the loss of its training; None for a stock model, whose lambda no file tells. See `with_criterion`.
        run: the run that it belongs to, if any.
        training: the loss of the run's training, whatever the criterion is.
    """

    source: Path
    name: str
    model: Any
    criterion: RateDistortionLoss | None = None
    run: RunFolder | None = None
    training: RateDistortionLoss | None = None

    @property
    def is_default(self) -> bool:
        """Whether it is the checkpoint that naming the run would give."""
        return self.run is not None and self.source == _checkpoint(self.run)


@dataclass(frozen=True)
class Identity:
    """What a bitstream must have in common with the model that decodes it.

    Args:
        weights: 32 hexadecimal digits over the trained tensors.
        tables: the same over the coder's tables, which are computed from them and may differ between machines.
    """

    weights: str
    tables: str


def identity(model: torch.nn.Module) -> Identity:
    """Hash a model.

    Args:
        model: an `evaluation_copy`.

    Returns:
        sha256, cut to 128 bits, over names, types, shapes and bytes of its tensors.
    """
    tensors = model.state_dict()
    weights = {name: value for name, value in tensors.items() if not name.endswith(_COMPUTED)}
    tables = {name: value for name, value in tensors.items() if name.endswith(_TABLES)}
    return Identity(_hash(weights), _hash(tables))


def _hash(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def load_subject(source: Path, model_name: str | None, key: str = "--model ") -> Subject:
    """Find and load a model.

    Args:
        source: a run folder (its best checkpoint, else its last), a file in a run folder, or any state dict of a
            CompressAI model.
        model_name: registry name, for the last kind.
        key: under which the name is typed, for the error.

    Returns:
        The model.

    Raises:
        UserError: there is no model there, or the file is not one of this model.
    """
    if model_name is not None and model_name not in (models := image_models()):
        raise UserError(f"{key}{model_name}: there is no such image model; {suggestion(model_name, models)}")
    if not source.exists():
        raise UserError(f"{source} does not exist; give a run folder, a checkpoint or a .pth file of CompressAI")
    source = source.resolve()
    run = RunFolder(source if source.is_dir() else source.parent.parent)
    try:
        if run.config.is_file():
            return _of_run(run, _checkpoint(run) if source.is_dir() else source)
        if source.is_dir():
            raise UserError(f"{source} is no run folder (it has no config.yaml); give the folder of one run")
        return Subject(source, *_stock(source, model_name, key))
    except LatentOverflow as error:
        raise UserError(f"{source}: {error}") from error


def check_name(subject: Subject, model_name: str | None, key: str) -> None:
    """Refuse a name that is not that of a run's model, where no other model is asked for.

    Args:
        subject: the model.
        model_name: as it was typed, if it was.
        key: under which it was typed, such as `--model `.

    Raises:
        UserError: it is another one.
    """
    if subject.run is not None and model_name not in (None, subject.name):
        raise UserError(f"{key}{model_name}: {subject.run.path} is a run of {subject.name}; leave it out")


def with_criterion(subject: Subject, lmbda: float | None, metric: str | None) -> Subject:
    """Judge a model by another loss than that of its training, or by any where none is known.

    Args:
        subject: the model.
        lmbda: weight of the loss; None to change nothing.
        metric: `mse` or `ms-ssim`; None for that of the training, else mse.

    Returns:
        The model with its criterion.
    """
    if lmbda is None:
        return subject
    known = subject.criterion or RateDistortionLoss(lmbda)
    return replace(subject, criterion=RateDistortionLoss(lmbda, metric or known.metric, known.form, known.reduction))


def _checkpoint(run: RunFolder) -> Path:
    return run.best if run.best.is_file() else run.last


def _of_run(run: RunFolder, file: Path) -> Subject:
    if not file.is_file():
        raise UserError(f"{run.path} has no checkpoint yet; let the run finish an epoch")
    config = _config(run)
    try:
        if file == run.exported:
            model = make_model(config, spectral=False)
            load_weights(model, *read_weights(file, str(file)))
        else:
            model = judged_model(config, file)
    except _MISFIT as error:
        raise UserError(f"{file} does not fit {run.config}: {str(error).splitlines()[0]}") from error
    criterion = RateDistortionLoss(**config.criterion.model_dump())
    return Subject(file, config.model.name, evaluation_copy(model), criterion, run, criterion)


def _config(run: RunFolder) -> Config:
    try:
        raw = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise UserError(f"{run.config} cannot be read: {str(error).splitlines()[0]}") from error
    config, problems = check(completed(raw) if isinstance(raw, dict) else raw)
    if config is None:
        raise UserError([f"{run.config}: {problem}" for problem in problems])
    return complete(config)


def _stock(file: Path, name: str | None, key: str) -> tuple[str, CompressionModel]:
    if name is None:
        raise UserError(f"{file} is in no run folder, so its model is unknown; type {key}NAME, such as mbt2018-mean")
    weights, transform = read_weights(file, str(file))
    if transform is not None:
        raise UserError(f"{file}: its kernels are spectral; evaluate it inside its run's folder, or export/model.pth")
    try:
        model = image_models()[name].from_state_dict(load_pretrained(weights))
    except _MISFIT as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{file}: these are not weights of {key}{name}: {reason}") from error
    use_coder(model, "auto")
    use_coding_order(model, WAVEFRONT)
    return name, evaluation_copy(model)

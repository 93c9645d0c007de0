"""Trained weights as stock CompressAI wants them, and as safetensors, which cannot hold code."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from compressai.models import CompressionModel
from safetensors.torch import save

from rdtrain import checkpoint
from rdtrain.config.schema import Config
from rdtrain.errors import UserError
from rdtrain.evaluation import evaluation_copy
from rdtrain.files import write_bytes, write_tensors
from rdtrain.models import judged_weights, load_weights, make_model, read_weights
from rdtrain.weights import SAFETENSORS


def judged_model(config: Config, path: Path) -> CompressionModel:
    """The model that a checkpoint of ours was judged by.

    Args:
        config: of the run.
        path: `last.pt`, `best.pt` or the exported `model.safetensors`.

    Returns:
        The moving average where there is one, else the trained weights, in the file's conv form; on the CPU.

    Raises:
        UserError: the file is no such thing, or of another model.
    """
    if path.suffix == SAFETENSORS:
        model = make_model(config, spectral=False)
        load_weights(model, *read_weights(path))
        return model
    state = checkpoint.read(path)
    try:
        model = make_model(config, state["spectral"])
        model.load_state_dict(judged_weights(state))
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path}: these are not weights of this run's model: {reason}") from error
    return model


def export_model(config: Config, checkpoint_path: Path, path: Path) -> None:
    """Write weights with plain convs and up-to-date probability tables, twice.

    The safetensors file beside `path` holds the same tensors; its metadata say what they belong to.

    Args:
        config: of the run.
        checkpoint_path: whose weights.
        path: the file; `FactorizedPrior.from_state_dict(torch.load(path))` and its siblings read it.
    """
    state = evaluation_copy(judged_model(config, checkpoint_path)).state_dict()
    tensors = {name: value.contiguous() for name, value in state.items()}
    write_tensors(path, tensors)
    whole = save(tensors, metadata(config))
    write_bytes(path.with_suffix(SAFETENSORS), whole)


def metadata(config: Config) -> dict[str, str]:
    """What a file of weights says about them.

    Args:
        config: completed.

    Returns:
        Version of rdtrain, the model and its arguments (such as N and M), and the loss of the training.
    """
    loss = config.criterion
    return {
        "format": "pt",
        "rdtrain": version("rdtrain"),
        "model": config.model.name,
        "hp": json.dumps(config.hp),
        "lmbda": json.dumps(loss.lmbda),
        "metric": loss.metric,
    }

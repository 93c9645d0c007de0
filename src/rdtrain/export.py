"""Trained weights as stock CompressAI wants them."""

from __future__ import annotations

from pathlib import Path

from compressai.models import CompressionModel

from rdtrain import checkpoint
from rdtrain.config.schema import Config
from rdtrain.evaluation import evaluation_copy
from rdtrain.files import write_tensors
from rdtrain.models import judged_weights, make_model


def judged_model(config: Config, path: Path) -> CompressionModel:
    """The model that a checkpoint of ours was judged by.

    Args:
        config: of the run.
        path: `last.pt` or `best.pt`.

    Returns:
        The moving average where there is one, else the trained weights, in the checkpoint's conv form; on the CPU.
    """
    state = checkpoint.read(path)
    model = make_model(config, state["spectral"])
    model.load_state_dict(judged_weights(state))
    return model


def export_model(config: Config, checkpoint_path: Path, path: Path) -> None:
    """Write weights with plain convs and up-to-date probability tables.

    Args:
        config: of the run.
        checkpoint_path: whose weights.
        path: the file; `FactorizedPrior.from_state_dict(torch.load(path))` and its siblings read it.
    """
    write_tensors(path, evaluation_copy(judged_model(config, checkpoint_path)).state_dict())

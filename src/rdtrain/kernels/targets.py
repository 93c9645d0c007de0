"""Kernels to be learned: four of the discussion of CompressAI's SpectralConv2d, and any of a trained model.

A target is (O, I/groups, Kh, Kw), the weight of an `nn.Conv2d` without bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rdtrain.config.nearest import suggestion
from rdtrain.errors import UserError
from rdtrain.kernels import schema
from rdtrain.kernels.draws import convolutions
from rdtrain.kernels.schema import Draws
from rdtrain.models import read_weights
from rdtrain.run_folder import RunFolder

_MEANINGS = {
    "sinusoid": "channel average along x",
    "smoothing": "of each channel by itself",
    "edge": "vertical edges",
    "random": "default initialisation",
}


@dataclass(frozen=True)
class Target:
    """What is to be learned.

    Args:
        label: for titles and tables, such as `edge`, or `g_a.0 of f0c09f86f3` with the id of the run that trained it.
        weight: shape (O, I/groups, Kh, Kw).
        groups: of the convolution.
    """

    label: str
    weight: Tensor
    groups: int

    @property
    def in_channels(self) -> int:
        """Channels of the input, I."""
        return self.weight.shape[1] * self.groups

    @property
    def description(self) -> str:
        """Such as `edge (vertical edges) 4->4, K=5, groups=4`."""
        kh, kw = self.weight.shape[2:]
        size = f"K={kh}" if kh == kw else f"K={kh}x{kw}"
        groups = f", groups={self.groups}" if self.groups > 1 else ""
        meaning = _MEANINGS.get(self.label, "trained kernels")
        return f"{self.label} ({meaning}) {self.in_channels}->{len(self.weight)}, {size}{groups}"


def make_target(target: schema.Target, seed: int, draws: Draws = "streams") -> Target:
    """Make a target.

    Args:
        target: `target.*`.
        seed: of the repetition; matters for `random` only.
        draws: how it comes from the seed; likewise.

    Returns:
        The target.

    Raises:
        UserError: the trained kernel cannot be read.
    """
    if target.name == "trained":
        return trained(target)
    weight, groups = {"sinusoid": sinusoid, "smoothing": smoothing, "edge": edge}.get(
        target.name, lambda: (convolutions((4, 4, 5, 5), seed, draws)[1].weight, 1)
    )()
    return Target(target.name, weight, groups)


def sinusoid() -> tuple[Tensor, int]:
    """Average of the channels, weighted by one period of a sine along x.

    Returns:
        `0.05 sin(linspace(0, 2 pi, 11))` in every row of every kernel, 3 -> 2 channels; and 1 group.
    """
    return (0.05 * torch.linspace(0, 2 * math.pi, 11).sin()).expand(2, 3, 11, 11).clone(), 1


def smoothing() -> tuple[Tensor, int]:
    """Each channel smoothed by itself, by a dense convolution: the kernels between different channels are zero.

    Returns:
        The outer product of half a period of a sine with itself, sum 1, 8 -> 8 channels; and 1 group.
    """
    half = torch.linspace(0, math.pi, 11, dtype=torch.float64).sin()
    kernel = torch.outer(half, half) / half.sum() ** 2
    return (torch.eye(8, dtype=torch.float64)[:, :, None, None] * kernel).float(), 1


def edge() -> tuple[Tensor, int]:
    """Detector of vertical edges, that is of horizontal gradients.

    Returns:
        `2 linspace(-1, 1, 5) / 25` in every row, 4 -> 4 channels; and 4 groups.
    """
    return (2 * torch.linspace(-1, 1, 5) / 25).expand(4, 1, 5, 5).clone(), 4


def trained(target: schema.Target) -> Target:
    """Take the kernels of a trained convolution; those of a transposed one are (in, out) and are taken as (out, in).

    Args:
        target: `checkpoint` is a file of weights with plain kernels or the run folder that exported it, `layer` the
            convolution's name in it, `channels` the largest number of outputs and inputs that is used, the first ones.

    Returns:
        The target, with 1 group.

    Raises:
        UserError: there is no such file or layer, its kernels are stored in another form, or nothing but zeros.
    """
    if target.checkpoint is None or target.layer is None:
        raise UserError("target.name=trained needs a convolution: type target.checkpoint=RUN target.layer=g_a.0")
    path = Path(target.checkpoint).expanduser()
    path = path / "export" / "model.pth" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"target.checkpoint={target.checkpoint}: there is no file {path}; type a finished run's folder")
    weights, _ = read_weights(path, f"target.checkpoint={target.checkpoint}")
    if f"{target.layer}.weight_transformed" in weights:
        raise UserError(
            f"target.layer={target.layer} is spectral in {path}: type target.checkpoint= and the run's export/model.pth"
        )
    known = [name.removesuffix(".weight") for name, value in weights.items() if _is_kernel(name, value)]
    if target.layer not in known:
        raise UserError(f"target.layer={target.layer} is no convolution: {suggestion(target.layer, known)}")
    weight = weights[f"{target.layer}.weight"][: target.channels, : target.channels]
    if not weight.any():
        raise UserError(f"target.layer={target.layer}: its kernels in {path} are nothing but zeros; type another layer")
    return Target(f"{target.layer} of {_source(path)}", weight.float().contiguous(), 1)


def _is_kernel(name: str, value: Tensor) -> bool:
    return name.endswith(".weight") and value.dim() == 4


def _source(path: Path) -> str:
    # A run's id where the file is a run's export, which its folder's name begins with; else the file's name.
    run = path.resolve().parent.parent
    return run.name.partition("-")[0] if RunFolder(run).config.is_file() else path.stem

"""The evaluation ledger: rate, distortion and loss of one image, forward and through a real bitstream, side by side.

Shapes: x, x_hat (1, 3, H, W) in [0, 1]; padded images (1, 3, H', W') with H', W' multiples of the model's stride.
Both paths are measured unclamped, clamped and rounded to 8 bits; nothing is clamped in place.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from compressai.ops import compute_padding
from torch import Tensor, nn

from rdtrain.bitstream import leaves
from rdtrain.coding.classes import prepare_coder
from rdtrain.conv.convert import to_plain
from rdtrain.conv.layers import spectral_layers
from rdtrain.losses import RateDistortionLoss, bits_per_image
from rdtrain.metrics import VARIANTS, with_psnr_of_mean_mse
from rdtrain.probes import LatentOverflow, Probe, entropy_models, now
from rdtrain.rate_gap import Area, distortion_gap, rate_gap
from rdtrain.variants import as_file, qualities, with_loss

MODES = ("shared", "full")
DEFAULT_STRIDE = 64
WIDEST_TABLE = 2**16 - 2
"""A 16-bit table gives every symbol and the escape code at least 1 of 65536; CompressAI does not check that it can."""


def unwrap(model: nn.Module) -> nn.Module:
    """Find the model inside DistributedDataParallel, AveragedModel or torch.compile.

    Args:
        model: wrapped or not.

    Returns:
        The innermost model.
    """
    while (inner := getattr(model, "_orig_mod", None) or getattr(model, "module", None)) is not None:
        model = inner
    return model


@torch.no_grad()
def evaluation_copy(model: nn.Module, device: torch.device | str | None = None) -> Any:
    """Copy a model as it would be deployed: plain kernels, quantiles found by bisection, coder tables made.

    Its kernels lie channels last, whatever those of the model do, which takes a fifth off a pass on a CPU.

    Bisection (`EntropyBottleneck._update_quantiles`) gives tables that fit however little the aux loss was trained; it
    moves the medians, hence the forward pass, so it belongs on a copy that both paths are measured on.

    Args:
        model: in training or not; it is not changed.
        device: where the copy goes, that of the model unless given.

    Returns:
        An independent model in eval mode without gradients, whose state dict stock CompressAI loads.

    Raises:
        LatentOverflow: a learned density is wider than the coder's tables can be.
    """
    duplicate: Any = copy.deepcopy(unwrap(model)).eval().requires_grad_(False).to(device)
    if spectral_layers(duplicate):
        to_plain(duplicate)
    for name, entropy_model in entropy_models(duplicate).items():
        if hasattr(entropy_model, "_update_quantiles"):
            entropy_model._update_quantiles()
            width = (entropy_model.quantiles[:, 0, 2] - entropy_model.quantiles[:, 0, 0]).max().item()
            if width > WIDEST_TABLE - 2:  # both ends are rounded outwards
                raise LatentOverflow(f"{name} has learned a density over {width:.0f} integers, too wide to be coded")
    duplicate.update(force=True)
    prepare_coder(duplicate)
    return duplicate.to(memory_format=torch.channels_last)


def stride(model: nn.Module) -> int:
    """Find what the sides of a model's input must be multiples of.

    Args:
        model: a compression model.

    Returns:
        Its `downsampling_factor`, or `DEFAULT_STRIDE` where it states none.
    """
    return int(getattr(model, "downsampling_factor", DEFAULT_STRIDE))


def padding(height: int, width: int, multiple: int) -> tuple[int, int, int, int]:
    """Compute the padding of an image, the same on both sides up to a pixel, as CompressAI's own evaluation does.

    Args:
        height: of the image.
        width: of the image.
        multiple: what the padded sides are multiples of.

    Returns:
        Left, right, top, bottom in pixels, the order of `torch.nn.functional.pad`; zeros are padded.
    """
    pad, _ = compute_padding(height, width, min_div=multiple)
    return pad


@torch.no_grad()
def forward_variants(criterion: RateDistortionLoss, out: Mapping[str, Any], x: Tensor) -> dict[str, Tensor]:
    """Measure a validation batch: the forward pass unclamped and clamped.

    Args:
        criterion: the loss.
        out: a model's output for x, in eval mode.
        x: images, (B, 3, H, W).

    Returns:
        Values of each image, (B,), by metric name.
    """
    bpp = bits_per_image(out["likelihoods"]) / (x.shape[-2] * x.shape[-1])
    x_hat = out["x_hat"].to(x.dtype)
    return with_loss(criterion, bpp, "forward", {v: qualities(x_hat, x, v) for v in ("unclamped", "clamped")})


@dataclass(frozen=True)
class ImageRow:
    """What was measured on one image.

    Args:
        metrics: value by metric name, times among them.
        image: the reconstruction as a file would hold it, uint8 (3, H, W) on the CPU; the real one where there is one.
        strings: what `compress` gave, to be written or decoded again; None without a real path.
        shape: what `decompress` needs beside the strings.
    """

    metrics: dict[str, float]
    image: Tensor
    strings: Any = None
    shape: Any = None


@torch.no_grad()
def evaluate_image(
    model: Any, x: Tensor, criterion: RateDistortionLoss, mode: str = "shared", real: bool = True
) -> ImageRow:
    """Measure one image on every path and variant.

    The image is padded with zeros, in equal parts on both sides, to the model's stride; bits are divided by its own
    pixels, and distortion is measured on them.

    Args:
        model: an `evaluation_copy`.
        x: the image in [0, 1], (1, 3, H, W), on the model's device.
        criterion: the loss.
        mode: `shared` lets the real path reuse g_a and g_s where their inputs are bitwise those of the forward path;
            `full` computes everything twice. The results are the same.
        real: also compress and decompress.

    Returns:
        The row.

    Raises:
        ValueError: x is not one image, or the mode is unknown.
    """
    if x.ndim != 4 or x.shape[:2] != (1, 3) or 0 in x.shape:
        raise ValueError(f"one image of shape (1, 3, H, W) is evaluated at a time, not {tuple(x.shape)}")
    if mode not in MODES:
        raise ValueError(f"ledger.mode={mode} is unknown; type ledger.mode={' or '.join(MODES)}")
    pad = padding(x.shape[-2], x.shape[-1], stride(model))
    padded, crop = F.pad(x, pad), [-side for side in pad]
    pixels = x.shape[-2] * x.shape[-1]
    with Probe(model, x.device, share=mode == "shared") as probe:
        out = model(padded)
        bpp = bits_per_image(out["likelihoods"]) / pixels
        x_hat = F.pad(out["x_hat"], crop)
        measured = {variant: qualities(x_hat, x, variant) for variant in VARIANTS}
        values = with_loss(criterion, bpp, "forward", measured)
        if not real:
            return ImageRow(_read(values), as_file(x_hat))
        y_hat = probe.y_hat
        coded, decoded, times = _code(probe, padded)
    real_bpp = torch.tensor(
        [8 * sum(map(len, leaves(coded["strings"]))) / pixels], dtype=torch.float64, device=x.device
    )
    unclamped, clamped = F.pad(probe.x_hat, crop), F.pad(decoded["x_hat"], crop)
    if mode == "full" or not torch.equal(unclamped, x_hat):
        measured = {v: qualities(unclamped if v == "unclamped" else clamped, x, v) for v in VARIANTS}
    values |= with_loss(criterion, real_bpp, "real", measured)
    values |= _latent_differences(y_hat, probe.y_hat)
    row = _read(values)
    area = Area(pad[2], pad[0], x.shape[-2], x.shape[-1], padded.shape[-2], padded.shape[-1])
    row |= rate_gap(entropy_models(model), probe.strings, probe.likelihoods, area) | distortion_gap(row) | times
    return ImageRow(row, as_file(clamped), coded["strings"], coded["shape"])


def mean_row(rows: Iterable[ImageRow]) -> dict[str, float]:
    """Average images.

    Args:
        rows: one an image.

    Returns:
        Mean by metric name over the images that have it (images too small for MS-SSIM have none), so `psnr` is the
        mean of dB, and `psnr_of_mean_mse` beside every `mse`.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.metrics.items():
            values.setdefault(name, []).append(value)
    return with_psnr_of_mean_mse({name: math.fsum(column) / len(column) for name, column in values.items()})


def _code(probe: Probe, padded: Tensor) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, float]]:
    # A network's time is what the coder did not take, plus what sharing has saved.
    times: dict[str, float] = {}

    def timed(part: str, call: Callable[..., Any], *args: Any) -> Any:
        start, coder, reused = now(padded.device), probe.coder_seconds, probe.reused_seconds
        result = call(*args)
        total, coder = now(padded.device) - start, probe.coder_seconds - coder
        times[f"time/{part}_net_ms"] = 1000 * (total - coder + probe.reused_seconds - reused)
        times[f"time/{part}_coder_ms"] = 1000 * coder
        return result

    coded = timed("encode", probe.model.compress, padded)
    decoded = timed("decode", probe.model.decompress, coded["strings"], coded["shape"])
    return coded, decoded, times


def _latent_differences(forward: Tensor, real: Tensor) -> dict[str, Tensor]:
    difference = (forward - real).abs()
    return {"latents/mismatched": (difference != 0).sum(), "latents/max_difference": difference.max()}


def _read(values: Mapping[str, Tensor]) -> dict[str, float]:
    # all at once, since each reading waits for the device
    numbers = torch.stack([value.reshape(()).double() for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))

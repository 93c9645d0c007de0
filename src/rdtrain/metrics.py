"""Every metric's name, unit and meaning in one table, the few formulas behind them, and their means over a data set.

A name is `<quantity>/<path>/<variant>`; TensorBoard puts the loader before it, metrics.csv has a column for it. The
table needs no torch, so that a command's `--help` and the docs can read it at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Number = TypeVar("Number", float, Tensor)

LOADERS = ("train", "valid", "infer")
CSV_KEYS = ("epoch", "step", "loader")
"""The first columns of metrics.csv, which say what a row is about."""

VARIANTS = {
    "unclamped": "as g_s gives it",
    "clamped": "clamped to [0, 1]",
    "8bit": "clamped and rounded to 256 levels",
}
PATHS = {
    "forward": "the model's forward pass (on train by model.quantizer, else rounding)",
    "real": "compress, then decompress",
    "noise": "training batches sampled for comparison, noise quantisation",
    "round": "the batches of `noise`, with rounded latents",
    "ste": "the batches of `noise`, rate under noise and image from rounded latents",
}
SAMPLED_PATHS = ("noise", "round", "ste")

_DISTORTIONS = {  # name: (unit, meaning)
    "loss": ("1", "the rate-distortion loss L"),
    "mse": ("1", "mean squared error, images in [0, 1]"),
    "psnr": ("dB", "mean over images of each image's PSNR"),
    "psnr_of_mean_mse": ("dB", "PSNR of the mean MSE, at most `psnr`"),
    "ms_ssim": ("1", "MS-SSIM, of images large enough for its five scales"),
    "ms_ssim_db": ("dB", "mean over images of -10 log10(1 - MS-SSIM)"),
}
_OTHERS = [  # (name, unit, meaning, loaders)
    ("aux_loss", "1", "auxiliary loss: how far the entropy bottlenecks' quantiles are off", ("train",)),
    ("grad_norm", "1", "norm of the net's gradient before clipping", ("train",)),
    ("lr/net", "1", "learning rate of the net optimizer", ("train",)),
    ("lr/aux", "1", "learning rate of the aux optimizer", ("train",)),
    (
        "conv/spectral",
        "0 or 1",
        "1 where the epoch was trained with spectra, the one at whose end they became plain included",
        ("train",),
    ),
    ("health/skipped", "1", "optimizer steps left out since the beginning (health.on_nan=skip)", ("train",)),
    ("time/step_ms", "ms", "mean time of a batch", LOADERS),
    ("time/elapsed_s", "s", "time spent in loaders since the beginning of the run, pauses left out", LOADERS),
    ("time/samples_per_s", "1/s", "images a second", LOADERS),
    ("time/encode_net_ms", "ms", "compress without the entropy coder, per image", ("infer",)),
    ("time/encode_coder_ms", "ms", "entropy coder of compress, per image", ("infer",)),
    ("time/decode_net_ms", "ms", "decompress without the entropy coder, per image", ("infer",)),
    ("time/decode_coder_ms", "ms", "entropy coder of decompress, per image", ("infer",)),
    ("outside/forward/unclamped", "1", "share of x_hat's values outside [0, 1]; forward pass", ("valid", "infer")),
    ("outside/real/unclamped", "1", "share of x_hat's values outside [0, 1]; decompress, before it clamps", ("infer",)),
    ("rate_gap/total", "bit", "real minus estimated bits of the unpadded image: the sum of the next", ("infer",)),
    ("rate_gap/padding", "bit", "estimated bits of latents that cover nothing but padding", ("infer",)),
    ("rate_gap/tables", "bit", "coding with 16-bit tables instead of the model's probabilities", ("infer",)),
    ("rate_gap/tails", "bit", "symbols outside their table: escape code and bypass, less the estimate", ("infer",)),
    ("rate_gap/flush", "bit", "the coder's last state, 8 bytes a string, less what it carries", ("infer",)),
    ("distortion_gap/clamp", "1", "MSE forward clamped minus unclamped (never positive)", ("infer",)),
    ("distortion_gap/8bit", "1", "MSE real 8bit minus clamped", ("infer",)),
    ("distortion_gap/latents", "1", "MSE real minus forward, both clamped: decoded latents that differ", ("infer",)),
    ("latents/mismatched", "1", "inputs of g_s that differ between forward and real, per image", ("infer",)),
    ("latents/max_difference", "1", "the largest such difference; about 1e-7 is straight-through rounding", ("infer",)),
]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: without its loader, such as `mse/forward/clamped`.
        unit: as in the docs, `1` for a plain number.
        meaning: one sentence.
        loaders: where it can be measured.
    """

    name: str
    unit: str
    meaning: str
    loaders: tuple[str, ...]


def _loaders(quantity: str, path: str, variant: str) -> tuple[str, ...]:
    # infer measures everything, valid the forward pair, train only what costs nothing there
    if path in SAMPLED_PATHS:
        return ("train",) if variant == "unclamped" and quantity in ("loss", "mse", "psnr_of_mean_mse") else ()
    if path == "real" or variant == "8bit":
        return ("infer",)
    per_image = quantity in ("psnr", "ms_ssim_db")
    return ("valid", "infer") if per_image or variant == "clamped" else LOADERS


def _table() -> Iterator[Metric]:
    for quantity, (unit, meaning) in _DISTORTIONS.items():
        for path, way in PATHS.items():
            for variant, how in VARIANTS.items():
                if loaders := _loaders(quantity, path, variant):
                    yield Metric(f"{quantity}/{path}/{variant}", unit, f"{meaning}; {way}; x_hat {how}", loaders)
        if quantity == "loss":
            for path, way in PATHS.items():
                if path != "ste":  # its rate is that of `noise`
                    loaders = {"forward": LOADERS, "real": ("infer",)}.get(path, ("train",))
                    yield Metric(f"bpp/{path}", "bit/pixel", f"rate per pixel of the unpadded image; {way}", loaders)
    for other in _OTHERS:
        yield Metric(*other)


METRICS: dict[str, Metric] = {metric.name: metric for metric in _table()}
"""Every metric by name, in the order of metrics.csv's columns."""


_BARE = ("aux_loss", "conv", "grad_norm", "health", "lr", "time")  # of the training itself, not of one loader's images


def tag(loader: str, name: str) -> str:
    """Make the name that TensorBoard shows.

    Args:
        loader: where it was measured.
        name: of `METRICS`.

    Returns:
        `<loader>/<name>`; what describes the training itself (`lr/net`, `conv/spectral`, ...) keeps its bare name.
    """
    return name if loader == "train" and name.split("/")[0] in _BARE else f"{loader}/{name}"


def csv_columns() -> list[str]:
    """List the columns of metrics.csv.

    Returns:
        `CSV_KEYS`, then every metric's name in the table's order.
    """
    return [*CSV_KEYS, *METRICS]


def markdown_table() -> str:
    """Make the docs' table of metrics.

    Returns:
        A Markdown table: name, unit, loaders, meaning.
    """
    lines = ["| name | unit | loaders | meaning |", "|---|---|---|---|"]
    for metric in METRICS.values():
        lines.append(f"| `{metric.name}` | {metric.unit} | {', '.join(metric.loaders)} | {metric.meaning} |")
    return "\n".join(lines) + "\n"


def psnr(mse: Number) -> Number:
    """Convert a mean squared error to PSNR.

    Args:
        mse: for images in [0, 1]; a float or a tensor of any shape.

    Returns:
        -10 log10(mse) in dB, of the same type; infinite for 0.
    """
    if isinstance(mse, float):
        return -10 * math.log10(mse) if mse > 0 else (math.inf if mse == 0 else math.nan)
    return -10 * mse.log10()


def ms_ssim_db(ms_ssim: Number) -> Number:
    """Convert MS-SSIM to decibel.

    Args:
        ms_ssim: at most 1; a float or a tensor of any shape.

    Returns:
        -10 log10(1 - ms_ssim) in dB, of the same type; infinite for 1.
    """
    return psnr(1 - ms_ssim)


def to_8bit(x: Tensor) -> Tensor:
    """Round images to the 256 levels of an 8-bit file, half to even as torch and numpy do.

    Args:
        x: images, nominally in [0, 1]; not changed.

    Returns:
        round(255 * clamp(x)) / 255, same shape.
    """
    return x.clamp(0, 1).mul_(255).round_().div_(255)


class Means:
    """Sample-weighted means of metrics over batches, summed on the device and read back once.

    Sums are float64 (float32 on devices without it), so the result does not depend on the batch size beyond 1e-6.
    """

    def __init__(self) -> None:
        # One row of sums per set of names: a batch costs three small kernels, however many metrics it has.
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def update(self, values: Mapping[str, Tensor], n: int | None = None) -> None:
        """Add a batch.

        Args:
            values: metric by name; either all of shape (B,), one value an image, or all scalars, means over `n` images.
            n: images in the batch, for scalars.

        Raises:
            ValueError: scalars without `n`.
        """
        import torch

        if not values:
            return
        batch = torch.stack([value.detach() for value in values.values()])
        batch = batch.to(torch.float32 if batch.device.type == "mps" else torch.float64)
        if batch.ndim == 2:
            n, batch = batch.shape[1], batch.sum(1)
        elif n is None:
            raise ValueError("scalars are means over n images; pass n")
        else:
            batch = batch * n
        names = tuple(values)
        self._counts[names] = self._counts.get(names, 0) + n
        self._sums[names] = self._sums[names] + batch if names in self._sums else batch

    def compute(self) -> dict[str, float]:
        """Read the means, the one place that waits for the device.

        Returns:
            Mean by name, and `psnr_of_mean_mse/...` of every `mse/...`; empty before the first update.
        """
        import torch

        if not self._sums:
            return {}
        names = [name for group in self._sums for name in group]
        counts = [self._counts[group] for group in self._sums for _ in group]
        total = dict.fromkeys(names, 0.0)
        weight = dict.fromkeys(names, 0)
        for name, value, n in zip(names, torch.cat(list(self._sums.values())).tolist(), counts, strict=True):
            total[name] += value
            weight[name] += n
        return with_psnr_of_mean_mse({name: total[name] / weight[name] for name in total})

    def state_dict(self) -> list[tuple[list[str], Tensor, int]]:
        """What a checkpoint within an epoch keeps.

        Returns:
            Names, sums and number of images of each set of names.
        """
        return [(list(names), self._sums[names].clone(), self._counts[names]) for names in self._sums]

    def load_state_dict(self, state: list[tuple[list[str], Tensor, int]], device: torch.device | str) -> None:
        """Go on from a checkpoint.

        Args:
            state: of `state_dict`.
            device: of the values to come.
        """
        self._sums = {tuple(names): sums.to(device) for names, sums, _ in state}
        self._counts = {tuple(names): count for names, _, count in state}


def with_psnr_of_mean_mse(means: Mapping[str, float]) -> dict[str, float]:
    """Add the PSNR of every mean MSE, which is no mean of anything.

    Args:
        means: mean by metric name.

    Returns:
        The same, with `psnr_of_mean_mse/<path>/<variant>` for each `mse/<path>/<variant>`.
    """
    derived = {f"psnr_of_mean_{name}": psnr(mean) for name, mean in means.items() if name.startswith("mse/")}
    return {**means, **derived}

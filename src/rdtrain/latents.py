"""What a forward pass does inside a CompressAI model: bits of each channel, latents and the scales that code them.

A watch keeps references while the model's own forward runs, through hooks that it takes away again; numbers are made
afterwards, in float64. Latents are named as the model's `likelihoods` name them: y, and z where there is a hyperprior.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[Any]


@dataclass(frozen=True)
class ScaleUse:
    """How a GaussianConditional uses its table of scales.

    Args:
        table: the scales that have a coder table, ascending, shape (T,).
        counts: latents whose scale is at most `table[i]` and above `table[i - 1]`, shape (T + 1,); the last number
            counts those above the whole table, which are coded with its last entry.
    """

    table: Array
    counts: Array


@dataclass(frozen=True)
class Latents:
    """What was seen in one image's forward pass.

    Args:
        bits: estimated bits of each channel, float64 (C,), by latent.
        bottleneck_bits: the same by name of the EntropyBottleneck that gave the likelihoods.
        y_hat: input of g_s, float32 (M, h, w); None where it was not asked for.
        scales: by name of the GaussianConditional; empty where it was not asked for.
    """

    bits: dict[str, Array]
    bottleneck_bits: dict[str, Array]
    y_hat: Array | None = None
    scales: dict[str, ScaleUse] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """An infer image to be looked at.

    Args:
        name: of its file, without ending.
        x: the image, uint8 (3, H, W) on the CPU.
        x_hat: its reconstruction as a file would hold it, likewise.
        latents: what its forward pass did.
    """

    name: str
    x: Tensor
    x_hat: Tensor
    latents: Latents

    @property
    def pixels(self) -> int:
        """Pixels of the image, those that bits per pixel are counted by."""
        return self.x.shape[-2] * self.x.shape[-1]


@dataclass
class Watch:
    """References to what passed through a model; see `watched`."""

    model: Any
    likelihoods: dict[str, Tensor] = field(default_factory=dict)
    bottlenecks: dict[str, list[Tensor]] = field(default_factory=dict)
    scales: dict[str, list[Tensor]] = field(default_factory=dict)
    y_hat: Tensor | None = None

    def latents(self, maps: bool) -> Latents:
        """Make numbers of what was seen.

        Args:
            maps: also keep y_hat and how scales are used; they are as large as the image's latents.

        Returns:
            The numbers, on the CPU.
        """
        bits = {name: channel_bits([value]) for name, value in self.likelihoods.items()}
        by_bottleneck = {name: channel_bits(values) for name, values in self.bottlenecks.items()}
        if not maps:
            return Latents(bits, by_bottleneck)
        y_hat = None if self.y_hat is None else self.y_hat[0].float().cpu().numpy()
        use = {}
        for name, values in self.scales.items():
            table = self.model.get_submodule(name).scale_table.double().cpu().numpy()
            use[name] = scale_use(torch.cat([value.flatten() for value in values]).double().cpu().numpy(), table)
        return Latents(bits, by_bottleneck, y_hat, use)


@contextlib.contextmanager
def watched(model: Any) -> Iterator[Watch]:
    """Watch one forward pass of a model over one image.

    Args:
        model: a compression model with `g_s`; its numbers and random state are not touched.

    Yields:
        The watch, filled when the forward pass is over.
    """
    watch = Watch(model)

    def keep_output(module: nn.Module, args: Any, out: dict[str, Any]) -> None:
        watch.likelihoods = dict(out["likelihoods"])

    def keep_y_hat(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if watch.y_hat is None:  # `decompress` calls g_s once more
            watch.y_hat = args[0]

    hooks = [model.register_forward_hook(keep_output), model.g_s.register_forward_pre_hook(keep_y_hat)]
    for name, module in model.named_modules():
        if isinstance(module, EntropyBottleneck):
            hooks.append(module.register_forward_hook(_kept_likelihoods(watch.bottlenecks.setdefault(name, []))))
        elif isinstance(module, GaussianConditional):
            kept = _kept_scales(watch.scales.setdefault(name, []))
            hooks.append(module.register_forward_pre_hook(kept, with_kwargs=True))
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def _kept_likelihoods(kept: list[Tensor]) -> Callable[..., None]:
    return lambda module, args, output: kept.append(output[1])


def _kept_scales(kept: list[Tensor]) -> Callable[..., None]:
    # Context models call it pixel by pixel, all scales together are those of the image.
    return lambda module, args, kwargs: kept.append(kwargs["scales"] if "scales" in kwargs else args[1])


def channel_bits(likelihoods: Iterable[Tensor]) -> Array:
    """Sum up the bits of each channel.

    Args:
        likelihoods: of one image, (1, C, h, w) each.

    Returns:
        -log2 of them summed over all but the channels, float64 (C,).
    """
    by_call = [-value.double().log2().sum((0, *range(2, value.ndim))) for value in likelihoods]
    return torch.stack(by_call).sum(0).cpu().numpy()


def scale_use(scales: Array, table: Array) -> ScaleUse:
    """Count which entry of the table each scale is coded with, as `GaussianConditional.build_indexes` does.

    Args:
        scales: of latents, any number, shape (n,).
        table: ascending, shape (T,).

    Returns:
        The counts.
    """
    return ScaleUse(table, np.bincount(np.searchsorted(table, scales, side="left"), minlength=len(table) + 1))


def keeps_images(epoch: int, every_n_epochs: int, is_last: bool) -> bool:
    """Whether an infer pass is one of those whose images are kept, so that their number grows with the logarithm.

    Args:
        epoch: of the pass, from 1.
        every_n_epochs: epochs between two passes.
        is_last: whether no pass follows.

    Returns:
        True for the passes 1, 2, 4, 8 and so on, and the last one.
    """
    number = epoch // every_n_epochs
    return is_last or number & (number - 1) == 0


def absolute_error(one: Shown) -> Tensor:
    """Compute the error map of a reconstruction.

    Args:
        one: the image.

    Returns:
        |x_hat - x|, mean over the colours, float32 (H, W), of 255.
    """
    return (one.x_hat.float() - one.x.float()).abs().mean(0)


def mean_channel_bpp(shown: Sequence[Shown]) -> dict[str, Array]:
    """Average the rate of each channel over images.

    Args:
        shown: at least one image.

    Returns:
        Bits per pixel of the unpadded image, (C,), by latent; they add up to the images' mean `bpp/forward`.
    """
    return {
        name: np.mean([one.latents.bits[name] / one.pixels for one in shown], axis=0) for name in shown[0].latents.bits
    }


def mean_bottleneck_bpp(shown: Sequence[Shown]) -> dict[str, Array]:
    """Average the rate of each channel of each entropy bottleneck over images.

    Args:
        shown: at least one image.

    Returns:
        Bits per pixel of the unpadded image, (C,), by the bottleneck's name.
    """
    names = shown[0].latents.bottleneck_bits
    return {name: np.mean([one.latents.bottleneck_bits[name] / one.pixels for one in shown], axis=0) for name in names}


def highest(values: Array, n: int) -> Array:
    """Choose channels to look at.

    Args:
        values: one a channel, (C,).
        n: at most so many.

    Returns:
        Indices of the largest values, largest first.
    """
    return np.argsort(-values, kind="stable")[:n]

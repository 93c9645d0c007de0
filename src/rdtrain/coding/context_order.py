"""In which order a context model's latents are coded, many places at once.

A masked 5x5 convolution of type A (CompressAI's MaskedConv2d) sees two rows above, two columns to either side of a
place, and two latents on its left. Place (h, w) therefore waits for (h - 1, w + 2), and all places of equal w + 3 h are
ready together: W + 3 (H - 1) steps instead of H W. PixelRNN skews its rows for the same reason (van den Oord et al.
2016, arXiv 1601.06759).

Shapes: B images of a batch, P = H W places of each, K taps of the mask, r latents that it reaches in each direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 32
"""Places that one matrix product takes. Always as many, since how a product rounds depends on its shape."""


@dataclass(frozen=True)
class Tile:
    """Places whose parameters are computed at once, filled up with place 0 to as many as `TILE`.

    Args:
        rows: which they are, as rows of (B P, ...) in coding order, (TILE,).
        seen: what the mask sees from them, as rows of the canvas, (TILE K,); see `patches`.
    """

    rows: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Step:
    """Places that do not wait for each other.

    Args:
        places: p of them in each image, in coding order.
        tiles: the first image's places, then the second's, and so on.
    """

    places: slice
    tiles: list[Tile]


def wavefront(height: int, width: int, reach: int) -> tuple[Tensor, list[slice]]:
    """Order the places of an image.

    Args:
        height: H.
        width: W.
        reach: r.

    Returns:
        Places as h W + w in coding order, (P,), and what each step takes of them; within a step from the top.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    times = (columns + (reach + 1) * rows).flatten()
    ends = times.bincount().cumsum(0).tolist()
    pairs = zip([0, *ends], ends, strict=False)
    return times.argsort(stable=True), [slice(start, end) for start, end in pairs if start < end]


def patches(order: Tensor, height: int, width: int, taps: Tensor, reach: int) -> Tensor:
    """Find what the mask sees from each place.

    Args:
        order: places of an image, (P,).
        height: H.
        width: W.
        taps: row and column of each weight within the kernel, (K, 2).
        reach: r.

    Returns:
        Rows of a canvas ((H + 2 r) (W + 2 r), ...), (P, K).
    """
    line = width + 2 * reach
    corner = order // width * line + order % width
    return corner[:, None] + taps[:, 0] * line + taps[:, 1]


def steps(slices: list[slice], seen: Tensor, batch: int, canvas: int, device: torch.device) -> list[Step]:
    """Lay out a batch's steps.

    Args:
        slices: of one image, see `wavefront`.
        seen: of one image, see `patches`, (P, K).
        batch: B.
        canvas: rows of one image's canvas.
        device: where they are used.

    Returns:
        The steps.
    """
    places, image = len(seen), torch.arange(batch)[:, None]
    seen = (image[..., None] * canvas + seen).flatten(0, 1)
    laid_out = []
    for slice_ in slices:
        rows = (image * places + torch.arange(slice_.start, slice_.stop)).flatten()
        rows = torch.cat((rows, rows.new_zeros(-len(rows) % TILE)))
        tiles = [Tile(part.to(device), seen[part].flatten().to(device)) for part in rows.split(TILE)]
        laid_out.append(Step(slice_, tiles))
    return laid_out

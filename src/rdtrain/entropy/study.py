"""Everything that a report about a model's entropy coding shows, measured on some images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdtrain import bitstream
from rdtrain.entropy.coding import CodedImage, code_image
from rdtrain.entropy.learned import Learned, learned
from rdtrain.entropy.tally import Tally, channel_parts
from rdtrain.errors import UserError
from rdtrain.eval.evaluate import as_stream
from rdtrain.eval.models import Identity, Subject, identity
from rdtrain.evaluation import ImageRow

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ImageParts:
    """What the file of one image is made of, in bits.

    Args:
        name: of the image.
        pixels: of the image.
        ideal: -log2 of all likelihoods.
        padding: of them, latents that cover nothing but padding.
        context: other symbols and parameters than the forward pass's; 0 of models that code without context.
        tables: coding with 16-bit tables instead of the likelihoods.
        tails: symbols outside their tables, escape code and bypass, less their ideal bits.
        flush: the coder's last states.
        unsplit: the last four together, of strings whose symbols are not known one by one.
        header: of the file around the strings.
        channels: `channel_parts` by name of the entropy model.
    """

    name: str
    pixels: int
    ideal: float
    padding: float
    context: float
    tables: float
    tails: float
    flush: float
    unsplit: float
    header: float
    channels: dict[str, dict[str, Array]]

    @property
    def total(self) -> float:
        """Bits of the file; padding is part of ideal."""
        beyond = self.context + self.tables + self.tails + self.flush + self.unsplit
        return self.ideal + beyond + self.header


@dataclass(frozen=True)
class Study:
    """A model and what it did.

    Args:
        about: the model, for titles.
        tallies: by name of the entropy model.
        learned: what the entropy bottlenecks have learned, by name.
        trained_quantiles: of the bottlenecks as the aux loss left them, (C, 3) each, by name.
        images: one each.
    """

    about: str
    tallies: dict[str, Tally]
    learned: dict[str, Learned]
    trained_quantiles: dict[str, Array]
    images: list[ImageParts]


def study(subject: Subject, images: Iterable[tuple[str, Tensor]], quantiles: Mapping[str, Tensor], about: str) -> Study:
    """Code images and add up.

    Args:
        subject: whose model is an `evaluation_copy`.
        images: name and image in [0, 1], (1, 3, H, W) on the model's device, one after the other.
        quantiles: of the bottlenecks as the aux loss left them, (C, 1, 3) each, by name.
        about: the model, for titles.

    Returns:
        The measurements.
    """
    known, parts, tallies = identity(subject.model), [], dict[str, Tally]()
    for name, x in images:
        coded = code_image(subject.model, x)
        for model, one in coded.coded.items():
            if model not in tallies:
                tallies[model] = Tally(subject.model.get_submodule(model), len(one.ideal))
            tallies[model].add(one, coded.pixels)
        parts.append(image_parts(name, coded, header_bits(subject, known, coded, x)))
    densities = {name: learned(tally.model) for name, tally in tallies.items() if tally.is_bottleneck}
    trained = {name: quantiles[name][:, 0].detach().double().cpu().numpy() for name in densities}
    return Study(about, tallies, densities, trained, parts)


def image_parts(name: str, image: CodedImage, header: float) -> ImageParts:
    """Take one image's file apart.

    Args:
        name: of the image.
        image: coded.
        header: bits around its strings.

    Returns:
        The parts, which add up to the file but for the rounding of the coder's integer state (far below a bit).
    """
    channels = {model: channel_parts(one) for model, one in image.coded.items()}
    split = {model: one.split for model, one in image.coded.items() if one.split is not None}
    explained = sum(one.length for one in split.values())
    others = sum(parts["ideal"].sum() for model, parts in channels.items() if model not in split)

    def total(part: str) -> float:
        return float(sum(np.nansum(parts[part]) for parts in channels.values()))

    return ImageParts(
        name=name,
        pixels=image.pixels,
        **{part: total(part) for part in ("ideal", "padding", "context", "tables", "tails")},
        flush=float(sum(one.flush for one in split.values())),
        unsplit=float(image.length - explained - others),
        header=header,
        channels=channels,
    )


def header_bits(subject: Subject, known: Identity, image: CodedImage, x: Tensor) -> float:
    """Count what a bitstream file (`rdtrain-eval --save-bitstreams`) holds beside the strings.

    Args:
        subject: the model.
        known: its identity.
        image: coded.
        x: the image, (1, 3, H, W).

    Returns:
        Bits; NaN where no file could hold the image.
    """
    row = ImageRow({}, torch.zeros(x.shape[1:], dtype=torch.uint8), image.strings, image.shape)
    try:
        return 8.0 * len(bitstream.pack(as_stream(subject, known, row, x.device))) - image.length
    except UserError:
        return math.nan

"""CompressAI's entropy models with the fast coder: arrays instead of lists, and the images of a batch in parallel.

Shapes: latents and indexes (B, C, ...); strings are a list of B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional, GaussianMixtureConditional
from torch import Tensor, nn

from rdtrain.coding.rans import Coder, Decoder, Ints, Tables, encode, has_numba, prepare
from rdtrain.coding.scales import Floats, ScaleIndex
from rdtrain.mixing import mix_in, put_behind
from rdtrain.probes import check_codable

_Result = TypeVar("_Result")
_THEIRS = "ans"  # CompressAI's name of the coder that writes the same strings


def use_coder(model: nn.Module, coder: Coder) -> list[str]:
    """Let all entropy models code with the fast coder; the strings stay the same.

    Mixtures stay with CompressAI's coder, since they make a table for every latent, as do the models that code pixel
    by pixel in a loop of their own. A changed model cannot be pickled as a whole; its state dict can.

    Args:
        model: a compression model, changed in place; a deep copy keeps the change, a state dict knows nothing of it.
        coder: `auto` and `numba` change what they can where numba is installed, `compressai` changes nothing.

    Returns:
        Names of the entropy models that were changed, now and not before.
    """
    if coder == "compressai" or not has_numba():
        return []
    found = {name: module for name, module in model.named_modules() if _is_known(module)}
    for module in found.values():
        module.__class__ = put_behind(_Arrays, type(module))
        module.entropy_coder = _ArrayCoder()
        if isinstance(module, GaussianConditional):
            mix_in(_QuickIndexes, module)
    return list(found)


def prepare_coder(model: nn.Module) -> None:
    """Load the fast coder where a model has it, so that no image's time and no limit counts what that takes.

    Args:
        model: a compression model.
    """
    if any(isinstance(module, _Arrays) for module in model.modules()):
        prepare()


def tables_of(model: EntropyModel, coder: Coder = "auto") -> Tables:
    """Read the tables of an entropy model.

    Args:
        model: after `update`.
        coder: that will use them.

    Returns:
        The tables.

    Raises:
        ValueError: there are none, or they are not those of a coder.
    """
    return Tables(*_arrays(model), coder)


def _arrays(model: EntropyModel) -> tuple[Ints, Ints, Ints]:
    buffers = (model._quantized_cdf, model._cdf_length, model._offset)
    if not all(buffer.numel() for buffer in buffers):
        raise ValueError("the entropy model has no tables: call update() first")
    cdfs, sizes, offsets = (buffer.int().cpu().numpy() for buffer in buffers)
    return cdfs, sizes.reshape(-1), offsets.reshape(-1)


def _is_known(module: nn.Module) -> bool:
    return (
        isinstance(module, EntropyBottleneck | GaussianConditional)
        and not isinstance(module, GaussianMixtureConditional | _Arrays)
        and module.entropy_coder.name == _THEIRS
    )


class _ArrayCoder:
    """Stands where CompressAI's `_EntropyCoder` stood, so that who watches its calls sees these."""

    name = _THEIRS

    def __init__(self) -> None:
        self._tables: Tables | None = None
        self._scales: ScaleIndex | None = None

    def tables(self, model: EntropyModel) -> Tables:
        arrays = _arrays(model)
        if self._tables is None or not self._tables.hold(*arrays):
            self._tables = Tables(*arrays, "numba")
        return self._tables

    def scales(self, table: Floats) -> ScaleIndex:
        if self._scales is None or not np.array_equal(self._scales.table, table):
            self._scales = ScaleIndex(table)
        return self._scales

    def encode_with_indexes(self, symbols: Ints, indexes: Ints, tables: Tables) -> bytes:
        return encode(symbols, indexes, tables)

    def decode_with_indexes(self, string: bytes, indexes: Ints, tables: Tables) -> Ints:
        decoder = Decoder(string, tables)
        symbols = decoder.decode(indexes)
        decoder.finish()
        return symbols


class _Arrays(EntropyModel):
    """Mixed in behind an entropy model's own class."""

    entropy_coder: Any

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.entropy_coder = _ArrayCoder()

    def compress(self, inputs: Tensor, indexes: Tensor, means: Tensor | None = None) -> list[bytes]:
        if inputs.ndim < 2 or inputs.shape != indexes.shape:
            raise ValueError(f"latents of shape {tuple(inputs.shape)} with indexes of {tuple(indexes.shape)}")
        residuals = inputs if means is None else inputs - means
        if residuals.numel():
            check_codable(torch.stack(torch.aminmax(residuals)))  # both are NaN if one is
        symbols = _by_image(self.quantize(residuals, "symbols"))
        coder = self.entropy_coder
        tables = coder.tables(self)
        return _at_once(
            lambda pair: coder.encode_with_indexes(*pair, tables), list(zip(symbols, _by_image(indexes), strict=True))
        )

    def decompress(
        self, strings: Sequence[bytes], indexes: Tensor, dtype: torch.dtype = torch.float, means: Tensor | None = None
    ) -> Tensor:
        if not isinstance(strings, tuple | list) or indexes.ndim < 2 or len(strings) != len(indexes):
            raise ValueError(f"indexes of shape {tuple(indexes.shape)} for {len(strings)} strings")
        if means is not None and not _fits(means, indexes):
            raise ValueError(f"means of shape {tuple(means.shape)} with indexes of {tuple(indexes.shape)}")
        coder = self.entropy_coder
        tables = coder.tables(self)
        decoded = _at_once(
            lambda pair: coder.decode_with_indexes(*pair, tables), list(zip(strings, _by_image(indexes), strict=True))
        )
        symbols = torch.from_numpy(np.asarray(decoded, np.int32)).reshape(indexes.shape)
        return self.dequantize(symbols.to(self._quantized_cdf.device), means, dtype)


def _fits(means: Tensor, indexes: Tensor) -> bool:
    ones = (indexes.shape[0], indexes.shape[1], *[1] * (indexes.ndim - 2))
    return means.shape in (indexes.shape, ones)


def _by_image(values: Tensor) -> Ints:
    return values.int().flatten(1).cpu().numpy()


def _at_once(work: Callable[[Any], _Result], items: Sequence[Any]) -> list[_Result]:
    threads = min(len(items), torch.get_num_threads())
    if threads < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


class _QuickIndexes:
    """Mixed into the class of a Gaussian conditional."""

    def build_indexes(self, scales: Tensor) -> Tensor:
        own: Any = self
        if scales.device.type != "cpu" or scales.dtype != torch.float32 or own.scale_table.dtype != torch.float32:
            kept: Any = super()
            return kept.build_indexes(scales)
        find = own.entropy_coder.scales(own.scale_table.numpy())
        return torch.from_numpy(find(own.lower_bound_scale(scales).detach().numpy()))

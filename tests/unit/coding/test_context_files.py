"""The coding order in bitstream files, and decoding by what the file says."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_codecs import CRITERION, images, spread_latents, tiny_model

from rdtrain.bitstream import Bitstream, DamagedBitstream, pack, unpack
from rdtrain.coding.context import RASTER, WAVEFRONT, coding_order, use_coding_order
from rdtrain.errors import UserError
from rdtrain.eval.decoder_process import decompress
from rdtrain.evaluation import ImageRow, evaluate_image, evaluation_copy, padding

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (50, 70)


@pytest.fixture(scope="module")
def raster() -> Any:
    model = tiny_model("mbt2018")
    spread_latents(model, 20)
    return evaluation_copy(model)


def stream_of(model: Any) -> tuple[Bitstream, ImageRow]:
    row = evaluate_image(model, images(1, *SIZE, seed=2), CRITERION)
    stream = Bitstream(
        model="mbt2018",
        weights="0" * 32,
        tables="1" * 32,
        height=SIZE[0],
        width=SIZE[1],
        padding=padding(*SIZE, 64),
        shape=row.shape,
        strings=row.strings,
        pixels="2" * 64,
        writer="cpu",
        coding_order=coding_order(model),
    )
    return stream, row


def test_a_file_is_decoded_in_its_own_order_whatever_the_model_is_set_to(raster: Any) -> None:
    wavefront = copy.deepcopy(raster)
    assert use_coding_order(wavefront, WAVEFRONT)
    for writer, order in ((raster, RASTER), (wavefront, WAVEFRONT)):
        stream, row = stream_of(writer)
        data = pack(stream)
        back = unpack(data)
        assert back == stream and back.coding_order == order
        assert (b'"coding_order":"wavefront"' in data) == (b"coding_order" in data) == (order == WAVEFRONT)
        for reader in (raster, wavefront):
            model = copy.deepcopy(reader)
            image = decompress(model, back)
            assert coding_order(model) == order
            assert (image.int() - row.image.int()).abs().max() <= 1 and torch.unique(image).numel() > 5


def test_the_other_order_does_not_decode(raster: Any) -> None:
    stream, _ = stream_of(raster)
    with pytest.raises(UserError, match="cannot decode these strings"):
        decompress(copy.deepcopy(raster), replace(stream, coding_order=WAVEFRONT))


@pytest.mark.parametrize(("name", "order"), [("mbt2018", "spiral"), ("mbt2018-mean", WAVEFRONT)])
def test_an_order_that_the_model_lacks_is_refused(raster: Any, name: str, order: str) -> None:
    stream = replace(stream_of(raster)[0], model=name, coding_order=order)
    with pytest.raises(UserError, match=f"{name} has no coding order '{order}'"):
        decompress(evaluation_copy(tiny_model(name)), unpack(pack(stream)))


@pytest.mark.parametrize("value", [1, None, ["wavefront"], "a" * 300, "a\n"])
def test_an_order_is_a_short_text(raster: Any, value: Any) -> None:
    with pytest.raises((DamagedBitstream, UserError), match="coding_order is no short text"):
        pack(replace(stream_of(raster)[0], coding_order=value))

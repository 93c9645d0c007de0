"""The files of an evaluation: a result in CompressAI's JSON format, a table by image, reconstructions, bitstreams."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rdtrain.files import write_atomically, write_json, write_text

Row = Mapping[str, float]

# CompressAI's evaluation rounds reconstructions to 8 bits before it measures them.
_COMPRESSAI = {"bpp": "bpp/real", "psnr-rgb": "psnr/real/8bit", "ms-ssim-rgb": "ms_ssim/real/8bit"}
_SECONDS = {
    "encoding_time": ("time/encode_net_ms", "time/encode_coder_ms"),
    "decoding_time": ("time/decode_net_ms", "time/decode_coder_ms"),
}


def result(name: str, mean: Row, lmbda: float | None, meta: dict[str, Any]) -> dict[str, Any]:
    """Make a result as `compressai.utils.eval_model` prints it, with the ledger beside CompressAI's own metrics.

    Args:
        name: of the model.
        mean: over the images, by ledger name.
        lmbda: that the model was trained with, if known.
        meta: what was evaluated, on what; `n_images`, and `ms_ssim_images` that are large enough for MS-SSIM.

    Returns:
        The content of the JSON file; times are seconds an image, of network and coder together.
    """
    own = {key: mean[source] for key, source in _COMPRESSAI.items() if source in mean}
    if meta["ms_ssim_images"] < meta["n_images"]:  # a point of the rate-distortion plane is of the same images
        own.pop("ms-ssim-rgb", None)
    times = {key: sum(mean[part] for part in parts) / 1000 for key, parts in _SECONDS.items()}
    known = {} if lmbda is None else {"lmbda": lmbda}
    results = {metric: [value] for metric, value in (own | times | known | dict(mean)).items()}
    return {"name": name, "description": "mean over the images, real bitstreams", "meta": meta, "results": results}


def write_results(target: Path, content: dict[str, Any], names: Sequence[str], rows: Sequence[Row]) -> None:
    """Write the result and the table beside it.

    Args:
        target: the JSON file; the table has its name with the ending .csv.
        content: of `result`.
        names: of the images.
        rows: ledger of each image; a metric that an image does not have (MS-SSIM of a small one) stays empty.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", *columns])
    table.writerows([name, *(row.get(column, "") for column in columns)] for name, row in zip(names, rows, strict=True))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target.with_suffix(".csv"), text.getvalue())
    write_json(target, content)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write an image.

    Args:
        path: the file; its folder is made.
        pixels: uint8, (3, H, W).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    write_atomically(path, lambda file: image.save(file, "PNG"))

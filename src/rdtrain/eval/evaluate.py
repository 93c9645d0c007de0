"""One model on one test set: the ledger of every image, the means, and what was asked for beside them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rdtrain import bitstream, environment
from rdtrain.coding.context import coding_order
from rdtrain.data.scan import fingerprint
from rdtrain.eval import device as devices
from rdtrain.eval import memory
from rdtrain.eval.complexity import COUNTED, macs_per_pixel, parameters
from rdtrain.eval.failures import Failures
from rdtrain.eval.images import TestImage, read_image
from rdtrain.eval.models import Identity, Subject, identity
from rdtrain.eval.results import result, write_png, write_results
from rdtrain.evaluation import ImageRow, evaluate_image, mean_row, padding, stride
from rdtrain.files import write_bytes
from rdtrain.losses import RateDistortionLoss

_UNKNOWN = RateDistortionLoss(1.0)  # stands in where no lambda is known; its losses are left out


@dataclass(frozen=True)
class Options:
    """What the user chose.

    Args:
        dataset: name of the test set, for the results.
        mode: of the ledger, `shared` or `full`.
        reconstructions: write PNG files.
        bitstreams: write bitstream files.
        max_images: how many images were asked for, None for all.
    """

    dataset: str
    mode: str
    reconstructions: bool
    bitstreams: bool
    max_images: int | None = None


def default_target(subject: Subject, dataset: str, out: Path | None) -> Path:
    """Choose the result's file.

    Args:
        subject: the model.
        dataset: name of the test set.
        out: folder that the user named.

    Returns:
        In the run's folder `eval-<dataset>.json`, with the checkpoint's name if it is not the default one; elsewhere
        the model's name stands first.
    """
    other = "" if subject.is_default or subject.run is None else f"-{subject.source.stem}"
    if subject.run is not None and out is None:
        return subject.run.path / f"eval-{dataset}{other}.json"
    label = subject.source.stem if subject.run is None else subject.run.path.name
    return (out or Path()) / f"{label}-eval-{dataset}{other}.json"


def evaluate(
    subject: Subject, images: Sequence[TestImage], options: Options, device: torch.device, target: Path
) -> tuple[dict[str, float], dict[str, str]]:
    """Evaluate and write the files; an image that fails does not keep the others from being written.

    Args:
        subject: the model.
        images: the test set.
        options: what the user chose.
        device: that computes.
        target: the result's file; folders beside it have its name. Nothing is written where every image failed.

    Returns:
        The means by ledger name, empty where every image failed; and why images failed, by their names.

    Raises:
        Exception: the first one that was a fault of ours, after everything has been written.
    """
    known = identity(subject.model)
    model = subject.model.to(device)
    macs = macs_per_pixel(model)  # also wakes the device up before anything is timed
    rows: dict[str, ImageRow] = {}
    failures = Failures()
    with memory.limited() if device.type == "cpu" else contextlib.nullcontext():
        for image in tqdm(images, subject.source.name, unit="image", disable=not sys.stderr.isatty()):
            with failures.kept_apart(image):
                row = _ledger(subject, model, image, options.mode, device)
                rows[image.name] = ImageRow(row.metrics, torch.empty(0))  # many images' pictures would fill the memory
                _write_files(target.with_suffix(""), image.stem, row, options, as_stream(subject, known, row, device))
    mean = _of_all(rows)
    if rows:
        meta = _meta(subject, known, options, device) | {"failed": failures.reasons}
        meta |= _images(rows, [image for image in images if image.name in rows])
        meta |= {"macs_per_pixel": macs, "macs_counted": COUNTED}
        content = result(subject.name, mean, None if subject.criterion is None else subject.criterion.lmbda, meta)
        write_results(target, content, list(rows), [row.metrics for row in rows.values()])
        if meta["ms_ssim_images"] < len(rows):
            print(
                f"{subject.source}: MS-SSIM of {meta['ms_ssim_images']} of {len(rows)} images, the others are too small"
            )
    if failures.fault is not None:
        raise failures.fault
    return mean, failures.reasons


def _of_all(rows: Mapping[str, ImageRow]) -> dict[str, float]:
    # A loss beside a rate must be of the same images: none where some are too small for its MS-SSIM.
    def left_out(name: str) -> bool:
        return name.startswith("loss/") and any(name not in row.metrics for row in rows.values())

    return {name: value for name, value in mean_row(rows.values()).items() if not left_out(name)}


def _images(rows: Mapping[str, ImageRow], measured: Sequence[TestImage]) -> dict[str, Any]:
    return {
        "n_images": len(rows),
        "ms_ssim_images": sum("ms_ssim/forward/unclamped" in row.metrics for row in rows.values()),
        "fingerprint": fingerprint(measured),
    }


def _write_files(folder: Path, stem: str, row: ImageRow, options: Options, stream: bitstream.Bitstream) -> None:
    if options.reconstructions:
        write_png(folder / "reconstructions" / f"{stem}.png", row.image.numpy())
    if options.bitstreams:
        write_stream(folder / "bitstreams" / f"{stem}{bitstream.SUFFIX}", stream)


def write_stream(path: Path, stream: bitstream.Bitstream) -> None:
    """Write a bitstream file.

    Args:
        path: the file; its folder is made.
        stream: its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, bitstream.pack(stream))


def _ledger(subject: Subject, model: Any, image: TestImage, mode: str, device: torch.device) -> ImageRow:
    row = evaluate_image(model, read_image(image, device), subject.criterion or _UNKNOWN, mode)
    if subject.criterion is not None:
        return row
    metrics = {name: value for name, value in row.metrics.items() if not name.startswith("loss/")}
    return ImageRow(metrics, row.image, row.strings, row.shape)


def as_stream(subject: Subject, known: Identity, row: ImageRow, device: torch.device) -> bitstream.Bitstream:
    """Put what was coded into the form of a file.

    Args:
        subject: the model.
        known: its identity.
        row: with strings.
        device: that coded.

    Returns:
        The content of a bitstream file.
    """
    height, width = row.image.shape[-2:]
    return bitstream.Bitstream(
        model=subject.name,
        weights=known.weights,
        tables=known.tables,
        height=height,
        width=width,
        padding=padding(height, width, stride(subject.model)),
        shape=row.shape,
        strings=row.strings,
        pixels=pixels_hash(row.image),
        writer=devices.describe(device),
        coding_order=coding_order(subject.model),
    )


def pixels_hash(image: torch.Tensor) -> str:
    """Hash a reconstruction.

    Args:
        image: uint8, (3, H, W), on the CPU.

    Returns:
        sha256 of its bytes in that order.
    """
    return sha256(image.contiguous().numpy().data).hexdigest()


def _meta(subject: Subject, known: Identity, options: Options, device: torch.device) -> dict[str, Any]:
    criterion, run, training = subject.criterion, subject.run, subject.training
    described = environment.describe(device, 0, {})
    return {
        "dataset": options.dataset,
        "run_id": None if run is None else run.id,
        "opt_metric": None if criterion is None else criterion.metric,
        "checkpoint": str(subject.source),
        "weights_id": known.weights,
        "trained_with": None if training is None else _criterion(training),
        "lmbda_typed": criterion is not training,
        "max_images": options.max_images,
        "mode": options.mode,
        "device": devices.describe(device),
        "device_name": described["device_name"],
        "packages": described["packages"],
        "git": described["git"],
        "parameters": parameters(subject.model),
    }


def _criterion(criterion: RateDistortionLoss) -> dict[str, Any]:
    return {name: getattr(criterion, name) for name in ("lmbda", "metric", "form")}

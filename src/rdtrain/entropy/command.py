"""`rdtrain-report entropy`: from what a user names to a study in a folder."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import yaml

from rdtrain.config.compose import completed
from rdtrain.config.schema import Dataset
from rdtrain.data.inventory import take_inventory
from rdtrain.entropy.page import write
from rdtrain.entropy.study import study
from rdtrain.errors import UserError
from rdtrain.eval import device as devices
from rdtrain.eval.images import TestImage, as_test_images, find_test_images, read_image
from rdtrain.eval.models import Subject, check_name, load_subject
from rdtrain.models import read_weights
from rdtrain.probes import Uncodable
from rdtrain.report.rd_path import about
from rdtrain.report.runs import Run
from rdtrain.run_folder import RunFolder


def report(arguments: Namespace) -> None:
    """Measure one model and write its page.

    Args:
        arguments: `source`, `model`, `images`, `max_images` and `out` of the command line.

    Raises:
        UserError: there is no such model or image, or the model cannot code.
    """
    subject = load_subject(arguments.source, arguments.model)
    check_name(subject, arguments.model, "--model ")
    images = _images(subject, arguments.images, arguments.max_images)
    device = devices.choose("cpu", threads=1)  # as a decoder elsewhere would compute
    weights, _ = read_weights(subject.source, str(subject.source))
    quantiles = {key.removesuffix(".quantiles"): value for key, value in weights.items() if key.endswith(".quantiles")}
    read = ((image.name, read_image(image, device)) for image in images)
    try:
        measured = study(subject, read, quantiles, _about(subject))
    except Uncodable as error:
        raise UserError(f"{arguments.source}: {error}") from error
    write(arguments.out or _default_folder(subject), measured)


def _images(subject: Subject, folder: Path | None, most: int) -> Sequence[TestImage]:
    if folder is not None:
        if not folder.is_dir():
            raise UserError(f"--images {folder}: there is no such folder")
        return find_test_images("image_folder", folder, most, ("--images", "--images"))
    if subject.run is None:
        return find_test_images("photos", None, most)
    dataset = Dataset.model_validate(completed(_config(subject.run))["dataset"])
    inventory, problems = take_inventory(dataset, most)
    if inventory is None:
        raise UserError([f"{problem}; or type --images DIR" for problem in problems])
    return as_test_images(inventory.images["infer"])


def _config(run: RunFolder) -> dict[str, object]:
    return yaml.safe_load(run.config.read_text(encoding="utf-8"))  # `load_subject` has checked it


def _about(subject: Subject) -> str:
    if subject.run is None:
        return f"{subject.name}, {subject.source.name}"
    return f"{about(Run(subject.run.path, _config(subject.run), {}, {}))}, {subject.source.name}"


def _default_folder(subject: Subject) -> Path:
    if subject.run is None:
        return Path(f"entropy-{subject.source.stem}")
    return subject.run.path / ("entropy" if subject.is_default else f"entropy-{subject.source.stem}")

"""One look at the header of every image before a run starts, and a fingerprint of what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from tqdm import tqdm

from rdtrain.data.decode import MAX_PIXELS, BadImage, ImageInfo, probe_image
from rdtrain.errors import UserError

OnBadImage = Literal["skip", "error"]
"""What to do with a file that is no usable image: leave it out, or stop."""

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = 16  # most of the time is spent waiting for a disk or a file server
_NAMED = 20  # files that a message names one by one


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Args:
        images: the usable images, in the order of the paths.
        bad: the others.
    """

    images: tuple[ImageInfo, ...]
    bad: tuple[BadImage, ...]


def scan(paths: Sequence[Path], *, on_bad_image: OnBadImage = "error", max_pixels: int = MAX_PIXELS) -> Scan:
    """Read the headers of image files.

    Args:
        paths: the files.
        on_bad_image: `skip` returns bad files beside the good ones, `error` refuses them.
        max_pixels: height times width above which an image counts as bad.

    Returns:
        Sizes of the good images, and the bad ones with their reasons.

    Raises:
        UserError: there are bad files and `on_bad_image` is `error`, or there is no good one.
    """

    def probe(path: Path) -> ImageInfo | BadImage:
        try:
            return probe_image(path, max_pixels=max_pixels)
        except BadImage as bad:
            return bad

    found = in_threads(probe, paths, _THREADS, "image headers")
    result = Scan(
        images=tuple(item for item in found if isinstance(item, ImageInfo)),
        bad=tuple(item for item in found if isinstance(item, BadImage)),
    )
    if result.bad and (on_bad_image == "error" or not result.images):
        raise UserError(complaint(result.bad, len(paths)))
    return result


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int, name: str) -> list[Result]:
    """Do the same with many items at once; shows progress on a terminal when it takes over a second.

    Args:
        work: what to do with one.
        items: of the work.
        threads: at most so many at once.
        name: of the progress bar.

    Returns:
        What the work returned, in the order of the items.
    """
    with ThreadPoolExecutor(min(threads, max(1, len(items)))) as pool:
        done = pool.map(work, items)
        return list(tqdm(done, total=len(items), desc=name, delay=1.0, leave=False, disable=None))


def complaint(bad: Sequence[BadImage], n_all: int) -> list[str]:
    """Name the files that cannot be used and say what to type.

    Args:
        bad: these files.
        n_all: number of files among which they are.

    Returns:
        A sentence, and a line for each of the first twenty.
    """
    remedy = "dataset.on_bad_image=skip to leave them out" if len(bad) < n_all else "another dataset.root=FOLDER"
    return [f"{len(bad)} of {n_all} image files cannot be used; type {remedy}:", *listed(bad)]


def listed(bad: Sequence[BadImage]) -> list[str]:
    """Name files one by one, as far as a person reads on.

    Args:
        bad: the files.

    Returns:
        A line for each of the first twenty, and one that counts the rest.
    """
    more = [f"  and {len(bad) - _NAMED} more"] if len(bad) > _NAMED else []
    return [*(f"  {image}" for image in bad[:_NAMED]), *more]


def fingerprint(images: Iterable[ImageInfo]) -> str:
    """Hash what identifies a set of images, so that two runs can tell whether they used the same.

    Args:
        images: any order.

    Returns:
        SHA-256, 64 hexadecimal digits, of the sorted (file name, bytes, height, width); independent of folder and host.
    """
    rows = sorted((image.path.name, image.file_bytes, image.height, image.width) for image in images)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

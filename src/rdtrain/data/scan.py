"""One look at the header of every image before a run starts, and a fingerprint of what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from rdtrain.data.decode import MAX_PIXELS, BadImage, ImageInfo, probe_image
from rdtrain.errors import UserError

OnBadImage = Literal["skip", "error"]
"""What to do with a file that is no usable image: leave it out, or stop."""

_THREADS = 16  # most of the time is spent waiting for a disk or a file server
_NAMED = 20  # bad files that an error names one by one


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
    """Read the headers of image files with a pool of threads; shows progress on a terminal when it takes over a second.

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

    with ThreadPoolExecutor(min(_THREADS, max(1, len(paths)))) as pool:
        progress = tqdm(
            pool.map(probe, paths), total=len(paths), desc="image headers", delay=1.0, leave=False, disable=None
        )
        found = list(progress)
    result = Scan(
        images=tuple(item for item in found if isinstance(item, ImageInfo)),
        bad=tuple(item for item in found if isinstance(item, BadImage)),
    )
    if result.bad and (on_bad_image == "error" or not result.images):
        raise UserError(_complaint(result))
    return result


def _complaint(result: Scan) -> list[str]:
    """Return sentences that name the bad files and what to type."""
    n_bad, n_all = len(result.bad), len(result.bad) + len(result.images)
    remedy = "type dataset.on_bad_image=skip to leave them out" if result.images else "type another dataset.root=FOLDER"
    listed = [f"  {bad}" for bad in result.bad[:_NAMED]]
    more = [f"  and {n_bad - _NAMED} more"] if n_bad > _NAMED else []
    return [f"{n_bad} of {n_all} image files cannot be used; {remedy}:", *listed, *more]


def fingerprint(images: Iterable[ImageInfo]) -> str:
    """Hash what identifies a set of images, so that two runs can tell whether they used the same.

    Args:
        images: any order.

    Returns:
        SHA-256, 64 hexadecimal digits, of the sorted (file name, bytes, height, width); independent of folder and host.
    """
    rows = sorted((image.path.name, image.file_bytes, image.height, image.width) for image in images)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

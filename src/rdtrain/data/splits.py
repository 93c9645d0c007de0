"""Lists of image files and their division into train, valid and infer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rdtrain.data.decode import SUFFIXES


class LayoutError(Exception):
    """A folder that does not look as its dataset should; the text continues "FOLDER ..."."""


@dataclass(frozen=True)
class Split:
    """The files of a dataset, by what they are for; no file is in both train and another part.

    Args:
        train: files to train on, may be empty for a test set.
        valid: files to choose a model by, may be empty for a test set.
        infer: files to report on.
    """

    train: tuple[Path, ...] = ()
    valid: tuple[Path, ...] = ()
    infer: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Shares:
    """How to divide a folder that does not come divided.

    Args:
        seed: another seed gives another division.
        valid_percent: share of the files for valid, 0 to 100; at least one file.
        infer_percent: share of the files for infer, 0 to 100; 0 for none.
    """

    seed: int
    valid_percent: float
    infer_percent: float


def list_images(folder: Path) -> tuple[Path, ...]:
    """Find the files with an image's suffix in a folder and below, sorted by their relative paths.

    Hidden files and folders are left out (macOS leaves `._name.jpg` files that are no images); links to folders are
    not followed. Links that lead nowhere and pipes are listed too: a scan refuses and names them.

    Args:
        folder: where to look.

    Returns:
        The paths, each beginning with `folder`; none if there is no such folder.

    Raises:
        LayoutError: a folder cannot be read.
    """
    found: list[Path] = []
    if not os.path.isdir(folder):  # Path.is_dir raises for long names
        return ()
    try:
        for here, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            wanted = (name for name in names if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
            found.extend(Path(here, name) for name in wanted)
    except OSError as error:
        raise LayoutError(f"cannot be read ({error})") from error
    return tuple(sorted(found))


def _raise(error: OSError) -> None:
    raise error


def split_by_hash(paths: Sequence[Path], root: Path, shares: Shares) -> Split:
    """Divide files by a seeded hash of their path below the root.

    The files are put in the order of the hash; the first are for infer, the next for valid, the rest for train. So the
    division is the same on every machine, and a new file moves at most one other file across each border.

    Args:
        paths: files below `root`.
        root: folder that the hashed path is relative to.
        shares: seed and sizes.

    Returns:
        Disjoint parts that hold all files; each part in the order of `paths`.

    Raises:
        LayoutError: too few files to leave one in train.
    """
    n_infer = _count(len(paths), shares.infer_percent) if shares.infer_percent > 0 else 0
    n_valid = _count(len(paths), shares.valid_percent)
    if n_infer + n_valid >= len(paths):
        raise LayoutError(
            f"holds {len(paths)} image(s), of which dataset.valid_percent={shares.valid_percent:g} and "
            f"dataset.infer_percent={shares.infer_percent:g} leave none to train on"
        )
    names = {path: path.relative_to(root).as_posix() for path in paths}
    ranked = sorted(paths, key=lambda path: hashlib.sha256(f"{shares.seed}/{names[path]}".encode()).digest())
    infer, valid = set(ranked[:n_infer]), set(ranked[n_infer : n_infer + n_valid])
    return Split(
        train=tuple(path for path in paths if path not in infer and path not in valid),
        valid=tuple(path for path in paths if path in valid),
        infer=tuple(path for path in paths if path in infer),
    )


def _count(n_files: int, percent: float) -> int:
    """Return a share of the files as a number, at least one."""
    return max(1, round(n_files * percent / 100))

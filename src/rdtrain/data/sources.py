"""Where the files of each dataset that a user can name are: one table, `SOURCES`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rdtrain.data.photos import find_photos
from rdtrain.data.splits import LayoutError, Shares, Split, list_images, split_by_hash
from rdtrain.errors import UserError

_KODAK = tuple(f"kodim{number:02d}.png" for number in range(1, 25))
_VIMEO_KINDS = (("tri", "im2.png"), ("sep", "im4.png"))  # list prefix and middle frame of the triplets and septuplets


@dataclass(frozen=True)
class Source:
    """A kind of dataset.

    Args:
        find: from the root folder (which it may ignore) and the shares to the files; raises `LayoutError`.
        layout: what the root folder must hold, to complete "expected: ..."; None if there is no root to give.
    """

    find: Callable[[Path, Shares], Split]
    layout: str | None


def find_images(
    name: str,
    root: Path | str | None,
    keys: tuple[str, str] = ("dataset", "dataset.root"),
    /,
    *,
    split_seed: int,
    valid_percent: float,
    infer_percent: float,
) -> Split:
    """Find the files of a dataset.

    Args:
        name: a key of `SOURCES`.
        root: the dataset's folder (`dataset.root`), None for `photos`.
        keys: the configuration keys that `name` and `root` were typed under, for the error.
        split_seed: seed of the division, where the dataset does not come divided.
        valid_percent: share for valid, in percent of the files, where it does not come divided.
        infer_percent: share for infer likewise; 0 for none.

    Returns:
        The files; where the dataset has none for infer, infer is the same as valid.

    Raises:
        UserError: no dataset of that name, no such folder, or a folder that looks different; says what is expected.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1) or ["photos"]
        raise UserError(f"there is no dataset {name!r} (there are {', '.join(SOURCES)}); type {keys[0]}={near[0]}")
    source = SOURCES[name]
    folder = Path(".") if root is None else Path(root).expanduser()
    if source.layout is not None and (root is None or not folder.is_dir()):
        raise UserError(_complaint(name, root, keys, "is not given" if root is None else "is not a folder"))
    try:
        split = source.find(folder, Shares(split_seed, valid_percent, infer_percent))
    except LayoutError as error:
        raise UserError(_complaint(name, root, keys, str(error))) from error
    return replace(split, infer=split.infer or split.valid)


def _complaint(name: str, root: Path | str | None, keys: tuple[str, str], fault: str) -> str:
    """Return the sentence for a dataset that is not there or looks different."""
    name_key, root_key = keys
    layout = SOURCES[name].layout
    if layout is None:
        return f"{name_key}={name}: the installation {fault}"
    given = root_key if root is None else f"{root_key}={root}"
    return f"{name_key}={name}: {given} {fault}; expected: {layout}; type {root_key}=FOLDER"


def _photos(_root: Path, _shares: Shares) -> Split:
    return find_photos()


def _image_folder(root: Path, shares: Shares) -> Split:
    # What is missing of train/, valid/ and infer/ is cut out of the training images.
    train = _named_folder(root, "train")
    valid = _named_folder(root, "valid", "val", "validation")
    infer = _named_folder(root, "infer", "test")
    if train is None and (valid or infer):
        raise LayoutError(f"has {(valid or infer or root).name}/ but no train/")
    infer_images = _images(infer) if infer else ()
    if train and valid:
        return Split(_images(train), _images(valid), infer_images)
    shares = replace(shares, infer_percent=0) if infer else shares
    split = split_by_hash(_images(train or root), root, shares)
    return replace(split, infer=infer_images or split.infer)


def _vimeo90k(root: Path, _shares: Shares) -> Split:
    # The middle frame of each sequence: its neighbours show nearly the same picture. The test list is for valid.
    for prefix, frame in _VIMEO_KINDS:
        if (root / f"{prefix}_trainlist.txt").is_file():
            return Split(*(_vimeo_frames(root, f"{prefix}_{part}list.txt", frame) for part in ("train", "test")))
    raise LayoutError("has neither tri_trainlist.txt nor sep_trainlist.txt")


def _vimeo_frames(root: Path, list_name: str, frame: str) -> tuple[Path, ...]:
    if not (root / list_name).is_file():
        raise LayoutError(f"has no {list_name}")
    sequences = (root / list_name).read_text(encoding="utf-8").split()
    frames = tuple(root / "sequences" / sequence / frame for sequence in sequences)
    # Looking for each of 90,000 files here would take as long as the scan that follows, which names the missing ones.
    if not frames or not frames[0].is_file():
        raise LayoutError(f"has no image that {list_name} names" + (f", such as {frames[0]}" if frames else ""))
    return frames


def _clic(root: Path, _shares: Shares) -> Split:
    # The professional and the mobile set of 2020 unpack to train/ and valid/, in one folder or one each.
    train, valid, test = (
        tuple(path for folder in sorted([root / part, *root.glob(f"*/{part}")]) for path in list_images(folder))
        for part in ("train", "valid", "test")
    )
    if not train or not valid:
        raise LayoutError(f"has no images in {'valid' if train else 'train'}/")
    return Split(train, valid, test)


def _div2k(root: Path, _shares: Shares) -> Split:
    train, valid = (_images(_first_folder([root / f"DIV2K_{part}_HR"])) for part in ("train", "valid"))
    return Split(train, valid)


def _flickr2k(root: Path, shares: Shares) -> Split:
    # The full-size pictures only: the archive holds scaled-down copies beside them.
    candidates = [root / "Flickr2K" / "Flickr2K_HR", root / "Flickr2K_HR", root / "Flickr2K"]
    folder = _first_folder(candidates)
    return split_by_hash(_images(folder), folder, shares)


def _kodak(root: Path, _shares: Shares) -> Split:
    # All 24 or nothing: an average over fewer is no Kodak figure.
    images = tuple(root / name for name in _KODAK)
    missing = [path.name for path in images if not path.is_file()]
    if missing:
        raise LayoutError(f"lacks {len(missing)} of the 24 images, {missing[0]} the first")
    return Split(infer=images)


def _named_folder(root: Path, *names: str) -> Path | None:
    """Return the sub-folder with the first of some names that is there, upper or lower case."""
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    return next((folders[name] for name in names if name in folders), None)


def _first_folder(candidates: Sequence[Path]) -> Path:
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise LayoutError(f"has no folder {candidates[0].name}")


def _images(folder: Path) -> tuple[Path, ...]:
    images = list_images(folder)
    if not images:
        raise LayoutError(f"holds no image files in {folder}")
    return images


SOURCES = {
    "photos": Source(_photos, None),
    "image_folder": Source(
        _image_folder,
        "images in train/, valid/ (or val/, validation/) and infer/ (or test/), or in one folder that is split by "
        "dataset.valid_percent and dataset.infer_percent",
    ),
    "vimeo90k": Source(
        _vimeo90k,
        "sequences/ beside tri_trainlist.txt and tri_testlist.txt (triplets) or sep_*list.txt (septuplets); the middle "
        "frame of each is used",
    ),
    "clic": Source(_clic, "train/ and valid/ (and test/), or folders such as professional/ and mobile/ that hold them"),
    "div2k": Source(_div2k, "DIV2K_train_HR/ and DIV2K_valid_HR/"),
    "flickr2k": Source(_flickr2k, "Flickr2K_HR/, in a folder Flickr2K/ or not"),
    "kodak": Source(_kodak, "kodim01.png to kodim24.png; for part of them use dataset=image_folder"),
}
"""Every dataset that `dataset=NAME` can name."""

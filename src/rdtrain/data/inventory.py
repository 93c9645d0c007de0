"""The images of a run, found and looked at before anything is created."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rdtrain.config.schema import Dataset
from rdtrain.data.datasets import check_patch_size
from rdtrain.data.decode import BadImage, ImageInfo
from rdtrain.data.scan import complaint, fingerprint, scan
from rdtrain.data.sources import find_images
from rdtrain.data.splits import LayoutError, Split, list_images
from rdtrain.data.store import ImageStore
from rdtrain.errors import UserError

Item = TypeVar("Item", ImageInfo, BadImage)

_NAMED = 20  # files that a warning names one by one


@dataclass(frozen=True)
class Inventory:
    """The images of a run.

    Args:
        images: those with a good header, by loader.
        bad: files that cannot be used, by loader; `make_stores` adds those of valid and infer whose pixels are damaged.
    """

    images: dict[str, list[ImageInfo]]
    bad: dict[str, list[BadImage]]

    def warnings(self) -> list[str]:
        """What the user should know about files that were left out.

        Returns:
            No sentence, or one that counts and names them.
        """
        bad = list({image.path: image for images in self.bad.values() for image in images}.values())
        if not bad:
            return []
        named = "; ".join(str(image) for image in bad[:_NAMED])
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        return [f"{len(bad)} image files cannot be used and are left out: {named}{more}"]

    def describe(self) -> dict[str, Any]:
        """What identifies the images.

        Returns:
            Number and fingerprint by loader.
        """
        return {
            loader: {"images": len(images), "fingerprint": fingerprint(images)}
            for loader, images in self.images.items()
        }


def take_inventory(dataset: Dataset, max_infer_images: int | None = None) -> tuple[Inventory | None, list[str]]:
    """Find the images of a data set and read their headers.

    Args:
        dataset: `dataset.*`.
        max_infer_images: infer images kept, the first ones; None for all.

    Returns:
        The images (None where anything is wrong) and one sentence for every mistake.
    """
    try:
        split = _split(dataset)
        if not split.train or not split.valid:
            return None, [f"dataset={dataset.name} has no images to train on; give them with dataset=image_folder"]
        paths = tuple(dict.fromkeys((*split.train, *split.valid, *split.infer)))  # infer may be valid
        found = scan(paths, on_bad_image=dataset.on_bad_image, max_pixels=dataset.max_pixels)
    except UserError as error:
        return None, error.problems
    wanted = {"train": split.train, "valid": split.valid, "infer": split.infer}
    images, bad = _by_loader(found.images, wanted), _by_loader(found.bad, wanted)
    images["infer"] = images["infer"][:max_infer_images]
    problems = [_none_left(loader, bad[loader]) for loader, some in images.items() if not some]
    if dataset.small_images == "refuse":
        problems += check_patch_size((*images["train"], *images["valid"]), dataset.patch_size)
    return (None if problems else Inventory(images, bad)), problems


def make_stores(inventory: Inventory, dataset: Dataset) -> dict[str, ImageStore]:
    """Make the stores that decode and keep the images.

    A stand-in for a bad image would falsify the means of valid and infer, so the images that these use are decoded
    here, and those that prove bad are left out or refused. Training images are decoded when they are needed.

    Args:
        inventory: the images; gains what proves bad.
        dataset: `dataset.*`; the memory is shared out train first.

    Returns:
        A store by loader; valid and infer share one where they have the same images.

    Raises:
        UserError: an image of valid or infer is bad and is to be refused, or none is left.
    """
    left = dataset.cache_mb * 2**20
    stores = {
        "train": ImageStore(
            inventory.images["train"],
            left,
            on_bad_image=dataset.on_bad_image,
            max_pixels=dataset.max_pixels,
            left_out=inventory.bad["train"],
        )
    }
    left -= stores["train"].kept_bytes
    if inventory.images["infer"] == inventory.images["valid"]:
        return {**stores, **dict.fromkeys(("valid", "infer"), _read_store(inventory, "valid", dataset, left))}
    stores["valid"] = _read_store(inventory, "valid", dataset, left, dataset.valid_crops)
    stores["infer"] = _read_store(inventory, "infer", dataset, left - stores["valid"].kept_bytes)
    return stores


def _read_store(
    inventory: Inventory, loader: str, dataset: Dataset, cache_bytes: int, most: int | None = None
) -> ImageStore:
    # A store whose first `most` images are known to be good.
    images, bad = inventory.images[loader], inventory.bad[loader]
    while images:
        store = ImageStore(images, cache_bytes, max_pixels=dataset.max_pixels, left_out=bad)
        found = store.read(most)
        if not found:
            return store
        if dataset.on_bad_image == "error":
            raise UserError(complaint(found, len(images)))
        bad.extend(found)
        paths = {image.path for image in found}
        images = [image for image in images if image.path not in paths]
    raise UserError(_none_left(loader, bad))


def _none_left(loader: str, bad: Sequence[BadImage]) -> str:
    """Return the sentence for a loader without images."""
    return (
        f"none of the {loader} images can be used, the first because {bad[0]}; "
        f"type another dataset.{'infer_root' if loader == 'infer' else 'root'}=FOLDER"
    )


def _split(dataset: Dataset) -> Split:
    options = {
        "split_seed": dataset.split_seed,
        "valid_percent": dataset.valid_percent,
        "infer_percent": dataset.infer_percent,
    }
    split = find_images(dataset.name, dataset.root, **options)
    if dataset.infer_root is None:
        return split
    if dataset.infer_name is None:
        infer = _flat_folder(Path(dataset.infer_root))
    else:
        keys = ("dataset.infer_name", "dataset.infer_root")
        infer = find_images(dataset.infer_name, dataset.infer_root, keys, **options).infer
    return Split(split.train, split.valid, infer)


def _flat_folder(folder: Path) -> tuple[Path, ...]:
    try:
        images = list_images(folder.expanduser())
    except LayoutError as error:
        raise UserError(f"dataset.infer_root={folder} {error}") from error
    if not images:
        raise UserError(f"dataset.infer_root={folder} holds no image files: type a folder that does")
    return images


def _by_loader(items: Sequence[Item], wanted: dict[str, tuple[Path, ...]]) -> dict[str, list[Item]]:
    """Return the images or bad images that belong to each loader, in the order of its files."""
    by_path = {item.path: item for item in items}
    return {loader: [by_path[path] for path in paths if path in by_path] for loader, paths in wanted.items()}

"""The images of a run, found and looked at before anything is created."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdtrain.config.schema import Dataset
from rdtrain.data.datasets import check_patch_size
from rdtrain.data.decode import BadImage, ImageInfo
from rdtrain.data.scan import fingerprint, scan
from rdtrain.data.sources import find_images
from rdtrain.data.splits import LayoutError, Split, list_images
from rdtrain.data.store import ImageStore
from rdtrain.errors import UserError

_NAMED = 20  # files that a warning names one by one


@dataclass(frozen=True)
class Inventory:
    """The images of a run.

    Args:
        images: usable ones by loader.
        bad: files that cannot be used.
    """

    images: dict[str, tuple[ImageInfo, ...]]
    bad: tuple[BadImage, ...]

    def warnings(self) -> list[str]:
        """What the user should know about files that were left out.

        Returns:
            No sentence, or one that counts and names them.
        """
        if not self.bad:
            return []
        named = "; ".join(str(bad) for bad in self.bad[:_NAMED])
        more = f"; and {len(self.bad) - _NAMED} more" if len(self.bad) > _NAMED else ""
        return [f"{len(self.bad)} image files cannot be used and are left out: {named}{more}"]

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
        infer = split.infer[:max_infer_images]
        paths = tuple(dict.fromkeys((*split.train, *split.valid, *infer)))  # infer may be valid
        found = scan(paths, on_bad_image=dataset.on_bad_image, max_pixels=dataset.max_pixels)
    except UserError as error:
        return None, error.problems
    images = _by_loader(found.images, {"train": split.train, "valid": split.valid, "infer": infer})
    problems = [
        f"dataset.root={dataset.root}: none of the {loader} images can be read, the first because {found.bad[0]}"
        for loader, some in images.items()
        if not some
    ]
    if dataset.small_images == "refuse":
        problems += check_patch_size((*images["train"], *images["valid"]), dataset.patch_size)
    return (None if problems else Inventory(images, found.bad)), problems


def make_stores(inventory: Inventory, dataset: Dataset) -> dict[str, ImageStore]:
    """Make the stores that decode and keep the images.

    Args:
        inventory: the images.
        dataset: `dataset.*`; the memory is shared out train first.

    Returns:
        A store by loader; valid and infer share one where they have the same images.
    """
    stores: dict[str, ImageStore] = {}
    left = dataset.cache_mb * 2**20
    for loader, images in inventory.images.items():
        if loader == "infer" and images == inventory.images["valid"]:
            stores[loader] = stores["valid"]
            continue
        # A stand-in would falsify the means of valid and infer.
        on_bad_image = dataset.on_bad_image if loader == "train" else "error"
        stores[loader] = ImageStore(images, left, on_bad_image=on_bad_image, max_pixels=dataset.max_pixels)
        left = max(0, left - sum(3 * image.height * image.width for image in images))
    return stores


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
        raise UserError(f"dataset.infer_root={folder} holds no image files")
    return images


def _by_loader(good: tuple[ImageInfo, ...], wanted: dict[str, tuple[Path, ...]]) -> dict[str, tuple[ImageInfo, ...]]:
    by_path = {image.path: image for image in good}
    return {loader: tuple(by_path[path] for path in paths if path in by_path) for loader, paths in wanted.items()}

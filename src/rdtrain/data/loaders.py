"""The three loaders of a run: train, valid, infer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from rdtrain.data.datasets import FullImages, SmallImages, TrainCrops, ValidCrops, collate
from rdtrain.data.decode import BadImage
from rdtrain.data.sampler import CropSampler
from rdtrain.data.scan import listed
from rdtrain.data.store import ImageStore, usable_cpus
from rdtrain.data.workers import be_patient, context
from rdtrain.errors import UserError

_MOST_WORKERS = 8
# torch's word for a worker that died, with the ids of one or several
_DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) [\w :]+")


def make_loaders(
    stores: Mapping[str, ImageStore],
    *,
    patch_size: int,
    batch_size: int,
    valid_batch_size: int,
    valid_crops: int | None = None,
    seed: int,
    epoch_steps: int | None = None,
    workers: int | Literal["auto"] = "auto",
    pin_memory: bool = False,
    flips: bool = True,
    small_images: SmallImages = "refuse",
    processes: int = 1,
) -> dict[str, DataLoader]:
    """Make a loader for each store; batches are `{"x": uint8 (B, 3, H, W), "index": int64 (B,)}`.

    Training batches are always full. Without `epoch_steps` an epoch has as many batches as one pass over the images
    fills, at least one; the images left over come first in the next epoch, because the stream goes on, so none is
    dropped. `loaders["train"].sampler.seek(epoch, done)` chooses the epoch; keep hold of the sampler, accelerate's
    `prepare` hides it. All loaders leave torch's global generator alone, so that the noise that a model draws depends
    on neither the workers nor the number of loaders.

    Args:
        stores: any of `train`, `valid`, `infer`.
        patch_size: side of the crops of train and valid, in pixels.
        batch_size: crops in a training batch of one process.
        valid_batch_size: crops in a validation batch; infer takes whole images one by one.
        valid_crops: crops in all, taken from the validation images in turn; None for one of each.
        seed: of the order and the crops of train.
        epoch_steps: training batches that one process takes in an epoch.
        workers: processes that decode; `auto` is 0 for a store that keeps all its images, else half of the CPUs that
            this process may use, at most 8.
        pin_memory: for a CUDA device.
        flips: mirror every second training crop.
        small_images: what to do with images smaller than a crop.
        processes: training processes that share the stream, each with its own batches.

    Returns:
        Loaders under the same keys.

    Raises:
        UserError: an image is smaller than the patch and `small_images` is `refuse`.
    """

    def loader(key: str, dataset: Any, **arguments: Any) -> DataLoader:
        n_workers = _n_workers(stores[key]) if workers == "auto" else workers
        generator = torch.Generator()  # it seeds worker processes, which draw nothing at random
        arguments["persistent_workers"] = key == "train" and n_workers > 0
        if n_workers > 0:
            arguments["multiprocessing_context"] = context()
        return DataLoader(
            dataset,
            num_workers=n_workers,
            pin_memory=pin_memory,
            collate_fn=collate,
            generator=generator,
            worker_init_fn=be_patient,
            **arguments,
        )

    loaders = {}
    if "train" in stores:
        crops = TrainCrops(stores["train"], patch_size, flips=flips, small_images=small_images)
        steps = epoch_steps or max(1, len(crops) // (batch_size * processes))
        sampler = CropSampler(len(crops), epoch_samples=steps * batch_size * processes, seed=seed)
        loaders["train"] = loader("train", crops, sampler=sampler, batch_size=batch_size, drop_last=True)
    if "valid" in stores:
        centres = ValidCrops(stores["valid"], patch_size, crops=valid_crops, small_images=small_images)
        loaders["valid"] = loader("valid", centres, batch_size=valid_batch_size)
    if "infer" in stores:
        loaders["infer"] = loader("infer", FullImages(stores["infer"]), batch_size=1)
    return loaders


def explain_loader_error(error: BaseException, stores: Iterable[ImageStore]) -> UserError | None:
    """Name the image file behind an error that a loader raised.

    Args:
        error: what came out of iterating a loader.
        stores: the images that it could have been reading.

    Returns:
        What to tell the user, if a bad image or the death of a worker process is the cause; None for other errors.
    """
    stores = list(dict.fromkeys(stores))  # infer may be valid
    # torch turns a worker's exception into one with this text, and a worker's death into a RuntimeError of its own.
    if isinstance(error, BadImage) or "Caught BadImage in DataLoader worker" in str(error):
        return UserError(_blame_images(error, stores))
    death = _DEATH.search(str(error)) if isinstance(error, RuntimeError) else None
    return None if death is None else UserError(_blame_death(death, stores))


def _blame_images(error: BaseException, stores: Sequence[ImageStore]) -> list[str]:
    """Return sentences about images that proved bad during a run."""
    found = {store: store.bad_images() for store in stores}
    bad = [image for images in found.values() for image in images]
    if any(store.images and len(images) == len(store) for store, images in found.items()):
        head = "none of the images can be read any more; is dataset.root still there? The same command continues:"
    else:
        head = (
            "an image proved bad while the run read it; put back what is missing, and the same command continues; "
            "remove what is damaged (for train also: dataset.on_bad_image=skip) to begin anew:"
        )
    return [head, *(listed(bad) or [f"  {error}"])]


def _blame_death(death: re.Match[str], stores: Sequence[ImageStore]) -> str:
    """Return a sentence about the death of a worker process."""
    dead = {int(pid) for pid in death["pids"].split(",")}
    last = sorted({str(path) for store in stores for pid, path in store.in_flight().items() if pid in dead})
    return (
        f"a data loading process died while it decoded {' and '.join(last) or 'no image'} ({death[0].strip()}); the "
        "same command continues from the last epoch; if it dies again, remove that file, or give the run more memory "
        "(a lower dataset.workers or dataset.cache_mb needs less)"
    )


def _n_workers(store: ImageStore) -> int:
    """Return how many worker processes pay: none when nothing is left to decode after the first pass."""
    if store.keeps_all:
        return 0
    return min(_MOST_WORKERS, usable_cpus() // 2)

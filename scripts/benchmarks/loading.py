"""Case D: crops from folders of photographs, against CompressAI's ImageFolder and torchvision's transforms."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import torch
from compressai.datasets import ImageFolder
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.measure import Options, Row, images, in_turn, medians, ratios, timed
from benchmarks.processes import scratch
from rdtrain.data.loaders import make_loaders
from rdtrain.data.scan import scan
from rdtrain.data.store import ImageStore

_BATCH = 8
_FOLDERS = (("JPEG", "bsds500/train", 96), ("PNG", "kodak", 24))
_ENOUGH = 2**31  # bytes, for all of them


def case_d(options: Options) -> list[Row]:
    """Crops, once all images are decoded and when none is kept, in the training process itself.

    Args:
        options: of the user.

    Returns:
        Two rows for each format and size.
    """
    rows = []
    for kind, name, most in _FOLDERS:
        files = images(options, name, _BATCH if options.quick else most)
        for size in (64,) if options.quick else (64, 128, 256):
            what = f"{size}x{size} crops from {len(files)} {kind} files"
            rows += _rows(files, size, what, options.turns(9))
    return rows


def _rows(files: list[Path], size: int, what: str, rounds: int) -> list[Row]:
    with scratch() as folder:
        (folder / "train").mkdir()
        for path in files:
            (folder / "train" / path.name).symlink_to(path.resolve())
        cut = transforms.Compose([transforms.RandomCrop(size), transforms.ToTensor()])
        theirs = DataLoader(ImageFolder(folder, transform=cut), _BATCH, shuffle=True, drop_last=True)
        cached, decoded = (_loader(files, size, keep) for keep in (_ENOUGH, 0))
        # One pass over the cache takes milliseconds.
        sides = {
            "ImageFolder": lambda: timed(lambda: deque(theirs, maxlen=0)),
            "cached": lambda: timed(lambda: _pass(cached), 20),
            "decoded": lambda: timed(lambda: _pass(decoded)),
        }
        times = in_turn(sides, rounds, f"D, {what}", warm_up=True)
    return [
        Row("D", f"{what}, {told}", "CompressAI's ImageFolder and torchvision's transforms", "times as fast", target,
            True, ratios(times["ImageFolder"], times[side]), medians(times))
        for side, told, target in (("cached", "in memory", 5.0), ("decoded", "decoded each time", 1.5))
    ]  # fmt: skip


def _loader(files: list[Path], size: int, keep: int) -> DataLoader:
    found = scan(files, on_bad_image="error", max_pixels=10**9)
    store = ImageStore(found.images, keep)
    return make_loaders(
        {"train": store}, patch_size=size, batch_size=_BATCH, valid_batch_size=1, seed=1, workers=0, small_images="pad"
    )["train"]


def _pass(loader: DataLoader) -> None:
    # To the floats that a step takes, as ToTensor makes them.
    for batch in loader:
        batch["x"].to(torch.float32, memory_format=torch.contiguous_format).div_(255)

"""Decoded images in memory that all loader processes share.

Each image is decoded once, by whichever process needs it first, into one anonymous memory map. Worker processes that
are forked share the map itself, so nothing is copied and no limit on /dev/shm applies; where workers are spawned
instead, each keeps its own.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rdtrain.data.decode import MAX_PIXELS, BadImage, Box, Choice, ImageInfo, decode_image
from rdtrain.data.scan import OnBadImage, in_threads
from rdtrain.errors import UserError

# State of an image, one shared number each; 0 before it is decoded.
_READY, _BAD = 1, 2
_NUMBER = np.dtype(np.int32)
# A row for each process that decodes: its id and the image's index, left behind by one that dies. Worker processes are
# started one after another, so the last digits of their ids differ.
_ROWS = 4096
_NOT_KEPT = -1


class ImageStore:
    """A sequence of decoded images; `store[i]` is uint8 (H, W, 3).

    A kept image is a view of the shared memory and must not be written to. Two processes that need the same image at
    the same time both decode it, and write the same bytes.

    Args:
        images: from a scan, whose sizes are relied on.
        cache_bytes: most bytes of decoded pixels to keep; images are taken in their order as long as they fit, the
            others are decoded at every access.
        on_bad_image: what to do when an image proves bad only now (truncated, or gone since the scan): `error` raises,
            `skip` puts the next good image in its place.
        max_pixels: passed to `decode_image`.
        left_out: files that belong to these images and were found to be bad before, for the record.

    Raises:
        UserError: the memory cannot be reserved.
    """

    def __init__(
        self,
        images: Sequence[ImageInfo],
        cache_bytes: int,
        *,
        on_bad_image: OnBadImage = "error",
        max_pixels: int = MAX_PIXELS,
        left_out: Sequence[BadImage] = (),
    ) -> None:
        self.images = tuple(images)
        self.left_out = tuple(left_out)
        self.kept_bytes = 0
        self._explained: dict[int, BadImage] = {}
        self._on_bad_image = on_bad_image
        self._max_pixels = max_pixels
        self._offsets = [self._reserve(image, cache_bytes) for image in self.images]
        self._allocate()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.fetch(index)[1]

    @property
    def keeps_all(self) -> bool:
        """Whether every image is decoded only once."""
        return _NOT_KEPT not in self._offsets

    def fetch(self, index: int, choose: Choice | None = None) -> tuple[int, np.ndarray]:
        """Get an image or, where bad images are skipped, the next good one after it.

        Args:
            index: 0 to `len(self) - 1`.
            choose: the part of it that is wanted; None for all of it.

        Returns:
            Index of the image that is returned, and its pixels or those of the part, uint8 (H, W, 3).

        Raises:
            BadImage: the image is bad and `on_bad_image` is `error`, or all images are.
        """
        others = len(self) - 1 if self._on_bad_image == "skip" else 0
        for step in range(others):
            candidate = (index + step) % len(self)
            with suppress(BadImage):
                return candidate, self._load(candidate, choose)
        last = (index + others) % len(self)
        return last, self._load(last, choose)

    def read(self, most: int | None = None) -> tuple[BadImage, ...]:
        """Decode images ahead, with a thread for each CPU, and keep those that fit.

        Args:
            most: the first so many; None for all.

        Returns:
            Those that are bad.
        """

        def load(index: int) -> None:
            with suppress(BadImage):
                self._load(index)

        in_threads(load, range(len(self))[:most], usable_cpus(), "images to validate on")
        return self.bad_images()

    def bad_images(self) -> tuple[BadImage, ...]:
        """Name the images that proved bad in any of the processes that share this store.

        Returns:
            One `BadImage` each; the reason is found by reading the file again, once.
        """
        bad = np.flatnonzero(self._states == _BAD).tolist()
        self._explained.update({index: self._explain(index) for index in bad if index not in self._explained})
        return tuple(self._explained[index] for index in bad)

    def in_flight(self) -> dict[int, Path]:
        """Name the files that processes are decoding, or were when they died.

        Returns:
            File by the process's id.
        """
        return {pid: self.images[index].path for pid, index in self._decoding[self._decoding[:, 0] > 0].tolist()}

    def _reserve(self, image: ImageInfo, cache_bytes: int) -> int:
        # Gives an image its place among the kept pixels, if it still fits.
        size, offset = _n_bytes(image), self.kept_bytes
        if offset + size > cache_bytes:
            return _NOT_KEPT
        self.kept_bytes += size
        return offset

    def _allocate(self) -> None:
        # Maps the shared bytes: who decodes what, the states, then the kept pixels. Pages take memory when they are
        # first written.
        numbers = 2 * _ROWS + len(self)
        try:
            shared = mmap.mmap(-1, numbers * _NUMBER.itemsize + self.kept_bytes)
        except OSError as error:
            megabytes = self.kept_bytes // 2**20
            raise UserError(f"cannot reserve {megabytes} MB for images ({error}); lower dataset.cache_mb") from error
        head = np.frombuffer(shared, _NUMBER, numbers)
        self._decoding, self._states = head[: 2 * _ROWS].reshape(_ROWS, 2), head[2 * _ROWS :]
        self._pixels = np.frombuffer(shared, np.uint8, offset=head.nbytes)

    def _load(self, index: int, choose: Choice | None = None) -> np.ndarray:
        # The pixels are complete before the state says so. A reader comes to them thousands of instructions after it
        # has read the state, so no processor's reordering of memory accesses shows.
        state = self._states[index]
        if state == _READY:
            return _part(self._kept(index), choose)
        if state == _BAD:
            raise BadImage(self.images[index].path, "could not be read earlier in this run")
        pid = os.getpid()
        self._decoding[pid % _ROWS] = pid, index
        try:
            pixels = self._decode(index, choose if self._offsets[index] == _NOT_KEPT else None)
        except BadImage:
            self._states[index] = _BAD
            raise
        finally:
            self._decoding[pid % _ROWS] = 0
        if self._offsets[index] == _NOT_KEPT:
            return pixels
        self._kept(index)[...] = pixels
        self._states[index] = _READY
        return _part(self._kept(index), choose)

    def _decode(self, index: int, choose: Choice | None = None) -> np.ndarray:
        image = self.images[index]

        def choose_unless_changed(height: int, width: int) -> Box:
            if (height, width) != (image.height, image.width):
                raise BadImage(image.path, "changed since the run started", f"it was {image.width}x{image.height}")
            return (0, 0, height, width) if choose is None else choose(height, width)

        return decode_image(image.path, max_pixels=self._max_pixels, choose=choose_unless_changed)

    def _kept(self, index: int) -> np.ndarray:
        image, start = self.images[index], self._offsets[index]
        return self._pixels[start : start + _n_bytes(image)].reshape(image.height, image.width, 3)

    def _explain(self, index: int) -> BadImage:
        try:
            self._decode(index)
        except BadImage as bad:
            return bad
        return BadImage(self.images[index].path, "could not be read when it was needed; now it can")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in {"_decoding", "_states", "_pixels"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._allocate()


def usable_cpus() -> int:
    """Count the CPUs that this process may use.

    Returns:
        At least 1.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _part(pixels: np.ndarray, choose: Choice | None) -> np.ndarray:
    if choose is None:
        return pixels
    top, left, bottom, right = choose(*pixels.shape[:2])
    return pixels[top:bottom, left:right]


def _n_bytes(image: ImageInfo) -> int:
    return image.height * image.width * 3

"""Which image is drawn when: an endless stream that depends on the seed and the position only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class CropSampler(Sampler[tuple[int, int]]):
    """Yields `(image_index, draw)`, where `draw` is a 63-bit number to choose the crop with.

    The stream passes over all images again and again, each time in another order, and every epoch takes the next
    `epoch_samples` of it. As neither the number of worker processes, nor the batch size, nor any generator's state has
    a part in it, a run that is continued in the middle of an epoch gets exactly the samples that it would have got.

    There is no `set_epoch` on purpose: accelerate calls a method of that name at the start of each iteration with a
    count of its own, which begins at 0 in every process, and would move a continued run back to the beginning
    (huggingface/accelerate issues 2823 and 3996).

    Args:
        n_images: number of images, at least 1.
        epoch_samples: samples in an epoch, at least 1.
        seed: not negative.

    Raises:
        ValueError: no images or no samples.
    """

    def __init__(self, n_images: int, *, epoch_samples: int, seed: int) -> None:
        if n_images < 1 or epoch_samples < 1:
            raise ValueError(f"nothing to draw: {n_images} images, {epoch_samples} samples an epoch")
        self.n_images = n_images
        self.epoch_samples = epoch_samples
        self.seed = seed
        self.seek(1)

    def seek(self, epoch: int, done: int = 0) -> None:
        """Say where the next iteration begins; without it, every iteration is the same epoch.

        Args:
            epoch: number of the epoch, the first is 1.
            done: samples of that epoch to leave out, because they were trained on before the interruption.

        Raises:
            ValueError: outside of the stream or the epoch.
        """
        if epoch < 1 or not 0 <= done <= self.epoch_samples:
            raise ValueError(f"epoch {epoch} begins at 1; {done} samples are not within {self.epoch_samples}")
        self._end = epoch * self.epoch_samples
        self._start = self._end - self.epoch_samples + done

    def __len__(self) -> int:
        """Return the samples that are left in the epoch."""
        return self._end - self._start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position, end = self._start, self._end
        while position < end:
            number, first = divmod(position, self.n_images)
            last = min(self.n_images, first + end - position)
            order, draws = one_pass(self.seed, number, self.n_images)
            yield from zip(order[first:last].tolist(), draws[first:last].tolist(), strict=True)
            position += last - first


def one_pass(seed: int, number: int, n_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Order of the images, and a draw for each, in one pass of the stream.

    Only the raw output of the bit generator is used: numpy keeps it the same for ever, unlike `Generator.permutation`.

    Args:
        seed: of the stream.
        number: of the pass, from 0.
        n_images: length of the pass.

    Returns:
        A permutation of 0 to `n_images - 1`, int64 (n_images,), and draws from 0 to 2^63 - 1, uint64 (n_images,).
    """
    bits = np.random.Philox(np.random.SeedSequence((seed, number)))
    order = np.argsort(bits.random_raw(n_images), kind="stable")
    return order, bits.random_raw(n_images) >> np.uint64(1)

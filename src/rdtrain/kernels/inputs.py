"""What the convolutions look at: an endless stream of images in [0, 1], fresh ones at every step.

Shapes: S repetitions, B images a batch, C channels, n x n pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from rdtrain.data.decode import decode_image
from rdtrain.data.photos import find_photos
from rdtrain.kernels.draws import generator
from rdtrain.kernels.schema import Draws

Draw = Callable[[tuple[int, int, int, int], torch.Generator], Tensor]


def white(shape: tuple[int, int, int, int], numbers: torch.Generator) -> Tensor:
    """Independent pixels.

    Args:
        shape: (B, C, n, n).
        numbers: that is drawn from.

    Returns:
        Uniform in [0, 1].
    """
    return torch.rand(shape, generator=numbers)


def pink(shape: tuple[int, int, int, int], numbers: torch.Generator) -> Tensor:
    """Noise whose amplitude falls with 1 / frequency, as that of photographs does.

    Args:
        shape: (B, C, n, n).
        numbers: that is drawn from.

    Returns:
        Mean 0.5 and standard deviation 0.25 of every channel, clipped to [0, 1].
    """
    size = shape[-1]
    frequency = _frequency(size)
    frequency[0, 0] = torch.inf  # the mean is added below
    spectrum = torch.fft.rfft2(torch.randn(shape, generator=numbers)) / frequency
    noise = torch.fft.irfft2(spectrum, s=(size, size))
    return (0.5 + 0.25 * noise / noise.std((-2, -1), keepdim=True)).clamp(0, 1)


def pink_batch(shape: tuple[int, int, int, int], numbers: torch.Generator) -> Tensor:
    """Noise as `pink`, whose channels differ in mean and contrast as much as chance has it.

    Frequency 0 has the amplitude of the lowest other one, and the batch as a whole is scaled.

    Args:
        shape: (B, C, n, n).
        numbers: that is drawn from.

    Returns:
        Standard deviation 0.25 over the batch, around 0.5 on the average; not clipped.
    """
    size = shape[-1]
    frequency = _frequency(size)
    frequency[0, 0] = 1 / size
    noise = torch.fft.irfft2(torch.fft.rfft2(torch.randn(shape, generator=numbers)) / frequency, s=(size, size))
    return 0.5 + 0.25 * noise / noise.std()


def _frequency(size: int) -> Tensor:
    # Cycles a pixel, of the half spectrum.
    return torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])


class Photographs:
    """Crops of photographs; channels are red, green, blue of one crop after another.

    Args:
        paths: image files; None for the embedded training photographs.
    """

    def __init__(self, paths: Sequence[Path] | None = None) -> None:
        paths = find_photos().train if paths is None else paths
        self.images = [torch.from_numpy(decode_image(path)).permute(2, 0, 1) for path in paths]

    @property
    def largest_crop(self) -> int:
        """Side of the smallest photograph, pixels."""
        return min(min(image.shape[1:]) for image in self.images)

    def __call__(self, shape: tuple[int, int, int, int], numbers: torch.Generator) -> Tensor:
        """Draw crops.

        Args:
            shape: (B, C, n, n).
            numbers: that is drawn from.

        Returns:
            Values in [0, 1].
        """
        batch, channels, size, _ = shape
        per_item = -(-channels // 3)
        crops = [self._crop(size, place) for place in torch.rand(batch * per_item, 3, generator=numbers).tolist()]
        return torch.stack(crops).view(batch, 3 * per_item, size, size)[:, :channels] / 255

    def _crop(self, size: int, place: Sequence[float]) -> Tensor:
        image = self.images[int(place[0] * len(self.images))]
        top, left = (int(part * (side - size + 1)) for part, side in zip(place[1:], image.shape[1:], strict=True))
        return image[:, top : top + size, left : left + size]


def drawer(name: str) -> Draw:
    """What draws the inputs.

    Args:
        name: `white`, `pink`, `pink_batch` or `images`.

    Returns:
        A function of a shape and a generator.
    """
    return Photographs() if name == "images" else {"white": white, "pink": pink, "pink_batch": pink_batch}[name]


class Stream(IterableDataset):
    """An epoch of batches, each `{"x": (S, B, C, n, n)}`; the next epoch goes on with new ones.

    Args:
        draw: draws the inputs of one repetition.
        shape: (B, C, n, n).
        seeds: one a repetition; a repetition's inputs depend on its own seed only.
        steps: batches an epoch.
        draws: how inputs come from a seed.
    """

    def __init__(
        self,
        draw: Draw,
        shape: tuple[int, int, int, int],
        seeds: Sequence[int],
        steps: int,
        draws: Draws = "streams",
    ) -> None:
        self.draw, self.shape, self.steps = draw, shape, steps
        self.generators = [generator(seed, "inputs", draws) for seed in seeds]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.steps):
            yield {"x": torch.stack([self.draw(self.shape, numbers) for numbers in self.generators])}


def make_loader(stream: Stream) -> DataLoader:
    """Wrap a stream for Catalyst.

    Args:
        stream: of batches.

    Returns:
        Its loader, in this process.
    """
    return DataLoader(stream, batch_size=1, collate_fn=_only)  # Catalyst 22.4 wants a loader that has a batch size


def _only(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    (batch,) = items
    return batch

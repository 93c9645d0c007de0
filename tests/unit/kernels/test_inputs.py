"""Streams of images: what they hold, and what they depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdtrain.kernels.inputs import Photographs, Stream, drawer, make_loader, pink, white


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_power(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of frequency and of mean power, without the mean and beyond a half cycle a pixel."""
    power = (np.abs(np.fft.fft2(x)) ** 2).mean(axis=(0, 1)).ravel()
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(x.shape[-1])] * 2)).ravel()
    kept = (frequency > 0) & (frequency <= 0.5)
    return np.log(frequency[kept]), np.log(power[kept])


@pytest.mark.parametrize(("draw", "slope"), [(white, 0.0), (pink, -2.0)])
def test_the_power_falls_with_frequency_as_it_should(draw: object, slope: float) -> None:
    x = drawer(draw.__name__)((64, 4, 32, 32), numbers())  # type: ignore[attr-defined]
    assert x.min() >= 0 and x.max() <= 1 and x.mean() == pytest.approx(0.5, abs=0.01)
    measured = np.polyfit(*log_power(x.double().numpy()), 1)[0]
    assert measured == pytest.approx(slope, abs=0.1)


def test_pink_has_the_contrast_that_it_says() -> None:
    assert pink((8, 2, 48, 48), numbers()).std((-2, -1)).mean() == pytest.approx(0.25, abs=0.01)


def test_images_are_crops_and_their_channels_belong_together() -> None:
    draw = Photographs()
    x = (draw((2, 8, 16, 16), numbers()) * 255).round().to(torch.uint8)
    assert x.shape == (2, 8, 16, 16)
    for crop in (x[0, :3], x[0, 3:6], x[1, :3]):
        assert any(_holds(image, crop) for image in draw.images)
    assert draw.largest_crop == min(min(image.shape[1:]) for image in draw.images)
    assert draw((1, 3, draw.largest_crop, draw.largest_crop), numbers()).shape[-1] == draw.largest_crop


def _holds(image: torch.Tensor, crop: torch.Tensor) -> bool:
    """Whether a crop is somewhere in an image, looked for by its first pixel."""
    places = (image[:, :-15, :-15] == crop[:, :1, :1]).all(0).nonzero().tolist()
    return any(torch.equal(image[:, y : y + 16, x : x + 16], crop) for y, x in places)


def test_a_repetition_depends_on_its_own_seed_only_and_never_repeats() -> None:
    streams = [Stream(white, (2, 3, 8, 8), seeds, steps=3) for seeds in ([1, 2], [2])]
    (both, one), (again, _) = ([list(make_loader(stream)) for stream in streams] for _ in range(2))
    assert len(both) == len(make_loader(streams[0])) == 3 and both[0]["x"].shape == (2, 2, 3, 8, 8)
    for a, b in zip(both, one, strict=True):
        assert torch.equal(a["x"][1], b["x"][0]) and not torch.equal(a["x"][0], b["x"][0])
    batches = [batch["x"][0] for batch in (*both, *again)]
    assert len({float(batch.sum()) for batch in batches}) == 6

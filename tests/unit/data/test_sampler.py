from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdtrain.data.sampler import CropSampler, one_pass


def stream(n_images: int, seed: int, length: int) -> list[tuple[int, int]]:
    """The oracle: the first samples of the stream, pass by pass, through numpy's scalar interface."""
    samples: list[tuple[int, int]] = []
    number = 0
    while len(samples) < length:
        bits = np.random.Philox(np.random.SeedSequence([seed, number]))
        keys = [bits.random_raw() for _ in range(n_images)]
        order = sorted(range(n_images), key=keys.__getitem__)
        samples += [(index, int(bits.random_raw()) // 2) for index in order]
        number += 1
    return samples[:length]


def epoch(sampler: CropSampler, number: int, done: int = 0) -> list[tuple[int, int]]:
    sampler.seek(number, done)
    samples = list(sampler)
    assert len(samples) == len(sampler)
    return samples


@settings(max_examples=60, deadline=None)
@given(
    n_images=st.integers(1, 40),
    epoch_samples=st.integers(1, 90),
    seed=st.integers(0, 2**63),
    number=st.integers(1, 4),
    data=st.data(),
)
def test_every_epoch_is_a_slice_of_one_stream(
    n_images: int, epoch_samples: int, seed: int, number: int, data: st.DataObject
) -> None:
    done = data.draw(st.integers(0, epoch_samples))
    expected = stream(n_images, seed, number * epoch_samples)[(number - 1) * epoch_samples + done :]
    assert epoch(CropSampler(n_images, epoch_samples=epoch_samples, seed=seed), number, done) == expected


def test_epochs_in_any_order_and_again() -> None:
    sampler = CropSampler(7, epoch_samples=16, seed=3)
    forwards = {number: epoch(sampler, number) for number in (1, 2, 3)}
    assert list(sampler) == list(sampler) == forwards[3]
    assert {number: epoch(sampler, number) for number in (3, 2, 1)} == forwards
    assert forwards[1] != forwards[2]


def test_an_iteration_that_has_begun_is_not_moved() -> None:
    """A loader reads ahead: seeking for the next epoch must not disturb the present one."""
    sampler = CropSampler(5, epoch_samples=12, seed=0)
    expected = epoch(sampler, 1)
    sampler.seek(1)
    running = iter(sampler)
    first = next(running)
    sampler.seek(2)
    assert [first, *running] == expected


def test_each_pass_sees_every_image_once() -> None:
    samples = epoch(CropSampler(13, epoch_samples=39, seed=1), 1)
    for start in (0, 13, 26):
        assert sorted(index for index, _ in samples[start : start + 13]) == list(range(13))
    assert samples[:13] != samples[13:26]


def test_no_image_is_left_out_when_epochs_end_inside_a_pass() -> None:
    sampler = CropSampler(10, epoch_samples=8, seed=5)
    seen = Counter(index for number in range(1, 6) for index, _ in epoch(sampler, number))
    assert seen == dict.fromkeys(range(10), 4)


def test_the_stream_is_the_same_for_ever() -> None:
    """Old runs must be continuable: these numbers may never change."""
    assert epoch(CropSampler(4, epoch_samples=5, seed=42), 1) == [
        (0, 1569490737515010488),
        (1, 4674519537956023062),
        (2, 3053799794243142128),
        (3, 7713503347839928638),
        (3, 1895263928328065211),
    ]


def test_seeds_and_passes_are_unrelated() -> None:
    draws = np.concatenate([one_pass(seed, number, 500)[1] for seed in range(4) for number in range(4)])
    assert len(set(draws.tolist())) == len(draws)
    assert not np.array_equal(one_pass(0, 1, 500)[0], one_pass(1, 0, 500)[0])


def test_draws_are_uniform_over_63_bits() -> None:
    draws = one_pass(0, 0, 20000)[1]
    assert draws.max() < 2**63
    ones = [(draws >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(63)]
    assert np.abs(np.array(ones) - 0.5).max() < 5 * 0.5 / np.sqrt(20000)


def test_orders_are_uniform() -> None:
    orders = Counter(tuple(one_pass(0, number, 3)[0].tolist()) for number in range(3000))
    assert len(orders) == 6
    assert max(abs(count - 500) for count in orders.values()) < 5 * np.sqrt(500)


def test_accelerate_has_nothing_to_call() -> None:
    assert not hasattr(CropSampler(1, epoch_samples=1, seed=0), "set_epoch")


@pytest.mark.parametrize(("n_images", "epoch_samples"), [(0, 5), (5, 0)])
def test_nothing_to_draw(n_images: int, epoch_samples: int) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        CropSampler(n_images, epoch_samples=epoch_samples, seed=0)


@pytest.mark.parametrize(("number", "done"), [(0, 0), (1, -1), (1, 7)])
def test_places_outside_of_the_epoch(number: int, done: int) -> None:
    with pytest.raises(ValueError, match="begins at 1"):
        CropSampler(3, epoch_samples=6, seed=0).seek(number, done)

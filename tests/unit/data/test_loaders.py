from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rdtrain.data import store as store_module
from rdtrain.data.datasets import choose_crop
from rdtrain.data.decode import BadImage, ImageInfo, decode_image
from rdtrain.data.loaders import explain_loader_error, make_loaders
from rdtrain.data.sampler import CropSampler
from rdtrain.data.store import ImageStore
from rdtrain.errors import UserError

Infos = Callable[..., list[ImageInfo]]
Picture = Callable[[int, int, int], np.ndarray]
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def make(images: list[ImageInfo], cache_bytes: int = 10**6, keys: str = "train", **options: Any) -> dict[str, Any]:
    stores = {key: ImageStore(images, cache_bytes) for key in keys.split()}
    defaults = {"patch_size": 8, "batch_size": 4, "valid_batch_size": 3, "seed": 11, "workers": 0}
    return make_loaders(stores, **{**defaults, **options})


def batches(loader: DataLoader) -> Batches:
    return [(batch["x"].clone(), batch["index"].clone()) for batch in loader]


def assert_same(one: Batches, other: Batches) -> None:
    assert len(one) == len(other) > 0
    for (x, index), (other_x, other_index) in zip(one, other, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(index, other_index)


def epochs(loader: DataLoader, sampler: CropSampler, numbers: range) -> Batches:
    found: Batches = []
    for number in numbers:
        sampler.seek(number)
        found += batches(loader)
    return found


def test_train_batches_are_the_samplers_crops(infos: Infos, picture: Picture) -> None:
    loader = make(infos(10, 12, 15))["train"]
    sampler = CropSampler(10, epoch_samples=8, seed=11)
    assert len(loader) == 2
    got = batches(loader)
    for k, (index, draw) in enumerate(sampler):
        top, left, flip = choose_crop(12, 15, 8, draw)
        crop = picture(12, 15, index)[top : top + 8, left : left + 8].transpose(2, 0, 1)
        x, indices = got[k // 4]
        assert indices[k % 4] == index
        np.testing.assert_array_equal(x[k % 4], crop[..., ::-1] if flip else crop)
    assert got[0][0].shape == (4, 3, 8, 8)
    assert got[0][0].dtype == torch.uint8
    assert got[0][1].dtype == torch.int64


@pytest.mark.parametrize(
    ("n", "options", "steps"),
    [
        (10, {}, 2),  # full batches only
        (8, {}, 2),
        (3, {}, 1),  # fewer images than a batch: the stream goes on
        (3, {"epoch_steps": 7}, 7),
        (10, {"processes": 2}, 2),  # one batch for each of two processes
        (3, {"epoch_steps": 7, "processes": 2}, 14),
    ],
)
def test_length_of_an_epoch(infos: Infos, n: int, options: dict[str, Any], steps: int) -> None:
    loader = make(infos(n), **options)["train"]
    assert len(loader) == steps
    assert [len(index) for _, index in batches(loader)] == [4] * steps


def test_batches_are_full_wherever_an_epoch_is_continued(infos: Infos) -> None:
    loader = make(infos(10), epoch_steps=3)["train"]
    loader.sampler.seek(1, done=2)
    assert [len(index) for _, index in batches(loader)] == [4, 4]


def test_images_left_over_come_first_in_the_next_epoch(infos: Infos) -> None:
    loader = make(infos(10))["train"]
    seen = [index for _, batch in epochs(loader, loader.sampler, range(1, 6)) for index in batch.tolist()]
    for start in range(0, 40, 10):
        assert sorted(seen[start : start + 10]) == list(range(10))


@pytest.mark.parametrize("cache_bytes", [0, 2000, 10**6])
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers_or_cache(infos: Infos, workers: int, cache_bytes: int) -> None:
    images = infos(10, 12, 15)
    alone = make(images)["train"]
    helped = make(images, cache_bytes, workers=workers)["train"]
    expected = epochs(alone, alone.sampler, range(1, 4))
    assert_same(epochs(helped, helped.sampler, range(1, 4)), expected)
    assert helped.dataset.store.bad_images() == ()


def test_workers_fill_the_memory_of_this_process(infos: Infos, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make(infos(8), workers=2)["train"]
    batches(loader)

    def never(path: Path, **_: int) -> np.ndarray:
        raise AssertionError(f"{path} is decoded again")

    monkeypatch.setattr(store_module, "decode_image", never)
    assert [loader.dataset.store[i].shape for i in range(8)] == [(8, 8, 3)] * 8


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_continued(infos: Infos, workers: int) -> None:
    images = infos(10, 12, 15)
    whole = make(images, epoch_steps=6)["train"]
    whole.sampler.seek(3)
    expected = batches(whole)
    rest = make(images, epoch_steps=6, workers=workers)["train"]
    rest.sampler.seek(3, done=4 * 4)
    assert len(rest) == 2
    assert_same(batches(rest), expected[4:])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_is_left_alone(infos: Infos, workers: int) -> None:
    """The noise of a model must not depend on how many loaders run beside it."""
    loaders = make(infos(8), keys="train valid infer", workers=workers)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    for loader in loaders.values():
        batches(loader)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_valid_and_infer(infos: Infos, picture: Picture) -> None:
    loaders = make(infos(7, 12, 15), keys="train valid infer")
    assert list(loaders) == ["train", "valid", "infer"]
    valid = batches(loaders["valid"])
    assert [index.tolist() for _, index in valid] == [[0, 1, 2], [3, 4, 5], [6]]
    np.testing.assert_array_equal(valid[1][0][2], picture(12, 15, 5)[2:10, 3:11].transpose(2, 0, 1))
    infer = batches(loaders["infer"])
    assert [index.tolist() for _, index in infer] == [[i] for i in range(7)]
    np.testing.assert_array_equal(infer[4][0][0], picture(12, 15, 4).transpose(2, 0, 1))
    assert_same(batches(loaders["valid"]), valid)


def test_options_reach_the_datasets(infos: Infos) -> None:
    images = infos(4, 6, 6)
    with pytest.raises(UserError, match=r"dataset\.patch_size=8"):
        make(images, keys="train")
    with pytest.raises(UserError, match=r"dataset\.patch_size=8"):
        make(images, keys="valid")
    loaders = make(images, keys="train valid infer", small_images="pad", flips=False)
    assert loaders["train"].dataset.flips is False
    assert [next(iter(loader))["x"].shape[2:] for loader in loaders.values()] == [(8, 8), (8, 8), (6, 6)]


@pytest.mark.parametrize(("cpus", "cache_bytes", "workers"), [(6, 0, 3), (6, 10**6, 0), (64, 0, 8), (1, 0, 0)])
def test_automatic_workers(
    infos: Infos, monkeypatch: pytest.MonkeyPatch, cpus: int, cache_bytes: int, workers: int
) -> None:
    monkeypatch.setattr(store_module.os, "sched_getaffinity", lambda _: set(range(cpus)))
    assert make(infos(4), cache_bytes, workers="auto")["train"].num_workers == workers


@pytest.fixture
def accelerator() -> Iterator[Any]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("workers", [0, 2])
def test_accelerate_keeps_the_samples(infos: Infos, workers: int, accelerator: Any) -> None:
    images = infos(10, 12, 15)
    bare = make(images)["train"]
    loader = make(images, workers=workers)["train"]
    sampler, prepared = loader.sampler, accelerator.prepare(loader)
    assert_same(epochs(prepared, sampler, range(1, 4)), epochs(bare, bare.sampler, range(1, 4)))


def test_accelerate_keeps_the_place_of_a_continued_run(infos: Infos, accelerator: Any) -> None:
    """Its own count of epochs is 0 here: a sampler with a `set_epoch` would be sent back to the beginning."""
    images = infos(10, 12, 15)
    bare = make(images, epoch_steps=5)["train"]
    bare.sampler.seek(4)
    loader = make(images, epoch_steps=5)["train"]
    sampler, prepared = loader.sampler, accelerator.prepare(loader)
    sampler.seek(4, done=8)
    assert len(prepared) == 3
    assert_same(batches(prepared), batches(bare)[2:])


def test_processes_share_one_stream(infos: Infos) -> None:
    from accelerate.data_loader import prepare_data_loader

    images = infos(10, 12, 15)
    options: dict[str, Any] = {"batch_size": 2, "epoch_steps": 3, "processes": 2}
    expected = batches(make(images, **options)["train"])
    shares = []
    for rank in range(2):
        loader = make(images, **options)["train"]
        share = prepare_data_loader(loader, num_processes=2, process_index=rank, put_on_device=False)
        assert len(share) == 3
        shares.append(batches(share))
    assert_same([batch for pair in zip(*shares, strict=True) for batch in pair], expected)


def failure(loader: DataLoader) -> Exception:
    """What three epochs of a loader raise, without the tracebacks, which would keep its workers alive."""
    try:
        epochs(loader, loader.sampler, range(1, 4))  # type: ignore[arg-type]
    except Exception as error:
        error.__context__ = None
        return error.with_traceback(None)
    raise AssertionError("nothing was raised")


def deadly(name: str, death: Callable[[], object]) -> Callable[..., np.ndarray]:
    def decode(path: Path, **options: int) -> np.ndarray:
        if path.name == name:
            death()
        elif os.getpid() != MAIN:
            time.sleep(0.05)  # the other workers are in the middle of something too
        return decode_image(path, **options)

    return decode


MAIN = os.getpid()
DEATHS: dict[str, Callable[[], object]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),  # what a lack of memory looks like
    "segmentation fault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit 1": lambda: os._exit(1),
    "exit 0": lambda: os._exit(0),  # torch looks for it every five seconds
}


@pytest.mark.timeout(120)  # a hang
@pytest.mark.parametrize("death", DEATHS)
def test_a_worker_that_dies_is_an_error_that_names_its_file_only(
    infos: Infos, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    images = infos(16)
    images[1].path.write_bytes(b"")  # skipped, and not to be blamed
    faulthandler_was_on = faulthandler.is_enabled()
    faulthandler.disable()  # it would print this process's stack for the worker
    monkeypatch.setattr(store_module, "decode_image", deadly("006.png", DEATHS[death]))
    store = ImageStore(images, 0, on_bad_image="skip")
    loaders = make_loaders({"train": store}, patch_size=8, batch_size=4, valid_batch_size=1, seed=11, workers=4)
    error = failure(loaders["train"])
    explained = explain_loader_error(error, [store])
    if faulthandler_was_on:
        faulthandler.enable()
    assert isinstance(error, RuntimeError)
    assert explained is not None
    assert f"a data loading process died while it decoded {images[6].path} (DataLoader worker" in str(explained)
    assert "the same command continues" in str(explained)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_named(infos: Infos, workers: int) -> None:
    images = infos(8)
    loader = make(images, workers=workers)["train"]
    images[3].path.write_bytes(b"")
    error = failure(loader)
    assert isinstance(error, RuntimeError if workers else BadImage)
    explained = explain_loader_error(error, [loader.dataset.store])
    assert explained is not None
    assert "dataset.on_bad_image=skip" in explained.problems[0]
    assert explained.problems[1:] == [f"  {images[3].path}: the file is empty (0 bytes)"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_that_is_gone_is_one_short_error(infos: Infos, workers: int) -> None:
    images = infos(30)
    store = ImageStore(images, 0, on_bad_image="skip")
    loaders = make_loaders({"train": store}, patch_size=8, batch_size=4, valid_batch_size=1, seed=11, workers=workers)
    for image in images:
        image.path.unlink()
    explained = explain_loader_error(failure(loaders["train"]), [store])
    assert explained is not None
    assert explained.problems[0].startswith("none of the images can be read any more; is dataset.root still there?")
    assert explained.problems[1] == f"  {images[0].path}: the file is missing"
    assert len(explained.problems) == 22
    assert "Traceback" not in str(explained)


def test_other_errors_are_not_explained_away(infos: Infos) -> None:
    store = ImageStore(infos(1), 0)
    assert explain_loader_error(RuntimeError("CUDA error"), [store]) is None
    worker = "Caught RuntimeError in DataLoader worker process 0"
    assert explain_loader_error(RuntimeError(worker), [store]) is None
    assert explain_loader_error(ValueError("DataLoader worker"), [store]) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_replaced_alike_with_any_number_of_workers(infos: Infos, workers: int) -> None:
    images = infos(8)
    for i in (2, 5):
        images[i].path.write_bytes(b"damaged")
    store = ImageStore(images, 10**6, on_bad_image="skip")
    (loader,) = make_loaders(
        {"train": store}, patch_size=8, batch_size=4, valid_batch_size=1, seed=11, workers=workers
    ).values()
    got = [index for _, batch in batches(loader) for index in batch.tolist()]
    stands_in = {2: 3, 5: 6}
    assert got == [stands_in.get(index, index) for index, _ in CropSampler(8, epoch_samples=8, seed=11)]
    assert [bad.path for bad in store.bad_images()] == [images[2].path, images[5].path]


def test_spawned_workers_get_the_same(infos: Infos) -> None:
    images = infos(6, 12, 15)
    expected = batches(make(images)["train"])
    loader = make(images, workers=1)["train"]
    loader.multiprocessing_context = "spawn"
    assert_same(batches(loader), expected)

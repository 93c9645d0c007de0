"""Runs on folders with broken images: what is left out, named and counted, and what the numbers are then."""

from __future__ import annotations

import builtins
import csv
import faulthandler
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalyst import dl
from PIL import Image

from rdtrain import build
from rdtrain.config.schema import Config
from rdtrain.data import store as store_module
from rdtrain.data.decode import decode_image
from rdtrain.errors import UserError
from rdtrain.run_folder import RunFolder
from rdtrain.train import train

Configure = Callable[..., Config]
PARTS = {"train": 6, "valid": 3, "infer": 3}
MAIN = os.getpid()


def _photo(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((80, 72), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of good photographs of 80x72 pixels: a0.png, a1.png, ... in train/, valid/ and infer/."""
    for part, count in PARTS.items():
        (tmp_path / "photos" / part).mkdir(parents=True)
        for number in range(count):
            _photo(len(part) * 100 + number).save(tmp_path / "photos" / part / f"a{number}.png")
    return tmp_path / "photos"


def _encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    (image or _photo(1)).save(file, kind, **options)
    return file.getvalue()


def _png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"")
    chunks = (
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, body)
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _animated(kind: str) -> bytes:
    return _encoded(kind, save_all=True, append_images=[_photo(2)])


def _locked(path: Path) -> None:
    path.write_bytes(_encoded("PNG"))
    path.chmod(0)


FORMATS = "not an image in one of the formats PNG, JPEG, WEBP, BMP, TIFF, PPM"
SEVERAL = "animated, or several pages in one file"
# file name -> what makes it, and the reason that is told
BAD_HEADERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a0-empty.png": (lambda path: path.write_bytes(b""), "the file is empty"),
    "a0-text.png": (lambda path: path.write_text("not an image"), FORMATS),
    "a0-gif.png": (lambda path: path.write_bytes(_animated("GIF")), FORMATS),
    "a0-header.png": (lambda path: path.write_bytes(_encoded("PNG")[:20]), "damaged or truncated"),
    "a0-animated.png": (lambda path: path.write_bytes(_animated("PNG")), SEVERAL),
    "a0-animated.webp": (lambda path: path.write_bytes(_animated("WEBP")), SEVERAL),
    "a0-large.png": (lambda path: path.write_bytes(_png_header(101, 100)), "more pixels than allowed"),
    "a0-bomb.png": (lambda path: path.write_bytes(_png_header(60000, 60000)), "a decompression bomb"),
    "a0-locked.png": (_locked, "no permission to read it"),
    "a0-pipe.png": (os.mkfifo, "no regular file"),
    "a0-link.png": (lambda path: path.symlink_to("nowhere.png"), "the file is missing"),
}
BAD_PIXELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a0-cut.png": (lambda path: path.write_bytes(_encoded("PNG")[:-500]), "damaged or truncated"),
    "a0-cut.jpg": (lambda path: path.write_bytes(_encoded("JPEG")[:-500]), "damaged or truncated"),
}
BAD = BAD_HEADERS | BAD_PIXELS


@pytest.fixture(autouse=True)
def _root_may_not_read_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        return
    real = builtins.open

    def checked(file: Any, *words: Any, **options: Any) -> Any:
        if isinstance(file, str | Path) and str(file).endswith("-locked.png"):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *words, **options)

    monkeypatch.setattr(builtins, "open", checked)


@pytest.fixture
def configured(configure: Configure, photos: Path) -> Configure:
    """Make a configuration for the photographs, or for those in `root`."""

    def make(*overrides: str, root: Path = photos) -> Config:
        own = ("dataset=image_folder", f"dataset.root={root}", "dataset.patch_size=64", "dataset.max_pixels=10000")
        return configure("conv=plain", *own, "infer.max_images=null", *overrides)

    return make


def _rows(folder: RunFolder) -> list[dict[str, str]]:
    with open(folder.metrics, newline="") as file:
        return [
            {name: value for name, value in row.items() if not name.startswith("time/")} for row in csv.DictReader(file)
        ]


def _put(make: Callable[[Path], object], path: Path) -> Path:
    make(path)
    return path


def test_what_is_bad_before_the_run_changes_no_number(
    configured: Configure, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = shutil.copytree(photos, tmp_path / "clean")
    counted: dict[str, list[str]] = {}
    for part in PARTS:
        # Pixels of training images are looked at when they are needed, see below.
        for name, (make, reason) in (BAD_HEADERS if part == "train" else BAD).items():
            counted.setdefault(reason, []).append(str(_put(make, photos / part / name)))
    folder = train(configured())
    said = capsys.readouterr().out
    expected = train(configured(root=clean))

    assert _rows(folder) == _rows(expected)
    summary = folder.read_summary()
    assert summary["bad_images"] == {reason: sorted(files) for reason, files in counted.items()}
    assert expected.read_summary()["bad_images"] == {}
    n_bad = 3 * len(BAD_HEADERS) + 2 * len(BAD_PIXELS)
    assert summary["warnings"] == [line for line in said.splitlines() if "left out" in line]
    assert summary["warnings"][0].startswith(f"{n_bad} image files cannot be used and are left out: ")
    assert summary["warnings"][0].endswith(f"; and {n_bad - 20} more")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", BAD)
def test_each_is_refused_by_name_where_that_is_asked_for(
    configured: Configure, photos: Path, tmp_path: Path, name: str, part: str
) -> None:
    if part == "train" and name in BAD_PIXELS:
        pytest.skip("found when it is needed, see below")
    make, reason = BAD[name]
    bad = _put(make, photos / part / name)
    with pytest.raises(UserError) as caught:
        train(configured("dataset.on_bad_image=error"))
    head, *lines = caught.value.problems
    assert "image files cannot be used; type dataset.on_bad_image=skip to leave them out:" in head
    assert len(lines) == 1
    assert lines[0].startswith(f"  {bad}: {reason}")
    assert list(tmp_path.glob("runs/*")) == []


def test_a_part_of_which_nothing_is_left_is_named(configured: Configure, photos: Path) -> None:
    for path in (photos / "infer").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the infer images can be used, the first because .*a0.png: the file"):
        train(configured())
    for path in (photos / "infer").iterdir():
        path.write_bytes(_encoded("PNG")[:-500])
    with pytest.raises(UserError, match=r"none of the infer images can be used, the first because .*a0.png: damaged"):
        train(configured())


def test_odd_but_good_files_are_used(configured: Configure, photos: Path) -> None:
    """A PNG that is called JPEG, CMYK, 16 bits, and a size of which no crop could be made."""
    deep = np.random.default_rng(0).integers(0, 65536, (72, 80), dtype=np.uint16)
    (photos / "train" / "called.jpg").write_bytes(_encoded("PNG"))
    (photos / "valid" / "cmyk.jpg").write_bytes(_encoded("JPEG", _photo(3).convert("CMYK")))
    (photos / "valid" / "deep.png").write_bytes(_encoded("PNG", Image.fromarray(deep)))
    (photos / "infer" / "point.png").write_bytes(_encoded("PNG", Image.new("RGB", (1, 1), "red")))
    folder = train(configured())
    environment = json.loads(folder.environment.read_text())
    assert [environment["data"][part]["images"] for part in PARTS] == [7, 5, 4]
    assert folder.read_summary()["bad_images"] == {}


@pytest.mark.parametrize("part", ["train", "valid"])
def test_a_point_is_no_bad_image_but_too_small_for_a_crop(configured: Configure, photos: Path, part: str) -> None:
    point = photos / part / "point.png"
    point.write_bytes(_encoded("PNG", Image.new("RGB", (1, 1), "red")))
    with pytest.raises(UserError) as caught:
        train(configured())
    assert str(caught.value) == (
        f"1 of 10 images are smaller than dataset.patch_size=64: {point} (1x1); "
        "type dataset.small_images=pad, or remove them"
    )
    assert train(configured("dataset.small_images=pad")).read_summary()["status"] == "finished"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache_mb", [0, 64])
def test_the_next_image_stands_in_for_one_that_proves_bad(
    configured: Configure, photos: Path, tmp_path: Path, workers: int, cache_mb: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oracle is a run in which the file is a copy of the one that takes its place."""
    substituted = shutil.copytree(photos, tmp_path / "substituted")
    shutil.copy(substituted / "train" / "a4.png", substituted / "train" / "a3.png")
    expected = train(configured("dataset.workers=0", root=substituted))
    capsys.readouterr()
    bad = photos / "train" / "a3.png"
    bad.write_bytes(bad.read_bytes()[:-500])
    folder = train(configured(f"dataset.workers={workers}", f"dataset.cache_mb={cache_mb}"))

    assert _rows(folder) == _rows(expected)
    summary = folder.read_summary()
    (warning,) = summary["warnings"]
    assert warning.startswith(f"an image proved bad and another one takes its place: {bad}: damaged or truncated (")
    assert capsys.readouterr().out.count(str(bad)) == 1
    assert summary["bad_images"] == {"damaged or truncated": [str(bad)]}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_image_that_proves_bad_ends_the_run_where_that_is_asked_for(
    configured: Configure, photos: Path, workers: int
) -> None:
    bad = photos / "train" / "a3.png"
    bad.write_bytes(bad.read_bytes()[:-500])
    config = configured("dataset.on_bad_image=error", f"dataset.workers={workers}")
    with pytest.raises(UserError, match="an image proved bad while the run read it") as caught:
        train(config)
    assert caught.value.problems[1].startswith(f"  {bad}: damaged or truncated (")
    summary = _summary(config)
    assert summary["status"] == "failed"
    assert summary["bad_images"] == {"damaged or truncated": [str(bad)]}


class _AfterFirstEpoch(dl.Callback):
    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(order=110)
        self.act = act

    def on_epoch_end(self, runner: dl.IRunner) -> None:
        if runner.epoch_step == 1:
            self.act()


@pytest.fixture
def after_first_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something between the epochs of the next runs."""

    def add(act: Callable[[], object]) -> None:
        callbacks = build.callbacks
        monkeypatch.setattr(build, "callbacks", lambda config: {**callbacks(config), "act": _AfterFirstEpoch(act)})

    return add


def _summary(config: Config) -> dict[str, Any]:
    (path,) = Path(config.paths.runs).glob("*/summary.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("workers", [0, 2])
def test_training_images_that_vanish_during_the_run(
    configured: Configure, photos: Path, after_first_epoch: Callable[..., None], workers: int
) -> None:
    gone = [photos / "train" / f"a{number}.png" for number in (1, 2)]
    after_first_epoch(lambda: [os.unlink(path) for path in gone])  # type: ignore[func-returns-value]
    folder = train(configured(f"dataset.workers={workers}", "dataset.cache_mb=0", "engine.epoch_steps=6"))
    summary = folder.read_summary()
    assert summary["status"] == "finished"
    assert summary["bad_images"] == {"the file is missing": [str(path) for path in gone]}
    assert len(summary["warnings"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("workers", [0, 2])
def test_what_vanishes_ends_the_run_and_when_it_is_back_the_run_continues(
    configured: Configure, photos: Path, tmp_path: Path, after_first_epoch: Callable[..., None], part: str, workers: int
) -> None:
    """In valid and infer also with `skip`: the epochs' means would be over different images."""
    policy = "error" if part == "train" else "skip"
    words = (
        f"dataset.on_bad_image={policy}",
        f"dataset.workers={workers}",
        "dataset.cache_mb=0",
        "engine.epoch_steps=6",
    )
    clean = shutil.copytree(photos, tmp_path / "clean")
    expected = train(configured(*words, f"paths.runs={tmp_path / 'clean_runs'}", root=clean))
    gone, kept = photos / part / "a1.png", tmp_path / "kept.png"
    after_first_epoch(lambda: shutil.move(gone, kept))
    config = configured(*words)
    with pytest.raises(UserError) as caught:
        train(config)
    assert caught.value.problems[1:] == [f"  {gone}: the file is missing"]
    assert _summary(config)["status"] == "failed"
    assert _summary(config)["bad_images"] == {"the file is missing": [str(gone)]}
    with pytest.raises(UserError, match=f"the {part} images are not those|lacks"):
        train(config)

    shutil.move(kept, gone)
    folder = train(config)
    assert folder.read_summary()["status"] == "finished"
    assert _rows(folder) == _rows(expected)


def test_what_is_kept_in_memory_may_vanish(
    configured: Configure, photos: Path, tmp_path: Path, after_first_epoch: Callable[..., None]
) -> None:
    clean = shutil.copytree(photos, tmp_path / "clean")
    after_first_epoch(lambda: None)
    expected = train(configured("engine.epoch_steps=6", root=clean))
    after_first_epoch(lambda: shutil.rmtree(photos, ignore_errors=True))
    folder = train(configured("engine.epoch_steps=6"))
    assert _rows(folder) == _rows(expected)
    assert folder.read_summary()["bad_images"] == {}


DEATHS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(3),
    "out of memory": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segmentation fault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}


@pytest.fixture
def no_stack_traces() -> Iterator[None]:
    """Keep pytest's own handler from printing this process's stack for a worker."""
    faulthandler.disable()
    yield
    faulthandler.enable()


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("no_stack_traces")
@pytest.mark.parametrize(
    ("death", "part"),
    [
        pytest.param(death, part, marks=[] if death == "out of memory" else [pytest.mark.slow, pytest.mark.long])
        for death in DEATHS
        for part in PARTS
    ],
)
def test_a_worker_that_dies_is_named_and_the_run_continues(
    configured: Configure, photos: Path, monkeypatch: pytest.MonkeyPatch, death: str, part: str
) -> None:
    deadly = photos / part / "a2.png"

    def decode(path: Path, **options: int) -> np.ndarray:
        if path == deadly and os.getpid() != MAIN:
            DEATHS[death]()
        return decode_image(path, **options)

    config = configured("dataset.workers=2", "dataset.cache_mb=0", "engine.epoch_steps=6")
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "decode_image", decode)
        with pytest.raises(UserError) as caught:
            train(config)
    (problem,) = caught.value.problems
    assert problem.startswith(f"a data loading process died while it decoded {deadly} (DataLoader worker (pid")
    assert "the same command continues from the last epoch" in problem
    assert _summary(config)["status"] == "failed"
    folder = train(config)
    assert folder.read_summary()["status"] == "finished"
    assert [(row["epoch"], row["loader"]) for row in _rows(folder)] == [
        ("1", "train"), ("1", "valid"), ("2", "train"), ("2", "valid"), ("2", "infer"),
    ]  # fmt: skip


_PROGRAM = """
import os, signal, sys
from rdtrain.data import store
main_process, decode = os.getpid(), store.decode_image

def deadly(path, **options):
    if path.name == "a2.png" and path.parent.name == "train" and os.getpid() != main_process:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(path, **options)

if sys.argv.pop(1) == "deadly":
    store.decode_image = deadly
from rdtrain.cli import main
main()
"""


@pytest.mark.slow
def test_the_command_tells_of_a_dead_worker_in_a_line_and_continues(photos: Path, tmp_path: Path) -> None:
    words = (
        "experiment=quickstart", "hp.N=4", "hp.M=6", "dataset=image_folder", f"dataset.root={photos}",
        "dataset.patch_size=64", "dataset.batch_size=4", "dataset.workers=2", "dataset.cache_mb=0",
        "engine.num_epochs=2", "engine.epoch_steps=3", "engine.threads=1", "logger.figures=null",
        "logger.entropy_report=null",
    )  # fmt: skip

    def command(mode: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", _PROGRAM, mode, *words]
        return subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    died = command("deadly")
    assert died.returncode == 2
    assert "Traceback" not in died.stderr
    (line,) = [line for line in died.stderr.splitlines() if line.startswith("rdtrain: ")]
    assert line.startswith(f"rdtrain: a data loading process died while it decoded {photos / 'train' / 'a2.png'} (")
    again = command("alive")
    assert again.returncode == 0, again.stderr
    (summary,) = (tmp_path / "runs").glob("*/summary.json")
    assert json.loads(summary.read_text())["status"] == "finished"

"""An image that fails is named with its reason, and nothing that was computed for the others is lost."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_codecs import tiny_model

from rdtrain import bitstream
from rdtrain.eval import evaluate, memory
from rdtrain.eval.cli import main
from rdtrain.probes import LatentOverflow, Undecodable

MODEL = "bmshj2018-factorized"
RESULT = "stock-eval-image_folder"


def arguments(weights: Path, folder: Path, out: Path, *more: str) -> list[str]:
    named = ["--model", MODEL, "--dataset", "image_folder", "--root", str(folder), "--out", str(out)]
    return [str(weights), *named, *more]


def run(weights: Path, folder: Path, out: Path, *more: str) -> int:
    return main(arguments(weights, folder, out, *more))


def table(out: Path) -> dict[str, dict[str, str]]:
    return {row["image"]: row for row in csv.DictReader((out / f"{RESULT}.csv").read_text().splitlines())}


def small(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.effect_noise((96, 80), 50).convert("RGB").save(path)


# Limits of memory are tried in processes of their own: an interpreter that ran out of it once is not to run more tests.
LITTLE_MEMORY = """
import sys
from rdtrain.eval import memory
memory._free = lambda: 280 * 2**20
from rdtrain.eval.cli import main
code = main(sys.argv[1:])
assert memory.resource.getrlimit(memory.resource.RLIMIT_AS) == (memory.resource.RLIM_INFINITY,) * 2
raise SystemExit(code)
"""
NO_MEMORY = """
import numpy as np, torch
from rdtrain.eval import memory
with memory.limited():
    memory.limit(0)
    for demand in (lambda: torch.empty(2**34), lambda: np.ones(2**33), lambda: bytearray(2**36)):
        try:
            demand()
        except (MemoryError, RuntimeError) as error:
            print(memory.is_exhausted(error))
"""


def test_images_too_large_for_the_memory(stock: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in ("a.png", "d.png"):
        small(folder / name)
    Image.new("1", (12000, 11000)).save(folder / "b.png")  # 396 MB as 8-bit RGB: its reader fails
    Image.new("1", (5000, 4000)).save(folder / "c.png")  # 240 MB as float32: torch's allocator fails
    words = arguments(stock, folder, tmp_path, "--save-bitstreams")
    done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("rdtrain-eval:")]  # others are warnings
    for line, image in zip(said, ("b.png, 12000x11000", "c.png, 5000x4000"), strict=True):
        assert line.startswith(f"rdtrain-eval: {stock}, {image} pixels: not enough memory; leave this image out")
    assert set(table(tmp_path)) == {"a.png", "d.png"}
    meta = json.loads((tmp_path / f"{RESULT}.json").read_text())["meta"]
    assert meta["n_images"] == 2 and set(meta["failed"]) == {"b.png", "c.png"}
    assert "bpp" in done.stdout


def test_out_of_memory_is_told_from_other_faults() -> None:
    done = subprocess.run([sys.executable, "-c", NO_MEMORY], capture_output=True, text=True, timeout=100)
    assert done.stdout == "True\n" * 3, done.stderr
    assert memory.is_exhausted(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"))
    assert not memory.is_exhausted(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not memory.is_exhausted(OSError("bad_alloc"))


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Make the second image fail."""
    inner, calls = evaluate.evaluate_image, iter(range(9))

    def evaluate_image(*args: Any) -> Any:
        if next(calls) == 1:
            raise error
        return inner(*args)

    monkeypatch.setattr(evaluate, "evaluate_image", evaluate_image)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
        (LatentOverflow("latents are not finite"), "latents are not finite"),
        (
            Undecodable("other parameters"),
            "other parameters; decoding computed something else than coding, so evaluate with --device cpu --threads 1",
        ),
        (OSError(28, "No space left on device", "b.png"), "b.png: No space left on device"),
    ],
)
def test_the_images_after_a_failure_are_evaluated(
    error: Exception,
    sentence: str,
    stock: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        small(tmp_path / "images" / name)
    failing(monkeypatch, error)
    assert run(stock, tmp_path / "images", tmp_path) == 2
    assert capsys.readouterr().err == f"rdtrain-eval: {stock}, b.png, 96x80 pixels: {expected(sentence)}\n"
    assert set(table(tmp_path)) == {"a.png", "c.png"}


def expected(sentence: str) -> str:
    memory_remedy = "; leave this image out, or evaluate it on a machine with more"
    return sentence + memory_remedy if sentence == "not enough memory" else sentence


def test_a_fault_of_ours_is_shown_after_the_results_are_written(
    stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        small(tmp_path / "images" / name)
    failing(monkeypatch, TypeError("our mistake"))
    with pytest.raises(TypeError, match="our mistake"):
        run(stock, tmp_path / "images", tmp_path)
    assert set(table(tmp_path)) == {"a.png", "c.png"}
    assert "TypeError: our mistake" in json.loads((tmp_path / f"{RESULT}.json").read_text())["meta"]["failed"]["b.png"]


def test_an_image_too_large_for_a_bitstream_file_is_measured_all_the_same(
    stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small(tmp_path / "images" / "a.png")
    monkeypatch.setattr(bitstream, "MAX_PIXELS", 96 * 80 - 1)
    assert run(stock, tmp_path / "images", tmp_path, "--save-bitstreams") == 2
    assert "no bitstream file can hold this image" in capsys.readouterr().err
    assert float(table(tmp_path)["a.png"]["bpp/real"]) > 0
    assert not (tmp_path / RESULT / "bitstreams" / "a.rdt").exists()


def test_diverged_model_is_told(tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = dict(tiny_model(MODEL).state_dict())
    weights["g_a.6.weight"] = weights["g_a.6.weight"] * 1e30
    torch.save(weights, tmp_path / "huge.pth")
    assert run(tmp_path / "huge.pth", photographs, tmp_path) == 2
    assert "has diverged" in capsys.readouterr().err
    assert not (tmp_path / "huge-eval-image_folder.json").exists()


def test_means_of_some_images_are_told(stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    small(folder / "a.png")
    Image.effect_noise((192, 176), 50).convert("RGB").save(folder / "b.png")
    assert run(stock, folder, tmp_path, "--lmbda", "9", "--metric", "ms-ssim") == 0
    content = json.loads((tmp_path / f"{RESULT}.json").read_text())
    assert (content["meta"]["n_images"], content["meta"]["ms_ssim_images"]) == (2, 1)
    assert not any(name.startswith("loss/") or name == "ms-ssim-rgb" for name in content["results"])
    assert table(tmp_path)["b.png"]["loss/real/8bit"]
    assert "MS-SSIM of 1 of 2 images" in capsys.readouterr().out


def test_no_hint_where_nothing_was_measured(
    stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise LatentOverflow("too wide")

    monkeypatch.setattr(evaluate, "evaluate_image", fail)
    small(tmp_path / "images" / "a.png")
    assert run(stock, tmp_path / "images", tmp_path) == 2
    assert "--lmbda" not in capsys.readouterr().out

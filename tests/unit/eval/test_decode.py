"""Bitstream files: decoded elsewhere to the same pixels, and harmless whoever wrote them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_codecs import image_model_names, images, spread_latents, tiny_model, trained_model

from rdtrain import bitstream
from rdtrain.errors import UserError
from rdtrain.eval import decoder_process
from rdtrain.eval.cli import main
from rdtrain.eval.decode import Order, decode
from rdtrain.eval.evaluate import as_stream, pixels_hash, write_stream
from rdtrain.eval.models import Subject, identity
from rdtrain.evaluation import evaluate_image, evaluation_copy
from rdtrain.losses import RateDistortionLoss

MODEL = "bmshj2018-factorized"
CPU = torch.device("cpu")
Forge = Callable[..., Path]


def coded(name: str) -> tuple[Subject, bitstream.Bitstream, torch.Tensor]:
    untrained = tiny_model(name)
    spread_latents(untrained, 8)
    model = evaluation_copy(untrained)
    subject = Subject(Path("weights.pth"), name, model)
    row = evaluate_image(model, images(1, 70, 100), RateDistortionLoss(0.01))
    return subject, as_stream(subject, identity(model), row, CPU), row.image


@pytest.fixture
def forge(stock: Path, tmp_path: Path) -> Forge:
    """Write a file for the stock model, with some fields changed and the checksum right."""
    model = evaluation_copy(trained_model(MODEL))
    row = evaluate_image(model, images(1, 170, 200), RateDistortionLoss(0.01))
    good = as_stream(Subject(stock, MODEL, model), identity(model), row, CPU)
    Image.fromarray(row.image.permute(1, 2, 0).numpy()).save(tmp_path / "encoder.png")

    def write(**changes: Any) -> Path:
        write_stream(tmp_path / "file.rdt", replace(good, **changes))
        return tmp_path / "file.rdt"

    return write


def order(stock: Path, **changes: Any) -> Order:
    return replace(Order(str(stock), MODEL, "cpu", 1, None, 100.0), **changes)


@pytest.mark.parametrize("name", image_model_names())
def test_every_model_comes_back_from_its_file(name: str) -> None:
    subject, stream, image = coded(name)
    back = bitstream.unpack(bitstream.pack(stream))
    assert torch.equal(decoder_process.decompress(subject.model, back), image)
    assert pixels_hash(image) == stream.pixels


def test_another_process_gives_the_same_pixels(forge: Forge, stock: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "decoded.png"
    command = [sys.executable, "-m", "rdtrain.eval.cli", str(stock), "--model", MODEL]
    done = subprocess.run([*command, "--decode", str(forge()), "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the same pixels" in done.stdout and done.stderr == ""
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(tmp_path / "encoder.png")))


def test_a_string_far_too_short_is_a_sentence(forge: Forge, stock: Path) -> None:
    # Some millions of symbols from 8 bytes: ours refuses them; CompressAI's coder reads on until the process is stopped
    # or memory ends.
    path = forge(height=8192, width=16384, padding=(0, 0, 0, 0), shape=(512, 1024), strings=[[b"\xff" * 8]])
    with pytest.raises(UserError, match=r"no encoder ends in|stopped by SIG|memory"):
        decode(path, order(stock, memory_mb=1500))


def hostile(y: bytes, rest: list[list[bytes]]) -> Iterator[list[list[bytes]]]:
    """Strings that no encoder wrote, in place of the first one."""
    generator = np.random.default_rng(0)
    flipped = np.frombuffer(y, np.uint8).copy()
    flipped[generator.integers(len(y), size=5)] ^= 64
    yield from ([[string], *rest] for string in (b"", y[: len(y) // 2], flipped.tobytes(), generator.bytes(len(y))))
    yield [[bytes(10 * 2**20)], *rest]
    yield [[y, y], *rest]
    yield [[y], *rest, [y]]
    yield [*rest, [y]]


def outcome(path: Path, asked: Order) -> bool | str:
    """Whether the pixels are the same, or what the user is told."""
    try:
        return decode(path, asked).same
    except UserError as error:
        return str(error)


@pytest.mark.slow
@pytest.mark.long
def test_hostile_strings_with_the_right_checksum_do_no_harm(tmp_path: Path) -> None:
    subject, stream, _ = coded("bmshj2018-hyperprior")
    torch.save(subject.model.state_dict(), tmp_path / "weights.pth")
    asked = Order(str(tmp_path / "weights.pth"), subject.name, "cpu", 1, None, 100.0, 1500)
    write_stream(tmp_path / "file.rdt", stream)
    assert decode(tmp_path / "file.rdt", asked).same
    (y,), *rest = stream.strings
    for strings in hostile(y, rest):
        write_stream(tmp_path / "file.rdt", replace(stream, strings=strings))
        found = outcome(tmp_path / "file.rdt", asked)
        # A string behind those that a model reads is never looked at; everything else changes the picture.
        refused = re.search("cannot decode these|strings make an image|stopped by SIG|enough memory", str(found))
        assert refused or found is (strings == [[y], *rest, [y]])


@pytest.mark.slow
def test_memory_is_limited(forge: Forge, stock: Path) -> None:
    path = forge(height=8192, width=16384, padding=(0, 0, 0, 0), shape=(8192, 16384), strings=[[b"\xff" * 8]])
    with pytest.raises(UserError, match=r"memory|stopped by SIG"):
        decode(path, order(stock, memory_mb=1000))


def test_time_is_limited(forge: Forge, stock: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=r"took more than 0\.5 s"):
        decode(forge(), order(stock, seconds=0.5))
    assert time.monotonic() - start < 60  # it would run for ever


def test_damaged_file_never_starts_a_decoder(
    forge: Forge, stock: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = forge()
    data = bytearray(path.read_bytes())
    data[-20] ^= 4
    path.write_bytes(data)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("a decoder was started"))
    assert main([str(stock), "--model", MODEL, "--cross-check", str(path)]) == 2
    assert "checksum does not match" in capsys.readouterr().err


def ordered(
    path: Path, order: Order, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Do in this process what the decoding process does; limits would stay."""
    monkeypatch.setattr(decoder_process, "limit", lambda *args: None)
    code = decoder_process.main(json.dumps(asdict(order)), path.read_bytes())
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": "0" * 32}, "written by another model"),
        ({"model": "mbt2018"}, "written by another model"),
        ({"tables": "0" * 32}, "other probability tables"),
        ({"strings": []}, "cannot decode these strings"),
        ({"shape": (22, 26)}, " strings"),  # the fast coder refuses them, what CompressAI's makes has another shape
        ({"shape": {"y": (11, 13)}}, "cannot decode these strings"),
    ],
)
def test_wrong_model_and_wrong_structure(
    changes: dict[str, Any],
    sentence: str,
    forge: Forge,
    stock: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, said = ordered(forge(**changes), order(stock), monkeypatch, capsys)
    assert code == 2 and sentence in said


def test_other_pixels_are_told(
    forge: Forge, stock: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for pixels, same in ((None, True), ("0" * 64, False)):
        path = forge(**({} if pixels is None else {"pixels": pixels}))
        code, said = ordered(path, order(stock), monkeypatch, capsys)
        assert code == 0 and json.loads(said.splitlines()[-1])["same"] is same


def test_command_says_which_device_differs(
    forge: Forge, stock: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = json.dumps({"same": False, "writer": "cuda H100", "reader": "cpu x86_64"}).encode()
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: subprocess.CompletedProcess(args, 0, answer, b""))
    assert main([str(stock), "--model", MODEL, "--cross-check", str(forge())]) == 1
    assert "other pixels here (cpu x86_64) than at the encoder (cuda H100)" in capsys.readouterr().err
    answer = answer.replace(b"cuda H100", b"cpu x86_64")
    assert main([str(stock), "--model", MODEL, "--cross-check", str(forge())]) == 1
    assert "the same (cpu x86_64): it is damaged or forged" in capsys.readouterr().err


def test_mistakes_of_the_command(forge: Forge, stock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(forge())
    assert main([str(stock), "--decode", path]) == 2
    assert "type --out file.png" in capsys.readouterr().err
    assert main([str(stock), str(stock), "--cross-check", path]) == 2
    assert "name that one, not 2" in capsys.readouterr().err


def test_the_causes_of_a_killed_decoder_are_named(
    forge: Forge, stock: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = forge(writer="cuda H100, torch 3")
    sentences = {11: "than cuda H100, torch 3: decode the file there", 9: "took too much memory or time"}
    for number, sentence in sentences.items():
        killed: subprocess.CompletedProcess[bytes] = subprocess.CompletedProcess([], -number, b"", b"")
        monkeypatch.setattr(subprocess, "run", lambda *args, killed=killed, **kwargs: killed)
        assert main([str(stock), "--model", MODEL, "--cross-check", str(path)]) == 2
        assert sentence in capsys.readouterr().err


def test_help_is_quick() -> None:
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "rdtrain.eval.cli", "--help"], capture_output=True)
    assert done.returncode == 0 and b"--cross-check" in done.stdout
    assert not {b"torch", b"numpy", b"compressai"} & {line.split(b"|")[-1].strip() for line in done.stderr.splitlines()}
    assert time.monotonic() - start < 3

"""Thousands of bitstream files that were damaged or forged, through the decoding that the product does."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from rdtrain import bitstream
from rdtrain.errors import UserError
from rdtrain.eval.decode import Order, decode

NAMES = ("bmshj2018-factorized", "bmshj2018-hyperprior")
SECONDS, MEMORY_MB = 2.0, 400
EXTREMES: tuple[Any, ...] = (
    0, 1, -1, 2**7, 2**14, 2**27, 2**31, 2**32 - 1, 2**63, 10**40, 0.5, True, None, "", "a" * 300, [], {}, [[]],
)  # fmt: skip


def taken_apart(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack_from("<I", data, 10)[0]
    return json.loads(data[18 : 18 + length]), data[18 + length : -4]


def put_together(header: dict[str, Any] | bytes, payload: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return sealed(struct.pack("<8sHII", b"RDTRAIN\n", 1, len(text), len(payload)) + text + payload)


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def with_flips(chance: random.Random, data: bytes, most: int) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, most)):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def with_bytes(chance: random.Random, data: bytes) -> bytes:
    position = chance.randrange(len(data) + 1)
    return data[:position] + chance.randbytes(chance.choice((1, 8, 1000, 2**17))) + data[position:]


def prefix_to_extremes(chance: random.Random, data: bytes) -> bytes:
    form, position = chance.choice((("<H", 8), ("<I", 10), ("<I", 14)))
    changed = bytearray(data[:-4])
    most = 2 ** (8 * struct.calcsize(form)) - 1
    struct.pack_into(form, changed, position, chance.choice((0, 1, most // 2, most, chance.randint(0, most))))
    return sealed(bytes(changed))


def header_to_extremes(chance: random.Random, data: bytes) -> bytes:
    """One to three of the header's values, those within its lists among them."""
    header, payload = taken_apart(data)
    for _ in range(chance.randint(1, 3)):
        place: Any = header
        key: Any = chance.choice(list(header))
        while isinstance(place[key], list) and place[key] and chance.random() < 0.7:
            place, key = place[key], chance.randrange(len(place[key]))
        place[key] = copy.deepcopy(chance.choice(EXTREMES))
    return put_together(header, payload)


def header_flipped(chance: random.Random, data: bytes) -> bytes:
    header, payload = taken_apart(data)
    return put_together(with_flips(chance, json.dumps(header).encode(), 3), payload)


def enlarged(chance: random.Random, data: bytes) -> bytes:
    """An image of which everything fits together but the strings."""
    header, payload = taken_apart(data)
    factors = chance.choice((1, 2, 4, 16, 64)), chance.choice((1, 2, 4, 16, 64))
    height, width = (header[side] + sum(header["padding"][i : i + 2]) for side, i in (("height", 2), ("width", 0)))
    header |= {"height": height * factors[0], "width": width * factors[1], "padding": [0] * 4}
    header["shape"] = [side * factor for side, factor in zip(header["shape"], factors, strict=True)]
    return put_together(header, payload)


def strings_changed(chance: random.Random, data: bytes) -> bytes:
    header, payload = taken_apart(data)
    return put_together(header, with_flips(chance, payload, 8))


def strings_cut(chance: random.Random, data: bytes) -> bytes:
    """A string that ends early, or after bytes that nobody wrote, with the lengths put right."""
    header, payload = taken_apart(data)
    lengths = [length for (length,) in header["strings"]]
    which = chance.randrange(len(lengths))
    start = sum(lengths[:which])
    string = payload[start : start + lengths[which]]
    kept = string[: chance.randrange(len(string))] + chance.choice((b"", b"\xff" * 9, chance.randbytes(99)))
    header["strings"][which] = [len(kept)]
    return put_together(header, payload[:start] + kept + payload[start + lengths[which] :])


def structure_changed(chance: random.Random, data: bytes) -> bytes:
    header, payload = taken_apart(data)
    lengths = header["strings"]
    others = (
        lengths[::-1],
        lengths * 2,
        [lengths],
        [[*lengths[0], 0], *lengths[1:]],
        [[0], *lengths],
        [[len(payload)]],
    )
    header["strings"] = chance.choice(others)
    return put_together(header, payload * 2 if header["strings"] is others[1] else payload)


def payload_swapped(chance: random.Random, data: bytes, other: bytes) -> bytes:
    (header, _), (strange, payload) = taken_apart(data), taken_apart(other)
    keys = chance.choice(
        ((), ("strings",), ("strings", "shape"), ("strings", "model"), ("strings", "weights", "tables"))
    )
    return put_together(header | {key: strange[key] for key in keys}, payload)


# How often each is chosen; the checksum is right in all but the first three.
MUTATIONS: dict[Callable[[random.Random, bytes], bytes], int] = {
    lambda chance, data: data[: chance.randrange(len(data))]: 16,
    lambda chance, data: with_flips(chance, data, 8): 20,
    with_bytes: 15,
    prefix_to_extremes: 6,
    header_to_extremes: 22,
    header_flipped: 8,
    strings_changed: 4,
    strings_cut: 3,
    structure_changed: 2,
    enlarged: 1,
}
SWAPS = 3


def mutated(seed: int, good: list[bytes]) -> bytes:
    chance = random.Random(seed)
    data, other = chance.sample(good, 2)
    (mutate,) = chance.choices([*MUTATIONS, None], [*MUTATIONS.values(), SWAPS])
    return payload_swapped(chance, data, other) if mutate is None else mutate(chance, data)


class Decoders:
    """Stands in for `subprocess.run` within `rdtrain.eval.decode`; see decoder_server.py."""

    def __init__(self, process: subprocess.Popen[str], file: Path) -> None:
        self.process, self.file = process, file
        self.seconds: list[float] = []
        self.peaks_kb: list[int] = []

    def __call__(self, command: list[str], input: bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.file.write_bytes(input)
        self.process.stdin.write(json.dumps({"order": command[-1], "file": str(self.file)}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.seconds.append(answer["seconds"])
        self.peaks_kb.append(answer["peak_kb"])
        if answer["timed_out"]:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return subprocess.CompletedProcess(command, answer["code"], answer["out"].encode(), answer["err"].encode())


@dataclass
class Codec:
    """Files that are right, and the weights that decode them."""

    sources: dict[str, Path]
    files: list[bytes] = field(default_factory=list)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """Two models, three images of each: of latents that are larger than their rounding, though nothing was trained."""
    from compressai.registry import MODELS

    from rdtrain.eval.evaluate import as_stream
    from rdtrain.eval.models import Subject, identity
    from rdtrain.evaluation import evaluate_image, evaluation_copy
    from rdtrain.losses import RateDistortionLoss

    folder = tmp_path_factory.mktemp("weights")
    made = Codec({name: folder / f"{name}.pth" for name in NAMES})
    torch.manual_seed(0)
    for name, path in made.sources.items():
        model = MODELS[name](N=8, M=12)
        with torch.no_grad():
            model.g_a[-1].weight.mul_(8)
        torch.save(model.state_dict(), path)
        subject = Subject(path, name, evaluation_copy(model))
        for size in ((64, 64), (40, 100), (128, 64)):
            row = evaluate_image(subject.model, torch.rand(1, 3, *size), RateDistortionLoss(0.01))
            stream = as_stream(subject, identity(subject.model), row, torch.device("cpu"))
            made.files.append(bitstream.pack(stream))
    return made


@pytest.fixture(scope="module")
def decoders(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decoders]:
    words = [sys.executable, str(Path(__file__).with_name("decoder_server.py")), *map(str, codec.sources.values())]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    made = Decoders(process, tmp_path_factory.mktemp("decoders") / "file")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", made)
        yield made
    process.communicate(timeout=60)


OUTCOMES = {
    "container": r"empty|begins differently|cut short|behind its end|format version|claims|checksum does not|"
    r"header of this bitstream is wrong",
    "other model": r"written by another model|computes other probability tables",
    "refused by the model": r"the model cannot decode these strings|the strings make an image of shape",
    "memory": r"not enough memory to decode",
    "time": r"took more than \S+ s and was stopped|stopped by SIGKILL",
    "crash": r"stopped by SIG(SEGV|ABRT|BUS|FPE|ILL)",
}


def outcome(file: Path, asked: Order) -> str:
    """What the user learns; an exception that is no sentence fails the test."""
    try:
        return "same pixels" if decode(file, asked).same else "other pixels"
    except UserError as error:
        (problem,) = error.problems
    assert problem.startswith(f"{file}: ") and problem.isprintable() and len(problem) < 1000
    matching = [name for name, sentence in OUTCOMES.items() if re.search(sentence, problem)]
    assert matching, problem
    return matching[0]


def test_files_that_are_right(codec: Codec, decoders: Decoders, tmp_path: Path) -> None:
    for number, data in enumerate(codec.files):
        file = tmp_path / "right.rdt"
        file.write_bytes(data)
        name = NAMES[number // 3]
        assert outcome(file, Order(str(codec.sources[name]), name, "cpu", 1, None, 60.0)) == "same pixels"
        assert put_together(*taken_apart(data)) != data  # other spaces
        assert bitstream.unpack(put_together(*taken_apart(data))) == bitstream.unpack(data)
    assert len(decoders.seconds) == len(codec.files)


@pytest.mark.parametrize(
    "files", [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)])]
)
def test_mutated_files_do_no_harm(codec: Codec, decoders: Decoders, tmp_path: Path, files: int) -> None:
    found: Counter[str] = Counter()
    own: list[float] = []
    decoders.seconds.clear()
    decoders.peaks_kb.clear()
    tracemalloc.start()
    for seed in range(files):
        file = tmp_path / "mutated.rdt"
        data = mutated(seed, codec.files)
        file.write_bytes(data)
        name = next((name for name in NAMES if name.encode() in data), NAMES[0])
        start = time.process_time()
        found[outcome(file, Order(str(codec.sources[name]), name, "cpu", 1, None, SECONDS, MEMORY_MB))] += 1
        own.append(time.process_time() - start)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    taken_mb = (max(decoders.peaks_kb) - min(decoders.peaks_kb)) / 1024
    figures = (
        f"{dict(found)}; {len(decoders.seconds)} reached a decoder: longest {max(decoders.seconds):.2f} s, most "
        f"{taken_mb:.0f} MiB more than the least; the command: longest {max(own):.3f} s, most {peak / 2**20:.1f} MiB"
    )
    print(figures)
    assert sum(found.values()) == files
    assert max(own) < 1 and peak < 8 * 2**20, figures
    assert max(decoders.seconds) < SECONDS + 5 and taken_mb < MEMORY_MB + 50, figures
    for name in ("other pixels", "container", "other model", "refused by the model"):
        assert found[name] > 0, figures

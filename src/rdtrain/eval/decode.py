"""Decode a bitstream file in a process of its own.

CompressAI's native coder reads and writes beyond its buffers, or never returns, when strings are not what an encoder
wrote. A checksum finds accidents; for forgeries, the process that decodes is one that may crash, and that the kernel
stops when it takes more memory or time than it was given. Nothing heavy is imported here.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rdtrain import bitstream
from rdtrain.errors import UserError


@dataclass(frozen=True)
class Order:
    """What the decoding process is to do.

    Args:
        source: run, checkpoint or .pth file.
        model: registry name, for the last kind.
        device: `cpu` or `cuda`.
        threads: of the CPU's arithmetic.
        out: PNG file to write, None to write none.
        seconds: that decoding may take.
        memory_mb: that decoding may take, None for what the machine has free.
    """

    source: str
    model: str | None
    device: str
    threads: int
    out: str | None
    seconds: float
    memory_mb: int | None = None


@dataclass(frozen=True)
class Decoded:
    """What came of it.

    Args:
        same: the pixels are those that the encoder saw.
        writer: device and versions that encoded.
        reader: device and versions that decoded.
    """

    same: bool
    writer: str
    reader: str


def decode(file: Path, order: Order) -> Decoded:
    """Check a bitstream file, then decode it in another process.

    Args:
        file: the bitstream.
        order: what to do.

    Returns:
        Whether the pixels are right.

    Raises:
        UserError: the file is damaged, of another model, or cannot be decoded within the limits.
        RuntimeError: the process failed by a fault of ours.
    """
    data = bitstream.read(file)
    try:
        writer = bitstream.unpack(data).writer
    except bitstream.DamagedBitstream as error:
        raise UserError(f"{file}: {error}") from error
    command = [sys.executable, "-m", "rdtrain.eval.decoder_process", json.dumps(asdict(order))]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=order.seconds)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{file}: decoding took more than {order.seconds:g} s and was stopped; the file is damaged, "
            "or type --time-limit SECONDS for a slow model"
        ) from None
    if done.returncode == 2:
        raise UserError([f"{file}: {line}" for line in done.stderr.decode(errors="replace").splitlines()])
    if done.returncode < 0:
        raise UserError(f"{file}: {_stopped(-done.returncode, writer)}")
    if done.returncode:
        raise RuntimeError(f"the decoding process failed:\n{done.stderr.decode(errors='replace')}")
    return Decoded(**json.loads(done.stdout.splitlines()[-1]))


def _stopped(number: int, writer: str) -> str:
    if number == signal.SIGKILL:
        return "the decoder was stopped by SIGKILL: it took too much memory or time; the file is damaged or forged"
    return (
        f"the decoder was stopped by {signal.Signals(number).name}; these strings are not what an encoder writes, or "
        f"this machine computes other probabilities than {writer}: decode the file there"
    )

"""The process that decodes: `python -m rdtrain.eval.decoder_process ORDER < FILE`, started by `rdtrain.eval.decode`."""

from __future__ import annotations

import json
import math
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rdtrain import bitstream
from rdtrain.errors import UserError
from rdtrain.eval.decode import Decoded, Order
from rdtrain.quiet import silence_libraries

silence_libraries()

# E402: these imports make the libraries warn, which has just been silenced.
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from rdtrain.coding.context import use_coding_order  # noqa: E402
from rdtrain.eval import device as devices  # noqa: E402
from rdtrain.eval import memory  # noqa: E402
from rdtrain.eval.evaluate import pixels_hash  # noqa: E402
from rdtrain.eval.models import Subject, identity, load_subject  # noqa: E402
from rdtrain.eval.results import write_png  # noqa: E402
from rdtrain.variants import as_file  # noqa: E402


def limit(seconds: float, threads: int, memory_mb: int | None, cuda: bool) -> None:
    """Let the kernel stop this process if it takes too much.

    Args:
        seconds: that it may compute, by thread.
        threads: how many.
        memory_mb: address space that it may take on top of what it has; None for what the machine has free.
        cuda: leave room for addresses that CUDA reserves.
    """
    spent = math.ceil(seconds * max(1, threads) + sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (spent, spent))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory.limit(None if memory_mb is None else memory_mb * 2**20, cuda)


def refuse_other_model(stream: bitstream.Bitstream, subject: Subject) -> None:
    """Compare what the file says with the model at hand.

    Args:
        stream: the file.
        subject: the model.

    Raises:
        UserError: they differ.
    """
    known = identity(subject.model)
    if stream.model != subject.name or stream.weights != known.weights:
        raise UserError(
            f"written by another model ({stream.model}, weights {stream.weights}) than {subject.source} "
            f"({subject.name}, weights {known.weights}); name the model that wrote it"
        )
    if stream.tables != known.tables:
        raise UserError(
            f"this machine computes other probability tables for the same weights than {stream.writer}, "
            "so the strings cannot be decoded here"
        )


@torch.no_grad()
def decompress(model: Any, stream: bitstream.Bitstream) -> torch.Tensor:
    """Decode.

    Args:
        model: that wrote the strings, on its device; it is set to their order.
        stream: checked.

    Returns:
        uint8 (3, H, W) on the CPU.

    Raises:
        UserError: the model cannot make an image of that size from these strings.
        Exception: there is not enough memory.
    """
    if not use_coding_order(model, stream.coding_order):
        raise UserError(
            f"{stream.model} has no coding order {stream.coding_order!r}; decode it with the rdtrain that wrote it"
        )
    try:
        x_hat = model.decompress(stream.strings, stream.shape)["x_hat"]
    except Exception as error:  # strings and shape may be anybody's
        if memory.is_exhausted(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"the model cannot decode these strings ({reason[:200]})") from error
    if tuple(x_hat.shape) != (1, 3, *stream.padded):
        raise UserError(f"the strings make an image of shape {tuple(x_hat.shape)}, the header says {stream.padded}")
    cropped = F.pad(x_hat, [-side for side in stream.padding])
    return as_file(cropped)


def main(argument: str, data: bytes) -> int:
    """Do what was ordered.

    Args:
        argument: an `Order` as JSON.
        data: content of the bitstream file.

    Returns:
        The exit code: 0 with a `Decoded` as JSON on stdout, or 2 with sentences for the user on stderr.

    Raises:
        Exception: a fault of ours.
    """
    order = Order(**json.loads(argument))
    try:
        stream = bitstream.unpack(data)
        device = devices.choose(order.device, order.threads)
        subject = load_subject(Path(order.source), order.model)
        refuse_other_model(stream, subject)
        model = subject.model.to(device)
        limit(order.seconds, order.threads, order.memory_mb, device.type == "cuda")
        image = decompress(model, stream)
        if order.out is not None:
            write_png(Path(order.out), image.numpy())
    except UserError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or order.out}: {error.strerror}", file=sys.stderr)
        return 2
    except Exception as error:  # allocators raise several types when memory runs out
        if not memory.is_exhausted(error):
            raise
        print("not enough memory to decode this image; decode it on a machine with more", file=sys.stderr)
        return 2
    print(json.dumps(asdict(Decoded(pixels_hash(image) == stream.pixels, stream.writer, devices.describe(device)))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.stdin.buffer.read()))

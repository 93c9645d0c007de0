"""Arithmetic that comes out the same again: what an encoder computed, a decoder must compute too."""

from __future__ import annotations

import platform

import torch

from rdtrain.errors import UserError


def choose(name: str, threads: int) -> torch.device:
    """Prepare a device for coding: full precision, the same algorithms every time.

    Args:
        name: `cpu` or `cuda`.
        threads: that the CPU's arithmetic is divided among; sums may depend on it.

    Returns:
        The device.

    Raises:
        UserError: there is no such device here.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device; type --device cpu")
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(name)


def describe(device: torch.device) -> str:
    """Name a device for a bitstream's header.

    Args:
        device: that codes.

    Returns:
        Such as `cpu x86_64, torch 2.10.0, 1 thread(s)`.
    """
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type} {kind}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)"[:200]

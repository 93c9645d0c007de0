"""What chains cost in time."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn

# name: (kernel sizes of its convolutions)
_WAYS: dict[str, list[tuple[int, int]]] = {
    "7x7": [(7, 7)],
    "7x1, 1x7": [(7, 1), (1, 7)],
    "3x3, 3x3, 3x3": [(3, 3)] * 3,
    "5x5": [(5, 5)],
    "5x1, 1x5": [(5, 1), (1, 5)],
    "3x3, 3x3": [(3, 3)] * 2,
}


def latency_rows(channels: int, size: int, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """Time one large convolution and what it can be replaced by; the ways take turns, the first round does not count.

    Args:
        channels: in and out of each convolution.
        size: side of the image, pixels.
        repeats: rounds; the median counts.
        device: that computes.

    Returns:
        For each way: `channels`, `reach`, `convolutions`, `multiply_adds` for each pixel and pair of channels,
        `milliseconds`, and `of_direct`, the ratio to the one convolution of the same reach.
    """
    x = torch.rand(1, channels, size, size, device=device)
    nets = {
        name: nn.Sequential(
            *(nn.Conv2d(channels, channels, s, padding=(s[0] // 2, s[1] // 2), bias=False) for s in sizes)
        ).to(device)
        for name, sizes in _WAYS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in nets}
    with torch.no_grad():
        for _ in range(repeats + 1):
            for name, net in nets.items():
                times[name].append(_milliseconds(net, x))
    medians = {name: statistics.median(own[1:]) for name, own in times.items()}
    return [
        {
            "channels": channels,
            "reach": reach,
            "convolutions": name,
            "multiply_adds": sum(height * width for height, width in sizes),
            "milliseconds": medians[name],
            "of_direct": medians[name] / medians[f"{reach}x{reach}"],
        }
        for name, sizes in _WAYS.items()
        for reach in [1 + sum(height - 1 for height, _ in sizes)]
    ]


def _milliseconds(net: nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    net(x)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return 1e3 * (time.perf_counter() - start)

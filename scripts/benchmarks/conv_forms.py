"""Case C: a training step with spectral and with plain convs, in turn in one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.measure import Options, Row, in_turn, medians, ratios, timed
from rdtrain.conv.convert import to_spectral
from rdtrain.conv.transforms import make_transform
from rdtrain.entropy.mended import mend_bottlenecks
from rdtrain.gdn import normalize_in_blocks
from rdtrain.losses import RateDistortionLoss
from rdtrain.models import build_model

# N, M, side of the patches, batch, steps a round, most that the ratio should be
_SIZES = ((128, 192, 128, 8, 1, 1.02), (32, 48, 64, 8, 8, 1.05))
_QUICK = ((8, 12, 64, 2, 2, 1.05),)


def step_of(form: str, n: int, m: int, x: torch.Tensor) -> Callable[[], None]:
    """Make a training step of a factorized model.

    Args:
        form: `plain`, or a transform such as `rfft`.
        n: channels N.
        m: channels M.
        x: images, (B, 3, H, W), channels last.

    Returns:
        What makes one step.
    """
    net = build_model("bmshj2018-factorized", {"N": n, "M": m}, 0).train()
    if form != "plain":
        to_spectral(net, make_transform(form))
    for change in (mend_bottlenecks, normalize_in_blocks):  # as the runner does
        change(net)
    net.to(x.device, memory_format=torch.channels_last)
    optimizer, loss = torch.optim.Adam(net.parameters(), lr=1e-4), RateDistortionLoss(0.0067)

    def step() -> None:
        optimizer.zero_grad()
        loss(net(x), x)["loss"].backward()
        optimizer.step()
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)

    return step


def case_c(options: Options) -> list[Row]:
    """What spectral convs cost.

    Args:
        options: of the user.

    Returns:
        A row for each size.
    """
    rows = []
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for n, m, side, batch, steps, most in _QUICK if options.quick else _SIZES:
            x = torch.rand(batch, 3, side, side, device=options.device).to(memory_format=torch.channels_last)
            sides = {form: partial(timed, step_of(form, n, m, x), steps) for form in ("plain", "rfft")}
            times = in_turn(sides, options.turns(25), f"C, N={n}", warm_up=True)
            what = f"training step with spectral convs (rfft), N={n} M={m}, {batch}x{side}x{side}, one thread"
            found = ratios(times["rfft"], times["plain"])
            rows.append(Row("C", what, "plain convs", "times the time", most, False, found, medians(times)))
    finally:
        torch.set_num_threads(threads)
    return rows

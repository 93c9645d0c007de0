"""Time a training step with spectral and with plain convs, in turn in one process.

python scripts/time_conv_forms.py --N 32 --M 48 --patch 64
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from rdtrain.conv.convert import to_spectral
from rdtrain.conv.transforms import make_transform
from rdtrain.losses import RateDistortionLoss
from rdtrain.models import build_model
from rdtrain.quiet import silence_libraries


def main() -> None:
    """Print the median time of a step of each form and the median ratio over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("N", 32),
        ("M", 48),
        ("patch", 64),
        ("batch", 8),
        ("rounds", 15),
        ("steps", 8),
        ("threads", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--transform", default="rfft")
    chosen = parser.parse_args()
    silence_libraries()
    torch.set_num_threads(chosen.threads)
    x = torch.rand(chosen.batch, 3, chosen.patch, chosen.patch)
    steps = {}
    for form in ("plain", chosen.transform):
        net = build_model("bmshj2018-factorized", {"N": chosen.N, "M": chosen.M}, 0).train()
        if form != "plain":
            to_spectral(net, make_transform(form))
        optimizer, loss = torch.optim.Adam(net.parameters(), lr=1e-4), RateDistortionLoss(0.0067)

        def step(
            net: torch.nn.Module = net, optimizer: torch.optim.Adam = optimizer, loss: RateDistortionLoss = loss
        ) -> None:
            optimizer.zero_grad()
            loss(net(x), x)["loss"].backward()
            optimizer.step()

        steps[form] = step
    seconds: dict[str, list[float]] = {form: [] for form in steps}
    for _ in range(chosen.rounds + 1):
        for form, step in steps.items():
            start = time.perf_counter()
            for _ in range(chosen.steps):
                step()
            seconds[form].append((time.perf_counter() - start) / chosen.steps)
    plain, spectral = (times[1:] for times in seconds.values())  # the first round warms up
    ratios = sorted(b / a for a, b in zip(plain, spectral, strict=True))
    medians = [1000 * statistics.median(times) for times in (plain, spectral)]
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    print(f"plain {medians[0]:.1f} ms, {chosen.transform} {medians[1]:.1f} ms a step")
    print(f"ratio {statistics.median(ratios):.3f} (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()

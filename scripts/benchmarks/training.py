"""Cases A and B: steps of rdtrain's runner against a bare loop of CompressAI's own functions, in alternating processes.

As a program (`python -m benchmarks.training SETTINGS`) it trains on one side and prints the time of every step.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from benchmarks.measure import Options, Row, in_turn, medians, ratios
from benchmarks.processes import Finished, tell, worker

WARM_UP = 3  # steps that do not count
# The work of case A: bmshj2018-factorized as published for its lower rates.
LARGE = ("hp.N=128", "hp.M=192", "dataset.patch_size=128", "dataset.batch_size=8", "engine.threads=2")
SMALL = ("hp.N=32", "hp.M=48", "dataset.patch_size=64", "dataset.batch_size=8", "engine.threads=2")
TINY = ("hp.N=8", "hp.M=12", "dataset.patch_size=64", "dataset.batch_size=8", "engine.threads=1")
# Besides its steps a run does what the bare loop does not: it validates, and infers once.
_SHORT = (
    "criterion.lmbda=0.0067", "engine.num_epochs=1", "dataset.valid_batch_size=1", "dataset.valid_crops=1",
    "infer.max_images=1", "logger.figures=null", "logger.entropy_report=null",
)  # fmt: skip


def steps(side: str, options: Options, count: int, *overrides: str) -> Finished:
    """Train in a process of its own.

    Args:
        side: `bare` or `ours`.
        options: of the user.
        count: steps that count.
        overrides: of the configuration, which also says what the bare loop does.

    Returns:
        The process; its content has `seconds` of each step and `first_step`, the time at which the first one ended.
    """
    words = [*_SHORT, f"engine.device={options.device}", f"engine.epoch_steps={count + WARM_UP}", *overrides]
    return worker("training", {"side": side, "overrides": words})


def label(size: Sequence[str]) -> str:
    """Say how large the work is.

    Args:
        size: overrides.

    Returns:
        Their keys without sections, and the values.
    """
    return " ".join(word.partition(".")[2] for word in size)


def _median(side: str, options: Options, count: int, *overrides: str) -> float:
    return statistics.median(steps(side, options, count, *overrides).content["seconds"])


def case_a(options: Options) -> list[Row]:
    """The step of a published model.

    Args:
        options: of the user.

    Returns:
        A row with the default configuration, and one with plain convs, which is the bare loop's own work.
    """
    size, count = (SMALL, 6) if options.quick else (LARGE, 15)
    sides = {
        "bare loop": partial(_median, "bare", options, count, *size),
        "rdtrain": partial(_median, "ours", options, count, *size),
        "rdtrain, conv=plain": partial(_median, "ours", options, count, *size, "conv=plain"),
    }
    times = in_turn(sides, options.turns(5), "A")
    shown = f"training step, bmshj2018-factorized {label(size)}"
    return [
        Row("A", f"{shown}, {what}", "bare loop of CompressAI's functions", "times as fast", 1.35, True,
            ratios(times["bare loop"], times[side]), medians(times))
        for side, what in (("rdtrain", "as by default (spectral convs)"), ("rdtrain, conv=plain", "plain convs"))
    ]  # fmt: skip


def case_b(options: Options) -> list[Row]:
    """What the runner adds to a step that does next to nothing.

    Args:
        options: of the user.

    Returns:
        A row of milliseconds.
    """
    count = 50 if options.quick else 300
    sides = {side: partial(_median, side, options, count, *TINY, "conv=plain") for side in ("bare", "ours")}
    times = in_turn(sides, options.turns(5), "B")
    more = [1000 * (ours - bare) for bare, ours in zip(times["bare"], times["ours"], strict=True)]
    what = f"runner with logging, {label(TINY)}"
    return [Row("B", what, "the same bare loop", "ms a step more", 1.0, False, more, medians(times))]


def _bare(config: Any) -> tuple[list[float], float]:
    # The step of CompressAI's examples/train.py, on the batches that the run would see.
    import torch
    from compressai.losses import RateDistortionLoss
    from compressai.optimizers import net_aux_optimizer
    from compressai.zoo.image import model_architectures

    from rdtrain import build
    from rdtrain.data.inventory import make_stores, take_inventory

    torch.manual_seed(config.seed)
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    device = torch.device(config.engine.device)
    inventory, problems = take_inventory(config.dataset)
    if inventory is None:
        raise SystemExit("\n".join(problems))
    loader = build.loaders(config, make_stores(inventory, config.dataset), 1)["train"]
    net = model_architectures[config.model.name](config.hp["N"], config.hp["M"]).to(device).train()
    kind = {"type": "Adam", "lr": 1e-4}
    optimizer, aux_optimizer = net_aux_optimizer(net, {"net": kind, "aux": kind | {"lr": 1e-3}}).values()
    criterion = RateDistortionLoss(lmbda=config.criterion.lmbda)
    ends = []
    for batch in loader:
        x = batch["x"].to(device).to(torch.float32, memory_format=torch.contiguous_format) / 255  # as ToTensor makes it
        optimizer.zero_grad()
        aux_optimizer.zero_grad()
        criterion(net(x), x)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        net.aux_loss().backward()
        aux_optimizer.step()
        ends.append(_now(device))
    return [end for end, _ in ends], ends[0][1]


def _ours(config: Any) -> tuple[list[float], float]:
    from rdtrain.quick_catalyst import import_catalyst

    import_catalyst()  # as the command does, before anything else imports it
    from catalyst import dl

    from rdtrain import build
    from rdtrain.train import train

    ends: list[tuple[float, float]] = []

    class Ends(dl.Callback):
        def on_batch_end(self, runner: Any) -> None:
            if runner.is_train_loader:
                ends.append(_now(runner.engine.device))

    make = build.callbacks
    build.callbacks = lambda config: {**make(config), "ends": Ends(order=1000)}
    train(config)
    return [end for end, _ in ends], ends[0][1]


def _now(device: Any) -> tuple[float, float]:
    # When everything up to here is done: to measure with, and as time of day.
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter(), time.time()


def _main(settings: dict[str, Any]) -> dict[str, Any]:
    from rdtrain.config.check import check
    from rdtrain.config.compose import composed
    from rdtrain.quiet import silence_libraries

    silence_libraries()
    raw, problems = composed(settings["overrides"])
    config, found = check(raw or {})
    if config is None:
        raise SystemExit("\n".join(problems + found))
    ends, first = (_bare if settings["side"] == "bare" else _ours)(config)
    seconds = [after - before for before, after in pairwise(ends)]
    return {"seconds": seconds[WARM_UP - 1 :], "first_step": first}


if __name__ == "__main__":
    tell(_main(json.loads(sys.argv[1])))

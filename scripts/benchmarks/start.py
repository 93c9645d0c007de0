"""Case G: how long the command takes to answer, and a run to its first step, in alternating processes.

As a program it starts a run as the command does, and ends it after its first step.
"""

from __future__ import annotations

import sys

from benchmarks.measure import Options, Row, in_turn, medians, ratios
from benchmarks.processes import SCRIPTS, command, process, scratch

_BARE = [sys.executable, "-W", "ignore", "-c", "import torch, compressai"]
_RUN = (
    "experiment=quickstart", "engine.num_epochs=1", "infer.max_images=1", "logger.figures=null",
    "logger.entropy_report=null",
)  # fmt: skip


def case_g(options: Options) -> list[Row]:
    """Start.

    Args:
        options: of the user.

    Returns:
        Three rows.
    """
    first_step = [sys.executable, "-W", "ignore", str(SCRIPTS / "benchmarks" / "start.py"), *_RUN]
    words = {
        "import torch, compressai": _BARE,
        "rdtrain --help": [command("rdtrain"), "--help"],
        "rdtrain --cfg job": [command("rdtrain"), "--cfg", "job"],
        "start to first step": [*first_step, f"engine.device={options.device}"],
    }
    with scratch() as folder:
        sides = {side: lambda line=line: process(line, folder).seconds for side, line in words.items()}
        times = in_turn(sides, options.turns(7), "G", warm_up=not options.quick)
    rows = [
        Row("G", side, "a limit", "seconds", target, False, times[side], medians(times))
        for side, target in (("rdtrain --help", 1.5), ("rdtrain --cfg job", 2.0))
    ]
    found = ratios(times["start to first step"], times["import torch, compressai"])
    what = "start of a run to its first step, experiment=quickstart"
    return [*rows, Row("G", what, "import torch, compressai", "times the time", 1.3, False, found, medians(times))]


def _main() -> None:
    import os

    from rdtrain.quick_catalyst import import_catalyst

    import_catalyst()  # as the command does, before anything else imports it
    from catalyst import dl

    from rdtrain import build
    from rdtrain.cli import main

    class Leave(dl.Callback):
        def on_batch_end(self, runner: object) -> None:
            os._exit(0)

    make = build.callbacks
    build.callbacks = lambda config: {**make(config), "leave": Leave(order=1000)}
    main()


if __name__ == "__main__":
    _main()

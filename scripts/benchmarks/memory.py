"""Largest resident memory of training and of evaluation, beside the peer's."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import ledger, training
from benchmarks.measure import Options, in_turn, medians
from benchmarks.processes import scratch


def case_memory(options: Options) -> list[dict[str, Any]]:
    """Peaks of whole processes, imports included.

    Args:
        options: of the user.

    Returns:
        A row for training and one for evaluation, MiB by side.
    """
    size, channels, most = (training.SMALL, ledger.SMALL, 1) if options.quick else (training.LARGE, ledger.PUBLISHED, 4)
    trained = in_turn(
        {
            "bare loop": partial(_training, "bare", options, size),
            "rdtrain": partial(_training, "ours", options, size),
        },
        options.turns(3), "memory, training",
    )  # fmt: skip
    model = "bmshj2018-hyperprior"
    with scratch() as folder:
        count = ledger.prepare(options, model, channels, folder, most)
        evaluated = in_turn(
            {side: partial(_evaluation, side, model, folder, options) for side in ("theirs", "ours")},
            options.turns(3), "memory, evaluation",
        )  # fmt: skip
    peer, own = medians(trained).values()
    eval_peer, eval_own = medians(evaluated).values()
    return [
        {
            "what": f"training, bmshj2018-factorized {training.label(size)}",
            "peer": "bare loop", "peer_mib": round(peer), "rdtrain_mib": round(own),
        },
        {
            "what": f"evaluation of {count} Kodak images, {model} N={channels[0]} M={channels[1]}",
            "peer": "CompressAI's eval_model", "peer_mib": round(eval_peer), "rdtrain_mib": round(eval_own),
        },
    ]  # fmt: skip


def _training(side: str, options: Options, size: tuple[str, ...]) -> float:
    return float(training.steps(side, options, 6, *size).content["peak_mib"])


def _evaluation(side: str, model: str, folder: Path, options: Options) -> float:
    return float(ledger.evaluated(side, model, folder, options).content["peak_mib"])

"""Which measurement is a point of which curve: runs, evaluations of their checkpoints, and evaluations of strangers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rdtrain.report.evaluations import Evaluation
from rdtrain.report.image_sets import names as names_of_sets
from rdtrain.report.measurements import Measurement, of_evaluation, of_run
from rdtrain.report.runs import Run

_OTHER = 2  # rank of a checkpoint that does not stand for its run
_RANK = {"best": 0, "model": 0, "": 0, "last": 1}  # `model` is the export of the best, "" is not said


def measure(runs: Sequence[Run], evaluations: Sequence[Evaluation], names: dict[Path, str]) -> list[Measurement]:
    """Collect what was measured; an evaluation of a run replaces what the run measured on the same images.

    Args:
        runs: the runs.
        evaluations: result files, those in a run's folder or with its run id belong to that run.
        names: of the runs' curves.

    Returns:
        The measurements of the runs in their order, then those of other evaluations. The best checkpoint stands for
        its run, else the last one; other checkpoints are curves of their own.
    """
    sets = names_of_sets([one.image_set for source in (runs, evaluations) for one in source])
    owned: dict[Path, dict[str, list[Evaluation]]] = {run.folder: {sets[run.image_set]: []} for run in runs}
    strangers = []
    for one in evaluations:
        owner = next((run for run in runs if _belongs(one, run)), None)
        if owner is None:
            strangers.append(one)
        else:
            owned[owner.folder].setdefault(sets[one.image_set], []).append(one)
    found = []
    for run in runs:
        for dataset, ours in owned[run.folder].items():
            own = of_run(run, names[run.folder]) if dataset == sets[run.image_set] else None
            made = _of_checkpoints(run, names[run.folder], own, ours)
            found += [replace(one, dataset=dataset) for one in made]
    curves = _stranger_curves(strangers)
    for stranger in strangers:
        made = of_evaluation(stranger, curve=curves[stranger.file])
        found += [replace(one, dataset=sets[stranger.image_set]) for one in made]
    return found


def _belongs(evaluation: Evaluation, run: Run) -> bool:
    run_id = run.summary.get("run_id")
    return run.folder in evaluation.file.parents or (run_id is not None and evaluation.meta.get("run_id") == run_id)


def _of_checkpoints(
    run: Run, curve: str, own: Measurement | None, evaluations: Sequence[Evaluation]
) -> list[Measurement]:
    # One set of images: the first evaluation of each checkpoint, and the run's own figures where none replaces them.
    by_weights: dict[str, Evaluation] = {}
    for one in sorted(evaluations, key=_rank):
        by_weights.setdefault(one.weights, one)
    stands = next((one for one in by_weights.values() if _rank(one) < _OTHER), None)
    made = [own] if own and stands is None else []
    used = {curve}
    for one in by_weights.values():
        name = curve if one is stands else f"{curve}, {one.checkpoint}"
        name = name if one is stands or name not in used else f"{name} {one.weights[:6]}"
        used.add(name)
        made += of_evaluation(one, run, name)
    return made


def _rank(evaluation: Evaluation) -> int:
    return _RANK.get(evaluation.checkpoint, _OTHER)


def _stranger_curves(evaluations: Sequence[Evaluation]) -> dict[Path, str]:
    # Files of one model name are points of a curve, unless two are of one lambda: nothing says that they are seeds.
    by_name: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        by_name.setdefault(one.name, []).append(one)
    curves: dict[Path, str] = {}
    for name, members in by_name.items():
        points = [(one.image_set, lmbda) for one in members for lmbda in set(one.lmbda.tolist())]
        apart = _told_apart(members) if len(set(points)) < len(points) else [""] * len(members)
        curves |= {one.file: f"{name}{mark}" for one, mark in zip(members, apart, strict=True)}
    return curves


def _told_apart(members: Sequence[Evaluation]) -> list[str]:
    sources = [str(one.meta.get("run_id") or one.checkpoint or one.file.stem) for one in members]
    hashed = [f"{source} {one.weights[:6]}" for source, one in zip(sources, members, strict=True)]
    files = [str(one.file) for one in members]
    chosen = next((marks for marks in (sources, hashed) if len(set(marks)) == len(marks)), files)
    return [f", {mark}" for mark in chosen]

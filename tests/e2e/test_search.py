"""A search by the installed command: killed, and issued again."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="pip install '.[search]'")

from sweeps import begun, runs, statuses, sweep

from rdtrain.sweep.plan import Plan, Point

pytestmark = pytest.mark.slow
STEPS = 6  # of each of two epochs
WORDS = ("search=lr", "search.trials=4", "checkpoint.every_n_steps=2", f"engine.epoch_steps={STEPS}")


def _trials(folder: Path) -> list[dict[str, str]]:
    (file,) = (folder / "runs" / "search").glob("lr-*.csv")
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_search_that_was_killed_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    """What other commands have left in its folder does not matter to it."""
    Plan(tmp_path / "runs").grown([Point("0" * 10, "another", (), "0" * 12)]).write({})
    with begun(tmp_path, *WORDS) as process:
        while statuses(tmp_path).count("finished") < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        while len(runs(tmp_path)) < 3 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    before = runs(tmp_path)
    whole = {name: run for name, run in before.items() if run.read_summary()["status"] == "finished"}
    assert 2 <= len(whole) < 4
    written = {path: path.stat().st_mtime_ns for run in whole.values() for path in (run.last, run.metrics, run.summary)}

    printed = sweep(tmp_path, *WORDS)
    assert "Best of 4 finished trials" in printed and "\n4 points: 4 finished\n" in printed
    trials = _trials(tmp_path)
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    after = runs(tmp_path)
    assert len(after) == 4 and before.keys() <= after.keys()
    assert {trial["run"] for trial in trials} == {run.id for run in after.values()}
    assert {path: path.stat().st_mtime_ns for path in written} == written
    for trial in trials:
        (run,) = [run for run in after.values() if run.id == trial["run"]]
        summary = run.read_summary()
        assert summary["steps"] == 2 * STEPS
        assert float(trial["objective"]) == pytest.approx(summary["best"]["loss"], rel=1e-4)

"""A search by the installed command: killed, and issued again."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="pip install 'rdtrain[search]'")

from sweeps import begun, runs, statuses, sweep

pytestmark = pytest.mark.slow
WORDS = ("search=lr", "search.trials=4", "checkpoint.every_n_steps=5", "engine.epoch_steps=20")


def _trials(folder: Path) -> list[dict[str, str]]:
    (file,) = (folder / "runs" / "search").glob("lr-*.csv")
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_search_that_was_killed_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
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
    assert "Best of 4 finished trials" in printed
    trials = _trials(tmp_path)
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    after = runs(tmp_path)
    assert len(after) == 4 and before.keys() <= after.keys()
    assert {trial["run"] for trial in trials} == {run.id for run in after.values()}
    assert {path: path.stat().st_mtime_ns for path in written} == written
    for trial in trials:
        (run,) = [run for run in after.values() if run.id == trial["run"]]
        summary = run.read_summary()
        assert summary["steps"] == 40
        assert float(trial["objective"]) == pytest.approx(summary["best"]["loss"], rel=1e-4)

"""scripts/benchmark.py: what it measures, keeps and writes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import one of its modules."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return lambda name: import_module(f"benchmarks.{name}")


def test_cases_are_merged_and_one_that_fails_keeps_none_from_being_measured(tmp_path: Path) -> None:
    out = tmp_path / "benchmark.json"
    kept = {"rows": [], "seconds": 7}
    out.write_text(json.dumps({"cases": {"G": kept}}))
    words = [sys.executable, str(SCRIPT), "--quick", "--cases", "H,C", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 1
    assert "H could not be measured" in done.stderr and "rdtrain experiment=switch_vs_plain" in done.stderr
    cases = json.loads(out.read_text())["cases"]
    assert list(cases) == ["C", "G"] and cases["G"] == kept
    entry = cases["C"]
    assert entry["quick"] and entry["cpus"] >= 1 and entry["versions"]["torch"] and entry["load_before"] >= 0
    (row,) = entry["rows"]
    seconds = row["seconds"]
    assert len(row["values"]) == 1 and row["median"] == pytest.approx(seconds["rfft"] / seconds["plain"])
    assert row["reached"] == (row["median"] <= row["target"])
    assert row["what"] in done.stdout


def test_unknown_cases_are_named() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--cases", "A,Z"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "there is no case Z" in done.stderr


def test_quartiles_interpolate_and_bear_infinity(load: Any) -> None:
    measure = load("measure")
    assert measure.quartiles([4.0, 1.0, 3.0, 2.0]) == (1.75, 2.5, 3.25)
    assert measure.quartiles([2.0]) == (2.0, 2.0, 2.0)
    assert measure.quartiles([1.0, 2.0, math.inf]) == (1.5, 2.0, math.inf)
    assert measure.quartiles([1.0, *[math.inf] * 3])[1:] == (math.inf, math.inf)


@pytest.mark.parametrize(("atleast", "median", "reached"), [(True, 5.1, True), (True, 4.9, False), (False, 4.9, True)])
def test_a_row_says_whether_its_target_is_reached(load: Any, atleast: bool, median: float, reached: bool) -> None:
    row = load("measure").Row("Z", "what", "peer", "times", 5.0, atleast, [median, 0.0, 100.0]).to_dict()
    assert row["median"] == median and row["reached"] is reached


def test_sides_take_their_turn_in_either_order_and_the_first_round_warms_up(load: Any) -> None:
    measure = load("measure")
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = measure.in_turn({name: partial(side, name) for name in "ab"}, 2, "test", warm_up=True)
    assert "".join(order) == "abbaab"
    assert found == {"a": [4.0, 5.0], "b": [3.0, 6.0]}
    assert measure.ratios(found["b"], found["a"]) == [0.75, 1.2]


def test_a_process_tells_its_own_peak_and_its_failure(load: Any) -> None:
    process, scripts = load("processes").process, str(SCRIPT.parent)
    told = "from benchmarks.processes import tell; x = bytearray(10**8); tell({'n': 3})"
    ballast = bytearray(b"1" * 4 * 10**8)  # of the process that starts the other one, and not to be counted
    done = process([sys.executable, "-c", told], PYTHONPATH=scripts)
    del ballast
    assert done.content["n"] == 3 and 95 < done.content["peak_mib"] < 200 and done.seconds > 0
    with pytest.raises(RuntimeError, match="no such thing"):
        process([sys.executable, "-c", "raise SystemExit('no such thing')"])


def _run(folder: Path, arm: dict[str, Any], seed: int, losses: list[float]) -> None:
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "conv": {"type": "plain", "switch": {"trigger": "plateau"}},
        "optimizer": {"lr_factor": 1.0},
    }
    for section, values in arm.items():
        config[section] |= values
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "summary.json").write_text('{"status": "finished"}')
    head = "epoch,step,loader,loss/forward/unclamped,time/elapsed_s\n"
    rows = [f"{i},{100 * i},valid,{loss},{10 * i}\n" for i, loss in enumerate(losses, 1)]
    (folder / "metrics.csv").write_text(head + "".join(rows))


def test_the_switch_is_compared_seed_by_seed_with_its_control(load: Any, tmp_path: Path) -> None:
    for seed in (1, 2):
        _run(tmp_path / f"{seed}-plain", {}, seed, [8.0, 6.0, 5.0, 4.0])
        _run(tmp_path / f"{seed}-control", {"optimizer": {"lr_factor": 1.41421356}}, seed, [8.0, 5.0, 3.0, 3.0])
        _run(tmp_path / f"{seed}-switch", {"conv": {"type": "spectral"}}, seed, [8.0 if seed == 1 else 4.0, 4.0, 3.0])
    options = load("measure").Options(runs=tmp_path)
    steps, seconds = load("switch").case_h(options)
    assert list(steps.values) == [0.5, 0.25] and steps.unit == "of the steps" and steps.to_dict()["reached"]
    assert list(seconds.values) == [0.5, 0.25]
    assert "0.625" in steps.remark  # the control passes 4.0 half-way between steps 200 and 300 of plain's 400


def test_tables_go_between_their_markers(load: Any, tmp_path: Path) -> None:
    page, row = load("page"), load("measure").Row("A", "a step", "a loop", "times as fast", 1.35, True, [1.5, 1.4, 1.6])
    entry = {
        "rows": [row.to_dict()], "quick": False, "cpu": "X", "cpus": 2, "device": "cpu", "commit": "abc",
        "date": "2026-11-22T10:00:00+00:00", "load_before": 0.1, "load_after": 2.0, "versions": {"torch": "2"},
    }  # fmt: skip
    results = {"cases": {"A": entry, "memory": {**entry, "rows": []}}}
    expected = "| A | a step | a loop | at least 1.35 | 1.5 (1.45 to 1.55, 3 rounds) times as fast | yes |"
    assert page.table(results).splitlines()[2:] == [expected]
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- benchmark table -->\nold\n<!-- end -->\nafter\n")
    page.write(document, {"table": "new"})
    page.write(document, {"table": page.table(results)})
    assert document.read_text().startswith("before\n<!-- benchmark table -->\n| case ")
    assert document.read_text().endswith(f"{expected}\n<!-- end -->\nafter\n")
    with pytest.raises(ValueError, match="no markers for machines"):
        page.write(document, {"machines": page.machines(results)})


def test_the_document_has_all_markers(load: Any) -> None:
    text = (SCRIPT.parents[1] / "docs" / "performance.md").read_text()
    for name in ("table", "machines", "memory"):
        assert f"<!-- benchmark {name} -->\n" in text

"""Jobs of a plan, with stubs in the place of trainings."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rdtrain.errors import UserError
from rdtrain.lock import InUse, locked
from rdtrain.sweep import job
from rdtrain.sweep.job import run_job
from rdtrain.sweep.plan import Plan, Point

HOLD = """
import pathlib, sys
from rdtrain.lock import locked

with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "code_hash", lambda: "0" * 12)
    monkeypatch.setattr(job, "content_id", lambda content: content.get("seed"))


def _plan(folder: Path, retry: bool = True, on_code_change: str = "warn", code: str = "0" * 12) -> Plan:
    plan = Plan(folder).grown([Point(name, f"{name}-run", (f"++seed={name}",), code, epochs=2) for name in "abc"])
    plan.write({name: {"seed": name, "sweep": {"retry": retry, "on_code_change": on_code_change}} for name in "abc"})
    return plan


def _train(trained: list[str], folder: Path, failing: str = "") -> Any:
    def train(raw: dict[str, Any]) -> None:
        assert raw["paths"]["runs"] == str(folder)
        trained.append(raw["seed"])
        with locked(folder / f"{raw['seed']}-run"):
            if raw["seed"] in failing:
                raise ZeroDivisionError("no such thing")
            (folder / f"{raw['seed']}-run" / "summary.json").write_text('{"status": "finished", "epochs": 2}')

    return train


def _states(folder: Path) -> dict[str, str]:
    with open(folder / "status.csv", newline="") as file:
        return {row["id"]: row["state"] for row in csv.DictReader(file)}


def test_a_job_trains_what_was_frozen_under_its_id(tmp_path: Path) -> None:
    plan, trained = _plan(tmp_path), list[str]()
    # The sweep was issued again with another key that is not part of an id, while the job waited.
    newer = [
        Point(point.id, point.run, (*point.overrides, "++launcher.minutes=480"), point.code) for point in plan.points
    ]
    plan.grown(newer).write({})
    run_job(tmp_path, "b", _train(trained, tmp_path))
    assert trained == ["b"] and _states(tmp_path)["b"] == "finished"


def test_a_job_without_a_plan_is_refused(tmp_path: Path) -> None:
    _plan(tmp_path)
    trained: list[str] = []
    with pytest.raises(UserError, match="no point d"):
        run_job(tmp_path, "d", _train(trained, tmp_path))
    assert trained == []


def test_a_damaged_configuration_is_written_down(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    for content in ("{}", "", "- 1", "seed: ["):
        plan.config_of("a").write_text(content)
        with pytest.raises(UserError, match=r"a\.yaml is (damaged|not what was planned); issue the sweep again"):
            run_job(tmp_path, "a", _train([], tmp_path))
    assert json.loads(plan.error_of("a").read_text())["code"] == 2 and _states(tmp_path)["a"] == "failed"


def test_another_configuration_than_was_planned_is_not_trained(tmp_path: Path) -> None:
    plan, trained = _plan(tmp_path), list[str]()
    plan.config_of("a").write_text(plan.config_of("b").read_text())
    with pytest.raises(UserError, match=r"a\.yaml is not what was planned"):
        run_job(tmp_path, "a", _train(trained, tmp_path))
    assert trained == [] and _states(tmp_path)["a"] == "failed"


def test_a_plan_of_another_version_is_not_taken_for_damaged(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"format": 99, "points": []}')
    with pytest.raises(UserError, match="has format 99 of another version of rdtrain"):
        Plan.read(tmp_path)


def test_a_failure_is_written_down_and_tried_again_unless_unwanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, trained = _plan(tmp_path), list[str]()
    with pytest.raises(ZeroDivisionError):
        run_job(tmp_path, "a", _train(trained, tmp_path, failing="a"))
    word = plan.error_of("a")
    assert json.loads(word.read_text()) == {"code": 1, "reason": "ZeroDivisionError: no such thing"}
    assert _states(tmp_path) == {"a": "failed", "b": "planned", "c": "planned"}
    _plan(tmp_path, retry=False)
    run_job(tmp_path, "a", _train(trained, tmp_path))
    assert trained == ["a"] and word.is_file() and "left alone (sweep.retry=false)" in capsys.readouterr().out
    _plan(tmp_path)
    run_job(tmp_path, "a", _train(trained, tmp_path))
    assert trained == ["a", "a"] and not word.exists() and _states(tmp_path)["a"] == "finished"


def test_other_code_is_told_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained: list[str] = []
    plan = _plan(tmp_path, on_code_change="refuse", code="1" * 12)
    with pytest.raises(UserError, match="planned with code 111111111111, and this is 000000000000; issue the sweep"):
        run_job(tmp_path, "a", _train(trained, tmp_path))
    assert trained == [] and json.loads(plan.error_of("a").read_text())["code"] == 2
    (tmp_path / "b-run").mkdir()
    with pytest.raises(UserError, match=r"delete .*b-run to begin anew"):
        run_job(tmp_path, "b", _train(trained, tmp_path))
    _plan(tmp_path, on_code_change="warn", code="1" * 12)
    run_job(tmp_path, "a", _train(trained, tmp_path))
    assert trained == ["a"] and "it goes on (sweep.on_code_change=warn)" in capsys.readouterr().out


def test_a_point_that_another_process_trains_is_not_called_failed(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    (tmp_path / "a-run").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "a-run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(InUse, match=f"in use by process {holder.pid}"):
            run_job(tmp_path, "a", _train([], tmp_path))
    assert not plan.error_of("a").exists()


def test_the_last_job_shows_the_points_that_came_meanwhile(tmp_path: Path) -> None:
    plan, trained = _plan(tmp_path), list[str]()
    more = Point("d", "d-run", ("++seed=d",), "0" * 12)

    def train(raw: dict[str, Any]) -> None:
        plan.grown([more]).write({})
        (tmp_path / "status.csv").write_text("as new as can be")
        _train(trained, tmp_path)(raw)

    run_job(tmp_path, "a", train)
    assert _states(tmp_path) == {"a": "finished", "b": "planned", "c": "planned", "d": "planned"}

"""How far the points of a sweep are, from files only."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rdtrain.errors import UserError
from rdtrain.report.cli import main
from rdtrain.sweep.plan import Plan, Point, code_hash
from rdtrain.sweep.status import error_code, status, table, write_status

CONFIG = {"engine": {"num_epochs": 10}}


def _point(name: str, lmbda: float) -> Point:
    return Point(name, f"{name}-run", (f"++criterion.lmbda={lmbda}", "++seed=1"), "0" * 12, epochs=10)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    points = [_point(name, 0.01 * i) for i, name in enumerate("abcde", 1)]
    plan = Plan(tmp_path).grown(points)
    plan.write({point.id: CONFIG for point in points})
    return plan


def _summary(plan: Plan, name: str, **content: object) -> Path:
    folder = plan.folder / f"{name}-run"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(content))
    (folder / "environment.json").write_text(json.dumps({"host": "one", "continued": [{"host": f"host-{name}"}]}))
    return folder


def test_every_state(plan: Plan) -> None:
    final = {"valid/loss/forward/unclamped": 1.5, "valid/bpp/forward": 0.25, "valid/psnr/forward/unclamped": 30.0}
    _summary(plan, "a", status="finished", epochs=10, seconds=100.0, final=final)
    held = _summary(plan, "b", status="running", epochs=4, seconds=40.0, final=final)
    _summary(plan, "c", status="running", epochs=2, seconds=20.0, final={})  # nobody holds it
    plan.error_of("d").write_text(json.dumps({"code": 2, "reason": "no images"}))
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from rdtrain.lock import locked\n"
            "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()",
            str(held),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    rows = {row.id: row for row in status(Plan.read(plan.folder))}
    holder.communicate("")
    assert {name: row.state for name, row in rows.items()} == {
        "a": "finished", "b": "running", "c": "killed", "d": "failed", "e": "planned",
    }  # fmt: skip
    assert (rows["a"].loss, rows["a"].bpp, rows["a"].psnr, rows["a"].left_s) == (1.5, 0.25, 30.0, None)
    assert (rows["b"].epoch, rows["b"].epochs, rows["b"].left_s, rows["b"].host) == (4, 10, 60, "host-b")
    assert rows["d"].reason == "no images" and error_code(plan.error_of("d")) == 2
    assert error_code(plan.error_of("e")) == 1
    assert rows["e"].overrides == "++criterion.lmbda=0.05"  # the seed is the same everywhere


def test_the_csv_and_the_table_have_a_line_a_point(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    _summary(plan, "a", status="finished", epochs=10, seconds=1.0, final={})
    rows = write_status(plan)
    with open(plan.folder / "status.csv", newline="") as file:
        assert [(row["id"], row["state"]) for row in csv.DictReader(file)] == [(row.id, row.state) for row in rows]
    assert "5 points: 1 finished, 4 planned" in table(rows)
    assert main(["status", str(plan.folder)]) == 0
    assert table(rows) in capsys.readouterr().out


def test_points_of_several_commands_are_told_apart_by_their_kind(plan: Plan) -> None:
    fits = [
        Point(name, f"{name}-edge", ("experiment=kernels/edge", f"++seed={i}"), "0" * 12, kind="kernels")
        for i, name in enumerate("fg")
    ]
    tried = Point("h", "h-run", ("++criterion.lmbda=0.2", "++optimizer.net.lr=0.1"), "0" * 12, 10, kind="search=lr")
    plan.grown([*fits, tried]).write({})
    _summary(plan, "h", status="finished", epochs=10, seconds=1.0, final={})
    rows = status(Plan.read(plan.folder))
    assert [(row.kind, row.overrides) for row in rows[4:]] == [
        ("train", "++criterion.lmbda=0.05"), ("kernels", "++seed=0"), ("kernels", "++seed=1"),
        ("search=lr", " ".join(tried.overrides)),
    ]  # fmt: skip
    lines = table(rows).splitlines()
    assert lines[5].split()[:4] == ["e", "train", "planned", "0/10"]
    assert lines[6].split() == ["f", "kernels", "planned", "++seed=0"]  # which counts no epochs
    assert lines[8].split()[:4] == ["h", "search=lr", "finished", "10/10"]


def test_no_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "holds no plan.json" in capsys.readouterr().err
    (tmp_path / "plan.json").write_text('{"points": [{"id": 3}]}')
    with pytest.raises(UserError, match="is no plan of a sweep"):
        Plan.read(tmp_path)


def test_a_plan_of_an_older_version_has_trainings(plan: Plan) -> None:
    content = json.loads((plan.folder / "plan.json").read_text())
    assert [point.pop("kind") for point in content["points"]] == ["train"] * 5
    (plan.folder / "plan.json").write_text(json.dumps(content))
    assert Plan.read(plan.folder) == plan


def test_a_configuration_that_is_gone(plan: Plan) -> None:
    plan.config_of("a").unlink()
    with pytest.raises(UserError, match=r"a\.yaml is gone; issue the sweep again"):
        plan.frozen("a")
    assert plan.frozen("b") == CONFIG


def test_a_plan_only_grows(plan: Plan) -> None:
    newer = Point("a", "a-run", ("++criterion.lmbda=0.01", "++seed=1"), "1" * 12)
    grown = plan.grown([newer, _point("f", 0.06)])
    assert [point.id for point in grown.points] == list("abcdef")
    assert grown.point("a") == newer
    with pytest.raises(UserError, match="no point g in its plan"):
        grown.point("g")


def test_a_run_keeps_the_code_that_it_began_on(plan: Plan) -> None:
    (plan.folder / "a-run").mkdir()
    newer = [Point(name, f"{name}-run", ("++launcher.minutes=9",), "1" * 12) for name in "ab"]
    grown = plan.grown(newer)
    assert [(point.code, point.overrides) for point in grown.points[:2]] == [
        ("0" * 12, newer[0].overrides), ("1" * 12, newer[1].overrides),
    ]  # fmt: skip


def test_the_hash_of_the_code_is_the_same_twice() -> None:
    assert code_hash() == code_hash()
    assert len(code_hash()) == 12

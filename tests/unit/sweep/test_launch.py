"""What a multirun hands to its launcher, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from rdtrain.errors import UserError
from rdtrain.sweep import sweeper
from rdtrain.sweep.plan import Plan, Point
from rdtrain.sweep.present import PRESENT
from rdtrain.sweep.record import SweepRecord

POINTS = [Point(name, f"{name}-run", (f"++seed={name}",), "0" * 12) for name in "abc"]


def _summary(folder: Path, name: str, status: str) -> None:
    (folder / f"{name}-run").mkdir(exist_ok=True)
    (folder / f"{name}-run" / "summary.json").write_text(f'{{"status": "{status}"}}')


class Launcher:
    """Finishes the points whose names it is given, and then breaks down if it is to."""

    def __init__(self, folder: Path, finished: str = "", fault: Exception | None = None) -> None:
        self.folder, self.finished, self.fault = folder, finished, fault
        self.jobs: list[tuple[int, list[str]]] = []

    def launch(self, batch: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.jobs += [(initial_job_idx + i, list(words)) for i, words in enumerate(batch)]
        for name in self.finished:
            _summary(self.folder, name, "finished")
        if self.fault:
            raise self.fault
        return []


def _config(folder: Path) -> Any:
    # Of an experiment, which makes no report.
    return OmegaConf.create({"paths": {"runs": str(folder)}, "task": "kernels", "launcher": {"name": "local"}})


def _planned(folder: Path) -> Plan:
    plan = Plan(folder).grown(POINTS)
    plan.write({})
    PRESENT.begin(POINTS)
    return plan


def _sweep(folder: Path, launcher: Launcher, batch: int | None = None) -> int:
    """The exit code."""
    # When Hydra looks for plugins it loads the module of the base class again, so its constructor may not know ours.
    made = object.__new__(sweeper.PlannedSweeper)
    made.config, made.launcher, made.max_batch_size = _config(folder), launcher, batch
    try:
        made.sweep([])
        SweepRecord().on_multirun_end(made.config)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_each_job_knows_its_point_and_what_needs_none_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _planned(tmp_path)
    _summary(tmp_path, "a", "finished")
    _summary(tmp_path, "c", "running")
    monkeypatch.setattr("rdtrain.sweep.status.is_held", lambda folder: folder.name == "c-run")
    launcher = Launcher(tmp_path, finished="b")
    assert _sweep(tmp_path, launcher) == 1  # one is not finished
    assert launcher.jobs == [(0, ["++seed=b", "hydra.job.name='b'", f"hydra.sweep.dir='{tmp_path}'"])]
    assert "left alone: 1 already finished, 1 already running" in capsys.readouterr().out
    assert (tmp_path / "multirun.yaml").is_file()
    launcher.jobs.clear()
    _summary(tmp_path, "c", "finished")
    assert _sweep(tmp_path, launcher) == 0 and launcher.jobs == []
    assert "3 points: 3 finished" in capsys.readouterr().out


def test_a_job_begins_where_the_command_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of a cluster that was started elsewhere; a machine without that folder may do with whole paths."""
    for name in ("typed", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    job = OmegaConf.create({"hydra": {"runtime": {"cwd": str(tmp_path / "gone")}}})
    SweepRecord().on_job_start(job)
    assert Path.cwd() == tmp_path / "elsewhere"
    job.hydra.runtime.cwd = str(tmp_path / "typed")
    SweepRecord().on_job_start(job)
    assert Path.cwd() == tmp_path / "typed"


def test_the_folder_of_a_job_is_a_whole_path_whatever_is_in_it(tmp_path: Path) -> None:
    launcher: Any = Launcher(tmp_path)
    folder = tmp_path / "a person's, [own] = folder"
    sweeper.launch(launcher, folder, POINTS[:1], first=0)
    ((_, words),) = launcher.jobs
    parsed = OverridesParser.create().parse_overrides(words)
    assert [override.value() for override in parsed][1:] == ["a", str(folder)]


def test_two_points_with_one_id_are_one_job(tmp_path: Path) -> None:
    launcher: Any = Launcher(tmp_path)
    twice = [POINTS[0], Point("a", "a-run", ("++seed=a", "++sweep.retry=false"), "0" * 12)]
    sweeper.launch(launcher, tmp_path, twice, first=4)
    assert [number for number, _ in launcher.jobs] == [4]


def test_batches_of_a_size_that_was_typed(tmp_path: Path) -> None:
    _planned(tmp_path)
    launcher = Launcher(tmp_path)
    _sweep(tmp_path, launcher, batch=2)
    assert [number for number, _ in launcher.jobs] == [0, 1, 2]


@pytest.mark.parametrize(("codes", "expected"), [((2, 2), 2), ((2, 1), 1)])
def test_the_others_go_on_and_the_exit_code_says_whose_fault_it_was(
    tmp_path: Path, codes: tuple[int, int], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = _planned(tmp_path)
    for name, code in zip("ab", codes, strict=True):
        plan.error_of(name).write_text(f'{{"code": {code}, "reason": "because of {name}"}}')
    assert _sweep(tmp_path, Launcher(tmp_path, finished="c")) == expected
    said = capsys.readouterr().out
    assert "3 points: 2 failed, 1 finished" in said and "a: because of a" in said


def test_a_launcher_that_breaks_down_leaves_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _planned(tmp_path)
    assert _sweep(tmp_path, Launcher(tmp_path, finished="abc", fault=ConnectionError("the cluster is gone"))) == 1
    printed = capsys.readouterr()
    assert "the cluster is gone" in printed.err and "3 points: 3 finished" in printed.out
    _planned(tmp_path)
    _summary(tmp_path, "a", "interrupted")
    assert _sweep(tmp_path, Launcher(tmp_path, fault=UserError("no such partition"))) == 2
    assert "rdtrain: no such partition" in capsys.readouterr().err


def test_a_plan_that_has_lost_points_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _planned(tmp_path)
    (tmp_path / "plan.json").write_text('{"format": 1, "points": []}')
    assert _sweep(tmp_path, Launcher(tmp_path, finished="abc")) == 2
    assert "has no points a, b, c in its plan.json any more" in capsys.readouterr().err


def test_the_report_is_on_all_finished_points_and_the_table_on_those_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _planned(tmp_path)
    for name in "ab":
        _summary(tmp_path, name, "finished")
    PRESENT.begin(POINTS[1:2])
    asked: list[list[str]] = []
    code = 0

    def report(words: list[str]) -> int:
        asked.append(words)
        return code

    monkeypatch.setattr("rdtrain.report.cli.main", report)
    config = _config(tmp_path)
    del config["task"]
    SweepRecord().on_multirun_end(config)
    assert asked == [[str(tmp_path / "a-run"), str(tmp_path / "b-run"), "--out", str(tmp_path / "report")]]
    assert "1 points: 1 finished" in capsys.readouterr().out
    code = 2
    with pytest.raises(SystemExit) as stop:
        SweepRecord().on_multirun_end(config)
    assert stop.value.code == 2 and "report: the report failed, see above" in capsys.readouterr().err


def test_another_sweeper_plans_nothing() -> None:
    from rdtrain.sweep.planning import is_planned

    ours, other = (SimpleNamespace(sweeper=SimpleNamespace(_target_=name)) for name in ("x.BasicSweeper", "y.Optuna"))
    assert is_planned(ours) and not is_planned(other)  # type: ignore[arg-type]

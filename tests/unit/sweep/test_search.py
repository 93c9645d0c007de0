"""Searches for a learning rate and for a target, on functions in the place of trainings."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="pip install '.[search]'")

from rdtrain.sweep.search import Goal, Search
from rdtrain.sweep.search_record import write_search

LR, LMBDA = "optimizer.net.lr", "criterion.lmbda"
BOWL = Goal({LR: (1e-5, 1e-1)}, seed=3)
TARGET = Goal({LMBDA: (3e-4, 0.3)}, target=0.25, tolerance=0.01)


def loss(lr: float) -> float:
    """Smallest, 1.0, at 1e-3."""
    return 1 + math.log10(lr / 1e-3) ** 2


def rate(lmbda: float) -> float:
    """Nearly a power law, as models have it; 0.25 at 0.00443."""
    return 2.4 * lmbda**0.42 * (1 + 0.05 * math.sin(math.log(lmbda)))


def run(search: Search, key: str, f: Callable[[float], float | None], total: int, at_once: int = 1) -> list[float]:
    """Search on, to the end; returns where was looked."""
    looked = []
    while trials := search.ask(at_once, total):
        for trial in trials:
            looked.append(search.parameters(trial)[key])
            search.tell(trial, f(looked[-1]))
    return looked


def open_search(folder: Path, goal: Goal = BOWL) -> Search:
    return Search(folder / "search.db", "test", goal)


def test_the_best_learning_rate_is_found(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    looked = run(search, LR, loss, 20)
    assert len(looked) == 20 and all(1e-5 <= lr <= 1e-1 for lr in looked)
    best = search.best()
    assert best is not None and best[1] == min(map(loss, looked)) and 5e-4 < best[0].params[LR] < 2e-3
    random, learned = looked[:5], looked[10:]
    assert sorted(map(loss, learned))[5] < sorted(map(loss, random))[2]  # it looks where losses are small


def test_a_search_that_was_killed_asks_for_the_same_points(tmp_path: Path) -> None:
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    straight = run(open_search(tmp_path / "straight"), LR, loss, 12)
    run(open_search(tmp_path / "killed"), LR, loss, 7)
    (begun,) = open_search(tmp_path / "killed").ask(1, 12)  # and is killed while it runs
    resumed = open_search(tmp_path / "killed")
    again = run(resumed, LR, loss, 12)
    assert again == straight[7:] and begun.params[LR] == again[0]
    assert len(resumed.trials) == 12 and run(resumed, LR, loss, 12) == []
    assert run(resumed, LR, loss, 13) != []


def test_failed_trials_are_told_and_tried_again_when_asked(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    failing = run(search, LR, lambda lr: loss(lr) if lr < 1e-3 else math.nan, 6)
    failed = [lr for lr in failing if lr >= 1e-3]
    assert 0 < len(failed) < 6 and len(search.results()) == 6 - len(failed)
    assert run(open_search(tmp_path), LR, loss, 6) == []  # they count
    again = open_search(tmp_path)
    again.retry_failed()
    assert run(again, LR, loss, 6) == failed
    assert len(again.trials) == len(again.results()) == 6
    again.retry_failed()
    assert run(again, LR, loss, 6) == []


def test_several_at_once_and_no_more_than_in_all(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    assert [len(search.ask(4, 6)) for _ in range(2)] == [4, 4]  # nothing was told: the same four
    looked = run(search, LR, loss, 6, at_once=4)
    assert len(looked) == len(set(looked)) == len(search.trials) == 6


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_target_is_hit_within_a_percent(tmp_path: Path, at_once: int) -> None:
    search = open_search(tmp_path, TARGET)
    looked = run(search, LMBDA, rate, 12, at_once)
    best = search.best()
    assert best is not None and abs(best[1] / 0.25 - 1) <= 0.01 and search.hit
    assert len(looked) <= (7 if at_once == 1 else 9)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("bound", [0.005, 0.02, 0.1])
def test_lambdas_that_fail_are_not_asked_for_again(tmp_path: Path, bound: float, at_once: int) -> None:
    """All above a bound fail, as where a rate is so high that trainings diverge."""
    search = open_search(tmp_path, TARGET)
    looked = run(search, LMBDA, lambda lmbda: rate(lmbda) if lmbda < bound else None, 15, at_once)
    assert search.hit and len(set(looked)) == len(looked)
    failed = [lmbda for lmbda in looked if lmbda >= bound]
    assert len(failed) <= (3 if at_once == 1 else 6)


def test_failures_everywhere_are_spread_over_the_range(tmp_path: Path) -> None:
    looked = run(open_search(tmp_path, TARGET), LMBDA, lambda lmbda: None, 7)
    places = sorted((math.log(lmbda) - math.log(3e-4)) / math.log(1e3) for lmbda in looked)
    assert places == pytest.approx([i / 8 for i in range(1, 8)])


def test_a_falling_rate_and_noise(tmp_path: Path) -> None:
    """`criterion.form=dr` weighs the rate; short trainings are noisy, here by 2 %."""
    goal = Goal({LMBDA: (1.0, 1e4)}, target=0.25, rising=False, tolerance=0.02)
    search = open_search(tmp_path, goal)
    run(search, LMBDA, lambda lmbda: rate(1 / lmbda) * (1 + 0.02 * math.sin(1e3 * lmbda)), 12)
    assert search.hit


def test_a_target_out_of_reach_ends_with_the_trials(tmp_path: Path) -> None:
    search = open_search(tmp_path, Goal({LMBDA: (3e-4, 0.3)}, target=50.0, tolerance=0.01))
    looked = run(search, LMBDA, rate, 5)
    assert len(looked) == 5 and looked == sorted(looked) and not search.hit


def test_the_table_and_the_figure(tmp_path: Path) -> None:
    search = open_search(tmp_path, TARGET)
    run(search, LMBDA, lambda lmbda: None if len(search.trials) == 2 else rate(lmbda), 12)
    table = write_search(search, tmp_path, "bpp")
    with open(tmp_path / "test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows][:3] == ["complete", "fail", "complete"]
    assert len(rows) == len(search.trials)
    for row in rows:
        if row["state"] == "complete":
            assert float(row["bpp"]) == pytest.approx(rate(float(row[LMBDA])), rel=1e-4)
            assert float(row["|log(measured/target)|"]) == pytest.approx(
                abs(math.log(float(row["bpp"]) / 0.25)), abs=1e-4
            )
    assert "(target 0.25)" in table.note
    assert all((tmp_path / f"test.{ending}").stat().st_size > 1000 for ending in ("png", "svg"))


def test_optuna_is_imported_by_searches_only() -> None:
    said = "import sys, rdtrain.cli, rdtrain.sweep.record; print({'optuna', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert "optuna" not in done.stdout

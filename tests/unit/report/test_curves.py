"""Bands over seeds, crossover, time to a loss, drops of the learning rate: against the closed forms of the curves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdtrain.report.curve_figures import loss_figures, lr_figure
from rdtrain.report.curves import (
    LOSS,
    band,
    by_configuration,
    crossover,
    first_drop,
    first_reached,
    learning_rate,
    switch_at,
)
from rdtrain.report.naming import curve_names
from rdtrain.report.runs import Run, find_runs, read_run

MakeRun = Callable[..., Path]


def read_all(folder: Path) -> list[Run]:
    return find_runs([folder.parent])[0]


def test_band_is_mean_min_and_max_over_seeds(make_run: MakeRun) -> None:
    runs = [read_run(make_run(seed=seed, epochs=20)) for seed in (1, 2, 4)]
    found = band(runs, "valid", LOSS, "step")
    assert found is not None
    base = 0.5 + 0.5 * np.exp(-np.arange(20) / 20)
    np.testing.assert_array_equal(found.x, 10.0 * np.arange(1, 21))
    np.testing.assert_allclose(found.low, base)
    np.testing.assert_allclose(found.mean, base + 0.004 / 3)
    np.testing.assert_allclose(found.high, base + 0.003)


def test_band_stops_where_a_seed_stops_and_seconds_are_averaged(make_run: MakeRun) -> None:
    runs = [read_run(make_run(seed=seed, epochs=epochs)) for seed, epochs in ((1, 20), (2, 8))]
    found = band(runs, "valid", LOSS, "time/elapsed_s")
    assert found is not None
    np.testing.assert_allclose(found.x, 2.5 * np.arange(1, 9))
    assert band(runs, "valid", "bpp/real", "step") is None
    assert band([], "valid", LOSS, "step") is None


def test_first_reached_interpolates_and_takes_the_first_time() -> None:
    x, loss = np.array([10.0, 20.0, 30.0, 40.0]), np.array([1.0, 0.8, 0.9, 0.5])
    assert first_reached(x, loss, 0.9) == pytest.approx(15)
    assert first_reached(x, loss, 0.7) == pytest.approx(35)
    assert first_reached(x, loss, 1.0) == 10
    assert first_reached(x, loss, 0.4) == np.inf


def test_crossover_is_where_the_slopes_are_equal_at_equal_loss() -> None:
    # d(loss)/dt at loss l: spectral (l - 0.6) / 10, plain (l - 0.5) / 20; equal at l = 0.7.
    t = np.linspace(0, 60, 601)
    spectral, plain = 0.6 + 0.4 * np.exp(-t / 10), 0.5 + 0.5 * np.exp(-t / 20)
    found = crossover((t, spectral), (t, plain))
    assert found is not None
    assert found.loss == pytest.approx(0.7, abs=2e-3)
    assert found.x_ahead == pytest.approx(10 * np.log(0.4 / (found.loss - 0.6)), abs=0.02)
    assert found.x_behind == pytest.approx(20 * np.log(0.5 / (found.loss - 0.5)), abs=0.02)


def test_no_crossover_while_the_lead_grows_or_without_a_common_loss() -> None:
    t = np.linspace(0, 30, 61)
    fast, slow = 0.5 + 0.5 * np.exp(-t / 5), 0.5 + 0.5 * np.exp(-t / 10)
    assert crossover((t, fast), (t, slow)) is None
    assert crossover((t, slow), (t, fast)) is None
    assert crossover((t, fast + 10), (t, slow)) is None


def test_drop_and_switch_epochs(make_run: MakeRun) -> None:
    spectral, short = read_run(make_run("spectral")), read_run(make_run("spectral", epochs=20))
    assert (first_drop(spectral), switch_at(spectral, "epoch"), switch_at(spectral, "step")) == (40, 30, 300)
    assert switch_at(spectral, "time/elapsed_s") == pytest.approx(75)
    assert np.isnan([first_drop(short), switch_at(short, "step")]).all()
    cosine = {"net": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR"}}
    assert np.isnan(first_drop(read_run(make_run(scheduler=cosine))))
    assert learning_rate(spectral)[1].tolist() == [1e-4] * 39 + [1e-5] * 21


def test_loss_figures_one_for_each_lambda_with_bands_switch_and_crossover(make_run: MakeRun) -> None:
    for conv in ("plain", "spectral"):
        for seed in (1, 2):
            make_run(conv, 0.0067, seed)
    runs = read_all(make_run("plain", 0.025))
    names = curve_names(runs)
    assert {key: len(group) for key, group in by_configuration(runs, names).items()} == {
        ("plain", 0.0067): 2,
        ("spectral until plateau", 0.0067): 2,
        ("plain", 0.025): 1,
    }
    plots = loss_figures(runs, names, "time/elapsed_s")
    assert [plot.name for plot in plots] == ["loss-seconds-0.0067", "loss-seconds-0.025"]
    figure = plots[0].figure
    assert "bmshj2018-factorized" in figure.get_suptitle()
    assert "λ = 0.0067" in figure.get_suptitle()
    assert [axes.get_title() for axes in figure.axes] == ["train", "valid", "infer"]
    valid = figure.axes[1]
    assert (valid.get_xlabel(), valid.get_ylabel()) == ("time since the start [s]", "loss")
    labels = [line.get_label() for line in valid.get_lines()]
    assert {"plain (2 seeds)", "spectral until plateau (2 seeds)", "crossover, at equal loss"} <= set(labels)
    assert any(str(label).startswith("switch to plain") for label in labels)
    switch = next(line for line in valid.get_lines() if str(line.get_label()).startswith("switch"))
    assert list(np.asarray(switch.get_xdata())) == [75, 75]
    assert len(valid.collections) == 2  # one band for each curve
    said = re.search(r"From a loss of ([0-9.]+) on plain convolutions learn faster", plots[0].caption)
    assert said is not None
    assert float(said[1]) == pytest.approx(0.7, abs=5e-3)
    low, high = valid.get_ylim()
    assert low < 0.527
    assert high > 0.8  # the curves' later part is inside, their beginning may be above
    infer = loss_figures(runs[:2], names, "step")[0].figure.axes[2]
    assert infer.get_ylim()[1] > 0.5 + 0.5 * np.exp(-4 / 20)  # a curve of few points is shown from its first one
    assert "Bands" in plots[0].caption
    assert "Bands" not in plots[1].caption


def test_loss_figure_without_elapsed_time_is_left_out(make_run: MakeRun) -> None:
    folder = make_run(epochs=5)
    text = (folder / "metrics.csv").read_text().replace("time/elapsed_s", "time/other")
    (folder / "metrics.csv").write_text(text)
    runs = read_all(folder)
    assert loss_figures(runs, curve_names(runs), "time/elapsed_s") == []
    assert len(loss_figures(runs, curve_names(runs), "step")) == 1


def test_learning_rate_figure(make_run: MakeRun) -> None:
    make_run("plain")
    runs = read_all(make_run("spectral"))
    plot = lr_figure(runs, curve_names(runs))
    assert plot is not None
    (axes,) = plot.figure.axes
    assert (axes.get_yscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "epoch", "learning rate")
    widths = {str(line.get_label()): line.get_linewidth() for line in axes.get_lines()}
    assert widths["plain"] > widths["spectral until plateau"]  # equal rates do not hide each other
    above = {str(line.get_label()): line.get_zorder() for line in axes.get_lines()}
    assert above["plain"] < above["spectral until plateau"]
    for run in runs:
        del run.columns["train"]["lr/net"]
    assert lr_figure(runs, curve_names(runs)) is None


def test_keys_that_change_no_number_split_no_curve(make_run: MakeRun) -> None:
    """Of two versions of rdtrain, of which the older one did not have the keys yet."""
    made = {
        "model__coder": "auto",
        "engine__malloc": "tuned",
        "engine__profile": True,
        "checkpoint": {"every_minutes": 5},
    }
    runs = [read_run(make_run(seed=1)), read_run(make_run(seed=2, **made))]
    assert len(set(curve_names(runs).values())) == 1

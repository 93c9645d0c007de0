"""Tables: the seed's 2x2 table and clamp gains, the list of runs, the time to a loss."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdtrain.report.measurements import Measurement
from rdtrain.report.naming import curve_names
from rdtrain.report.plane import RDPoint
from rdtrain.report.runs import find_runs
from rdtrain.report.tables import Table, clamp_gain, ledger_table, pair_table, runs_table, speed_table

MakeRun = Callable[..., Path]


def model(label: str, forward: tuple[float, float], real: tuple[float, float]) -> Measurement:
    points = (RDPoint("forward", "unclamped", *forward), RDPoint("real", "clamped", *real))
    return Measurement(label, label, "kodak", 0.0067, points)


CONV = model("Conv2d", (0.307627, 29.1858), (0.308173, 29.9231))
SPECTRAL = model("SpectralConv2d", (0.322088, 29.3400), (0.322696, 30.0040))


def test_two_by_two_table_of_the_seed() -> None:
    table = pair_table(CONV, SPECTRAL, "psnr", 0.0067)
    assert table.rows == [
        ["real, clamped", "0.308173 / 29.9231 / 0.7516", "0.322696 / 30.0040 / 0.7580"],
        ["forward, unclamped", "0.307627 / 29.1858 / 0.8331", "0.322088 / 29.3400 / 0.8293"],
    ]
    assert "real: Conv2d has the lower loss, by 0.006" in table.note
    assert "forward: SpectralConv2d has the lower loss, by 0.003" in table.note
    assert "The two paths disagree." in table.note
    assert "Conv2d 0.7373 dB, SpectralConv2d 0.6640 dB" in table.note
    assert "λ = 0.0067" in table.title


def test_paths_that_agree_and_paths_that_are_missing() -> None:
    worse = model("worse", (0.4, 29.0), (0.4, 29.5))
    assert "Both paths agree." in pair_table(CONV, worse, "psnr", 0.0067).note
    only_real = Measurement("r", "r", "kodak", 0.0067, (RDPoint("real", "clamped", 0.3, 30.0),))
    table = pair_table(CONV, only_real, "psnr", 0.0067)
    assert table.rows[1][2] == ""
    assert "agree" not in table.note


def test_clamp_gain_and_rate_gap_of_the_seed() -> None:
    assert clamp_gain(CONV) == pytest.approx(0.7373, abs=1e-9)
    assert clamp_gain(SPECTRAL) == pytest.approx(0.6640, abs=1e-9)
    assert np.isnan(clamp_gain(CONV, of_mean=True))
    rows = ledger_table([CONV, SPECTRAL], "psnr").rows
    assert rows[0][3:9] == ["0.307627", "29.1858", "0.8331", "0.308173", "29.9231", "0.7516"]
    assert [float(row[9]) for row in rows] == [pytest.approx(0.178, abs=1.1e-3), pytest.approx(0.189, abs=1.1e-3)]
    assert [row[10:] for row in rows] == [["0.7373", ""], ["0.6640", ""]]


def test_clamp_gain_prefers_the_clamped_forward_pass_and_has_both_averages() -> None:
    points = (
        RDPoint("forward", "unclamped", 0.3, 29.0, 28.0),
        RDPoint("forward", "clamped", 0.3, 29.5, 28.4),
        RDPoint("real", "clamped", 0.3, 29.9, 28.9),
    )
    one = Measurement("m", "m", "kodak", 0.01, points)
    assert clamp_gain(one) == pytest.approx(0.5)
    assert clamp_gain(one, of_mean=True) == pytest.approx(0.4)
    assert np.isnan(clamp_gain(Measurement("m", "m", "kodak", 0.01, points[1:])))


def test_ledger_of_another_lambda_and_of_models_trained_for_another_quality() -> None:
    (row,) = ledger_table([CONV], "psnr", 0.013).rows
    assert row[2] == "0.013"
    assert float(row[5]) == pytest.approx(0.307627 + 0.013 * 65025 * 10**-2.91858, abs=5e-5)
    for_ms_ssim = Measurement("m", "m", "kodak", 8.73, (RDPoint("real", "clamped", 0.2, 27.0),), metric="ms-ssim")
    (row,) = ledger_table([for_ms_ssim], "psnr").rows
    assert (row[2], row[8]) == ("", "")
    assert ledger_table([CONV], "ms-ssim").rows == []
    other = Measurement("m", "m", "kodak", 0.01, (RDPoint("real", "clamped", 0.2, 27.0, ms_ssim=0.9),))
    table = ledger_table([other], "ms-ssim")  # no loss: trained for MSE
    assert not {"λ", "forward L", "real L"} & set(table.header) and len(table.header) == len(table.rows[0])
    assert "L is made" not in table.note


def test_runs_table_lists_progress_drops_and_switches(make_run: MakeRun) -> None:
    make_run("plain")
    runs, _ = find_runs([make_run("spectral", epochs=12, status="running", seed=3).parent])
    table = runs_table(runs, curve_names(runs))
    plain, spectral = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert plain["run"] == "0000000000"
    assert (plain["status"], plain["epochs"], plain["steps"], plain["seconds"]) == ("finished", "60", "600", "150")
    assert (plain["first lr drop [epoch]"], plain["switch [epoch]"]) == ("40", "")
    assert float(plain["last valid loss"]) == pytest.approx(0.5 + 0.5 * np.exp(-59 / 20), abs=5e-5)
    assert (spectral["status"], spectral["epochs"], spectral["seed"]) == ("running", "12", "3")


def test_speed_table_says_when_the_baselines_last_loss_was_reached(make_run: MakeRun) -> None:
    make_run("plain", epochs=15)  # ends at 0.5 + 0.5 exp(-14/20) = 0.74829
    make_run("spectral", epochs=15)  # there after 10 ln(0.4 / 0.14829) = 9.92 epochs after the first
    runs, _ = find_runs([make_run("plain", 0.5, epochs=15).parent])
    assert (
        speed_table([run for run in runs if run.setting("conv.type") == "plain"], curve_names(runs), "plain").rows == []
    )
    table = speed_table(runs, curve_names(runs), "spectral until plateau")
    assert [row[:2] for row in table.rows] == [["plain", "0.0067"], ["spectral until plateau", "0.0067"]]
    assert table.rows[0][3] == "not reached"
    table = speed_table(runs, curve_names(runs), "plain")
    rows = {(row[0], row[1]): row for row in table.rows}
    spectral = rows["spectral until plateau", "0.0067"]
    assert float(spectral[2]) == pytest.approx(0.7483, abs=1e-4)
    steps = 10 * (1 + 10 * np.log(0.4 / (0.5 + 0.5 * np.exp(-0.7) - 0.6)))
    assert float(spectral[3]) == pytest.approx(steps, abs=0.6)
    assert float(spectral[4]) == pytest.approx(150 / steps, abs=0.01)
    assert float(spectral[5]) == pytest.approx(steps / 4, abs=0.6)
    assert rows["plain", "0.0067"][4] == "1.00"


def test_text_and_csv_of_a_table(tmp_path: Path) -> None:
    table = Table("t", "Title", ["a", "bb"], [["1", 'x, "y"'], ["22", ""]], "Note.")
    assert table.text().splitlines() == ["Title", "a   bb", "--  ------", '1   x, "y"', "22", "Note."]
    with table.save(tmp_path).open(newline="") as file:
        assert list(csv.reader(file)) == [["a", "bb"], ["1", 'x, "y"'], ["22", ""]]

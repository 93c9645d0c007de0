"""Bjontegaard differences against a PCHIP written from its definition, and against curves with a known answer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdtrain.report.bd import PerImage, difference, interval
from rdtrain.report.bd_table import bd_table, per_image
from rdtrain.report.evaluations import find_evaluations
from rdtrain.report.measurements import Measurement, of_evaluation
from rdtrain.report.plane import RDPoint
from rdtrain.report.rd import rd_curves
from rdtrain.report.references import select

BPP = np.array([0.12, 0.2, 0.33, 0.52, 0.81])
PSNR = np.array([27.1, 28.9, 30.6, 32.7, 34.9])


def pchip(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Fritsch and Butland's monotone cubic, from its definition: weighted harmonic means of the slopes."""
    h, slope = np.diff(x), np.diff(y) / np.diff(x)
    d = np.zeros_like(y)
    for i in range(1, len(x) - 1):
        if slope[i - 1] * slope[i] > 0:
            w1, w2 = 2 * h[i] + h[i - 1], h[i] + 2 * h[i - 1]
            d[i] = (w1 + w2) / (w1 / slope[i - 1] + w2 / slope[i])
    for end, (i, j) in {0: (0, 1), -1: (-1, -2)}.items():
        d[end] = ((2 * h[i] + h[j]) * slope[i] - h[i] * slope[j]) / (h[i] + h[j])
        if d[end] * slope[i] <= 0:
            d[end] = 0
        elif slope[i] * slope[j] <= 0 and abs(d[end]) > 3 * abs(slope[i]):
            d[end] = 3 * slope[i]
    k = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    t = (at - x[k]) / h[k]
    h00, h10, h01, h11 = 2 * t**3 - 3 * t**2 + 1, t**3 - 2 * t**2 + t, -2 * t**3 + 3 * t**2, t**3 - t**2
    return h00 * y[k] + h10 * h[k] * d[k] + h01 * y[k + 1] + h11 * h[k] * d[k + 1]


def mean_difference(x_a: np.ndarray, y_a: np.ndarray, x_b: np.ndarray, y_b: np.ndarray) -> float:
    at = np.linspace(max(x_a[0], x_b[0]), min(x_a[-1], x_b[-1]), 200_001)
    values = pchip(x_b, y_b, at) - pchip(x_a, y_a, at)
    return float(np.mean((values[1:] + values[:-1]) / 2))


@pytest.mark.parametrize("seed", range(6))
def test_against_an_independent_pchip(seed: int) -> None:
    random = np.random.default_rng(seed)
    bpp = np.cumsum(random.uniform(0.05, 0.4, 6))
    psnr = 26 + np.cumsum(random.uniform(0.4, 2.5, 6))
    found = difference((BPP, PSNR), (bpp, psnr))
    log_rate = mean_difference(PSNR, np.log10(BPP), psnr, np.log10(bpp))
    assert found.rate == pytest.approx(100 * (10**log_rate - 1), abs=1e-5)
    assert found.quality == pytest.approx(mean_difference(np.log10(BPP), PSNR, np.log10(bpp), psnr), abs=1e-6)


def test_known_answers() -> None:
    cheaper = difference((BPP, PSNR), (0.9 * BPP, PSNR))
    assert cheaper.rate == pytest.approx(-10, abs=1e-9)
    assert cheaper.quality > 0
    assert (cheaper.quality_range, cheaper.overlap) == ((27.1, 34.9), 1.0)
    assert cheaper.rate_range == (pytest.approx(0.12), pytest.approx(0.729))
    better = difference((BPP, PSNR), (BPP, PSNR + 0.5))
    assert better.quality == pytest.approx(0.5, abs=1e-9)
    assert better.rate < 0
    assert better.overlap == pytest.approx((34.9 - 27.6) / (35.4 - 27.1))
    two = difference((BPP, PSNR), (1.1 * BPP[[0, 4]], PSNR[[0, 4]]))
    assert np.isfinite(two.rate)


@pytest.mark.parametrize(
    ("bpp", "psnr", "reason"),
    [
        (BPP[:1], PSNR[:1], "test has fewer than two points"),
        (BPP, PSNR[::-1], "test does not rise"),
        (BPP, PSNR + 20, "no common range"),
        (BPP + 10, PSNR, "no common range"),
    ],
)
def test_no_difference_without_a_reason(bpp: np.ndarray, psnr: np.ndarray, reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=reason):
            difference((BPP, PSNR), (bpp, psnr))


def clouds(factor: np.ndarray | float) -> PerImage:
    hardness = np.random.default_rng(0).uniform(0.5, 2, 24)
    psnr = PSNR[:, None] - 3 * np.log10(hardness)
    return PerImage(tuple(f"{i}" for i in range(24)), BPP[:, None] * hardness * factor, psnr)


def test_paired_interval_is_narrow_where_all_images_agree() -> None:
    low, high = interval(clouds(1.0), clouds(0.95), "psnr", draws=200)
    assert low == pytest.approx(-5, abs=1e-6)
    assert high == pytest.approx(-5, abs=1e-6)
    fixed = interval(clouds(1.0).mean("psnr"), clouds(0.95), "psnr", draws=200)
    assert fixed[1] - fixed[0] > 5  # what the images have in common does not cancel


def test_interval_covers_the_bd_rate_and_is_reproducible() -> None:
    noisy = clouds(0.95 * np.exp(0.1 * np.random.default_rng(1).standard_normal(24)))
    low, high = interval(clouds(1.0), noisy, "psnr", draws=300)
    rate = difference(clouds(1.0).mean("psnr"), noisy.mean("psnr")).rate
    assert low < rate < high
    assert 2 < high - low < 20
    assert interval(clouds(1.0), noisy, "psnr", draws=300) == (low, high)
    assert interval(clouds(1.0), noisy, "psnr", draws=300, seed=1) != (low, high)


def test_no_interval_when_most_draws_have_no_difference() -> None:
    assert np.isnan(interval((BPP, PSNR + 20), clouds(1.0), "psnr", draws=20)).all()


def test_ms_ssim_is_averaged_before_it_becomes_db() -> None:
    ms_ssim = np.array([[0.9, 0.99], [0.95, 0.995]])
    curve = PerImage(("a", "b"), np.array([[0.2, 0.4], [0.3, 0.6]]), ms_ssim)
    bpp, quality = curve.mean("ms-ssim")
    np.testing.assert_allclose(bpp, [0.3, 0.45])
    np.testing.assert_allclose(quality, -10 * np.log10(1 - ms_ssim.mean(axis=1)))


def test_table_with_intervals_published_anchors_and_reasons(
    make_evaluation: Callable[..., Path], tmp_path: Path
) -> None:
    make_evaluation("anchor")
    make_evaluation("cheaper", 0.9)
    make_evaluation("averages-only", 0.9, images=False)
    evaluations, problems = find_evaluations([tmp_path])
    assert problems == []
    measured = [one for evaluation in evaluations for one in of_evaluation(evaluation)]
    # two points outside of everybody's range
    measured += [
        Measurement("elsewhere", "elsewhere", "kodak", lmbda, (RDPoint("real", "clamped", 9 + lmbda, 60 + lmbda),))
        for lmbda in (1.0, 2.0)
    ]
    curves = {curve.name: curve for curve in rd_curves(measured, "psnr", "real")}
    names = per_image(curves["anchor"], "psnr")
    assert names is not None
    assert names.names[:2] == ("kodim01", "kodim02")
    assert per_image(curves["averages-only"], "psnr") is None
    vtm = select(["vtm"], "kodak", "psnr")
    table = bd_table(list(curves.values()), [curves["anchor"], *vtm], "psnr", "kodak")
    assert table is not None
    rows = {(row[0], row[1]): row for row in table.rows}
    assert ("anchor", "anchor") not in rows
    cheaper = rows["cheaper", "anchor"]
    assert cheaper[2:5] == ["4 and 4", "-10.00", "-10.00 to -10.00, paired"]
    assert cheaper[7] == "100"
    assert rows["averages-only", "anchor"][4] == ""
    assert "anchor fixed" in rows["cheaper", "vtm (published, disputed)"][4]
    assert rows["elsewhere", "anchor"][3] == "none: no common range of rate and quality"
    assert all(len(row) == len(table.header) for row in table.rows)


@pytest.mark.parametrize(
    ("psnr", "reason"),
    [
        (np.array([26.0, 28.0, 30.0, 32.0]) + 5.5, "none: the curves share only 4 % of their quality"),
        (np.array([26.0, 29.0, 32.0]), "none: a curve has fewer than 4 points"),
    ],
)
def test_no_figure_from_too_little(psnr: np.ndarray, reason: str) -> None:
    def curve(name: str, quality: np.ndarray) -> list[Measurement]:
        points = [RDPoint("real", "clamped", 0.02 * 1.2**q / 1e2, q) for q in quality]
        return [Measurement(name, name, "kodak", 0.01 * i, (p,)) for i, p in enumerate(points, start=1)]

    anchor = curve("anchor", np.array([26.0, 28.0, 30.0, 32.0]))
    a, b = rd_curves([*anchor, *curve("test", psnr)], "psnr", "real")
    table = bd_table([b], [a], "psnr", "kodak")
    assert table is not None and table.rows[0][3] == reason

    assert "kodak" in table.title

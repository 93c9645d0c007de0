"""Rate-distortion curves: order, mean and min-max over seeds, what the figure shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection

from rdtrain.report.gather import measure
from rdtrain.report.measurements import Measurement
from rdtrain.report.naming import curve_names
from rdtrain.report.plane import RDPoint
from rdtrain.report.rd import rd_curves, rd_figure
from rdtrain.report.references import select
from rdtrain.report.runs import read_run
from rdtrain.report.scatter import cloud, scatter_figures
from rdtrain.report.write import compressai_results


def measured(curve: str, lmbda: float, bpp: float, psnr: float, seed: int = 1) -> Measurement:
    points = (RDPoint("real", "clamped", bpp, psnr), RDPoint("forward", "unclamped", bpp - 0.01, psnr - 0.7))
    return Measurement(curve, f"{curve}, seed {seed}", "kodak", lmbda, points)


def test_seeds_become_mean_and_range_and_points_are_in_order_of_rate() -> None:
    given = [
        measured("a", 0.02, 0.5, 33.0),
        measured("a", 0.005, 0.20, 28.0, 1),
        measured("a", 0.005, 0.22, 28.4, 2),
        measured("a", 0.005, 0.27, 28.5, 3),
        measured("b", 0.005, 0.3, 29.0),
    ]
    a, b = rd_curves(given, "psnr", "real")
    np.testing.assert_allclose(a.lmbda, [0.005, 0.02])
    np.testing.assert_allclose(a.bpp, [[0.20, 0.23, 0.27], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(a.quality, [[28.0, 28.3, 28.5], [33.0, 33.0, 33.0]])
    assert (a.seeds, b.seeds, b.name) == (3, 1, "b")
    assert [len(members) for members in a.members] == [3, 1]


def test_unknown_lambdas_are_points_of_their_own() -> None:
    nan = float("nan")
    (curve,) = rd_curves([measured("a", nan, 0.4, 31), measured("a", nan, 0.2, 28)], "psnr", "real")
    np.testing.assert_allclose(curve.bpp[:, 1], [0.2, 0.4])
    assert curve.seeds == 1


def test_missing_path_variant_or_quality_is_passed_over() -> None:
    given = [measured("a", 0.01, 0.3, 30)]
    assert rd_curves(given, "ms-ssim", "real") == []
    assert rd_curves(given, "psnr", "real", "8bit") == []
    assert len(rd_curves(given, "psnr", "forward", "unclamped")) == 1
    assert rd_figure(given, [], "kodak", "ms-ssim") is None


def test_figure_has_units_title_legend_and_bands() -> None:
    given = [
        measured("plain", lmbda, 0.3 * k + 0.01 * s, 28.0 + 2 * k, s)
        for k, lmbda in ((1, 0.01), (2, 0.02))
        for s in (1, 2)
    ]
    plot = rd_figure(given, select(["vtm"], "kodak", "psnr"), "kodak", "psnr", "bmshj2018-factorized", "Careful.")
    assert plot is not None
    (axes,) = plot.figure.axes
    assert plot.figure.get_suptitle() == "Rate and distortion on kodak: bmshj2018-factorized"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rate [bit/pixel]", "PSNR (RGB), mean over images [dB]")
    (legend,) = plot.figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["VTM (published, 8bit, disputed)", "plain, real bitstreams", "plain, forward pass"]
    assert "up to 2 seeds" in plot.caption
    assert "Careful." in plot.caption
    real = next(line for line in axes.get_lines() if line.get_label() == "plain, real bitstreams")
    np.testing.assert_allclose(np.asarray(real.get_xdata()), [0.315, 0.615])
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert low < 0.3 < 0.62 < high < 1
    assert bottom < 29.3 < 32 < top


def test_bands_and_bars_reach_from_the_smallest_to_the_largest_seed() -> None:
    given = [
        measured("plain", 0.01, bpp, psnr, seed)
        for seed, bpp, psnr in ((1, 0.30, 30.0), (2, 0.31, 30.2), (3, 0.35, 30.1))
    ]
    given += [measured("plain", 0.02, 0.6, 33.0)]
    plot = rd_figure(given, [], "kodak", "psnr")
    assert plot is not None
    (axes,) = plot.figure.axes
    band = next(one for one in axes.collections if isinstance(one, PolyCollection))
    corners = {(round(float(x), 6), round(float(y), 6)) for x, y in band.get_paths()[0].vertices}
    assert {(0.32, 30.0), (0.32, 30.2), (0.6, 33.0)} <= corners
    bars = next(one for one in axes.collections if isinstance(one, LineCollection))
    np.testing.assert_allclose(bars.get_segments()[0], [[0.30, 30.1], [0.35, 30.1]])


def test_curve_is_written_as_compressai_reads_it() -> None:
    def point(seed: int, bpp: float, psnr: float, ms_ssim: float, lmbda: float = 0.01) -> Measurement:
        points = (RDPoint("real", "clamped", bpp, psnr, ms_ssim=ms_ssim),)
        return Measurement("plain", f"plain, seed {seed}", "kodak", lmbda, points)

    given = [
        point(1, 0.5, 33.0, 0.98, 0.02),
        point(1, 0.30, 30.0, 0.95),
        point(2, 0.31, 30.2, 0.96),
        point(3, 0.35, 30.1, 0.97),
    ]
    written = compressai_results(rd_curves(given, "psnr", "real")[0], "kodak")
    assert written["name"] == "plain"
    results = written["results"]
    assert isinstance(results, dict)
    assert results["bpp"] == [pytest.approx(0.32), 0.5]
    assert results["psnr-rgb"] == [pytest.approx(30.1), 33.0]
    assert results["ms-ssim-rgb"] == [pytest.approx(0.96), 0.98]
    assert results["lmbda"] == [0.01, 0.02]
    without = compressai_results(rd_curves([measured("a", float("nan"), 0.3, 30)], "psnr", "real")[0], "kodak")
    assert isinstance(without["results"], dict)
    assert set(without["results"]) == {"bpp", "psnr-rgb"}


def per_image(dataset: str = "kodak") -> Measurement:
    random = np.random.default_rng(3)
    images = {
        "image": np.array([f"{i}" for i in range(24)]),
        "bpp/real": random.uniform(0.1, 0.6, 24),
        "psnr/real/clamped": random.uniform(26, 34, 24),
    }
    return Measurement("plain", "plain, seed 1", dataset, 0.0067, (), images)


def test_one_lambda_shows_the_spread_of_its_seeds_in_rate_and_quality() -> None:
    given = [measured("plain", 0.01, bpp, psnr, seed) for seed, bpp, psnr in ((1, 0.30, 30.0), (2, 0.31, 30.4))]
    plot = rd_figure(given, [], "kodak", "psnr")
    assert plot is not None
    bars = [one for one in plot.figure.axes[0].collections if isinstance(one, LineCollection)]
    vertices = [np.asarray(segment) for one in bars for segment in one.get_segments()]
    assert max(float(np.ptp(ends[:, 1])) for ends in vertices) == pytest.approx(0.4)


def test_legend_says_which_checkpoints_were_measured() -> None:
    given = [
        replace(measured("a", 0.01 * i, 0.3 * i, 30.0 + i), weights=weights)
        for i, weights in ((1, "best"), (2, "last"))
    ]
    plot = rd_figure(given, [], "kodak", "psnr")
    assert plot is not None
    labels = [str(line.get_label()) for line in plot.figure.axes[0].get_lines()]
    assert labels == ["a, real bitstreams (best and last)", "a, forward pass (best and last)"]


def test_curve_files_hold_8_bit_quality_where_all_points_have_it() -> None:
    points = (RDPoint("real", "clamped", 0.3, 30.0), RDPoint("real", "8bit", 0.3, 29.9))
    given = [Measurement("a", "a", "kodak", 0.01, points), measured("a", 0.02, 0.6, 33.0)]
    for ours, variant, psnr in ((given[:1], "8bit", [29.9]), (given, "clamped", [30.0, 33.0])):
        content = compressai_results(rd_curves(ours, "psnr", "real")[0], "kodak")
        assert content["results"]["psnr-rgb"] == psnr  # type: ignore[index]
        assert content["meta"]["variant"] == variant  # type: ignore[index]


def test_scatter_shows_both_averages() -> None:
    one = per_image()
    found = cloud(one)
    assert found is not None
    psnr = one.images["psnr/real/clamped"]
    mean_mse = np.mean(1 / 10 ** (psnr / 10))
    assert found.mean == (pytest.approx(one.images["bpp/real"].mean()), pytest.approx(psnr.mean()))
    assert found.psnr_of_mean_mse == pytest.approx(10 * np.log10(1 / mean_mse), rel=1e-12)
    assert found.psnr_of_mean_mse < found.mean[1]
    (plot,) = scatter_figures([one, measured("b", 0.01, 0.3, 30)], "kodak")
    (axes,) = plot.figure.axes
    images, mean, of_mean = axes.get_lines()
    assert np.asarray(images.get_xdata()).shape == (24,)
    assert float(np.asarray(mean.get_ydata())[0]) == found.mean[1]
    assert float(np.asarray(of_mean.get_ydata())[0]) == found.psnr_of_mean_mse
    assert f"{found.mean[1] - found.psnr_of_mean_mse:.4f} dB" in plot.caption
    assert axes.get_title() == "plain, seed 1, λ = 0.0067"
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert low < one.images["bpp/real"].min() <= one.images["bpp/real"].max() < high
    assert bottom < psnr.min() <= psnr.max() < top
    assert scatter_figures([measured("b", 0.01, 0.3, 30)], "kodak") == []


def test_a_sweep_over_lambdas_and_seeds_is_one_curve_with_bands(make_run: Callable[..., Path]) -> None:
    lmbdas, seeds = (0.0018, 0.0067, 0.025), (1, 2, 3)
    folders = [make_run("plain", lmbda=lmbda, seed=seed) for seed in seeds for lmbda in lmbdas]
    runs = [read_run(folder) for folder in folders]
    measurements = measure(runs, [], curve_names(runs))
    (curve,) = rd_curves(measurements, "psnr", "real")
    lmbda, seed = np.meshgrid(lmbdas, seeds, indexing="ij")
    bpp = 0.3 * (lmbda / 0.0067) ** 0.4 * (1 + 0.01 * (seed - 1))  # as make_run has it
    psnr = 30 + 6 * np.log10(lmbda / 0.0067) + 0.02 * (seed - 1)
    for values, found in ((bpp, curve.bpp), (psnr, curve.quality)):
        np.testing.assert_allclose(found, np.stack([values.min(1), values.mean(1), values.max(1)], axis=1), rtol=1e-9)
    assert curve.seeds == 3
    plot = rd_figure(measurements, [], measurements[0].dataset, "psnr")
    assert plot is not None and "Mean of up to 3 seeds" in plot.caption
    assert any(isinstance(artist, PolyCollection) for artist in plot.figure.axes[0].collections)

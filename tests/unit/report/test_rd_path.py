from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdtrain.report.rd_path import about, path_of, rd_path_figure
from rdtrain.report.runs import read_run

MakeRun = Callable[..., Path]
PSNR = 30.0  # of the made-up run at lambda 0.0067, seed 1


def test_every_infer_pass_is_a_point(make_run: MakeRun) -> None:
    run = read_run(make_run(epochs=23))
    for path, bpp, quality in (("forward", 0.3 / 1.002, PSNR - 1.0), ("real", 0.3, PSNR - 0.3)):
        epochs, rates, qualities = path_of(run, path)
        np.testing.assert_array_equal(epochs, [5, 10, 15, 20])
        np.testing.assert_allclose(rates, bpp, rtol=1e-12)
        np.testing.assert_allclose(qualities, quality, rtol=1e-12)


def test_ms_ssim_runs_are_drawn_in_its_decibel(make_run: MakeRun) -> None:
    run = read_run(make_run(epochs=5, criterion__metric="ms-ssim"))
    np.testing.assert_allclose(path_of(run, "real")[2], PSNR - 15, rtol=1e-9)


def test_contours_go_through_the_last_points(make_run: MakeRun) -> None:
    plot = rd_path_figure(read_run(make_run(epochs=20)))
    assert plot is not None and plot.name == "rd-plane"
    whole, close = plot.figure.axes
    lines = [line for line in close.lines if len(line.get_xdata()) == 400]
    assert len(lines) == 2  # forward and real
    for line, bpp, quality in zip(lines, (0.3 / 1.002, 0.3), (PSNR - 1.0, PSNR - 0.3), strict=True):
        assert np.interp(bpp, line.get_xdata(), line.get_ydata()) == pytest.approx(quality, abs=0.01)
    low, high = close.get_ylim()
    assert low < PSNR - 1.0 and high > PSNR - 0.3
    drawn = next(line for line in whole.lines if str(line.get_label()).startswith("real bitstreams"))
    np.testing.assert_allclose(drawn.get_ydata(), PSNR)  # as published: the mean of dB
    assert np.ptp(close.get_xlim()) < np.ptp(whole.get_xlim())


def test_the_title_is_the_configuration_and_the_axes_have_units(make_run: MakeRun) -> None:
    run = read_run(make_run("spectral", seed=3, epochs=20))
    expected = "bmshj2018-factorized (M = 192, N = 128), spectral until plateau, λ = 0.0067, seed 3"
    assert about(run) == expected
    plot = rd_path_figure(run)
    assert plot is not None
    assert plot.figure.get_suptitle() == f"Rate and distortion on kodak, epoch 20\n{expected}"
    assert {axes.get_xlabel() for axes in plot.figure.axes} == {"rate [bit/pixel]"}
    labels = [axes.get_ylabel() for axes in plot.figure.axes]
    assert labels == ["PSNR (RGB), mean over images [dB]", "PSNR (RGB) of the mean MSE [dB]"]


def test_published_curves_of_other_images_say_so(make_run: MakeRun) -> None:
    for dataset, remark in (
        ("kodak", "published curves of kodak"),
        ("photos", "published curves of kodak, other images: levels cannot be compared"),
    ):
        plot = rd_path_figure(read_run(make_run(epochs=5, dataset__infer_name=dataset)))
        assert plot is not None
        assert plot.figure.axes[0].get_title() == remark
        labels = [line.get_label() for line in plot.figure.axes[0].lines]
        assert any("bmshj2018-factorized (published" in str(label) for label in labels)


def test_a_run_without_an_infer_pass_has_no_figure(make_run: MakeRun) -> None:
    assert rd_path_figure(read_run(make_run(epochs=4))) is None

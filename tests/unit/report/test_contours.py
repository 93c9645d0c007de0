"""The plane and its contours, against the seed's four points and against numerical derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes

from rdtrain.errors import UserError
from rdtrain.report.contours import WINDOW, contour_figure, lambdas_figure, levels, loss_grid, marked_points
from rdtrain.report.measurements import Measurement
from rdtrain.report.plane import RDPoint, contour_quality, contour_slope, loss_at, scale
from rdtrain.report.references import select

LMBDA = 0.0067
SEED = {
    ("Conv2d", "real"): (0.308173, 29.9231, 0.7516),
    ("SpectralConv2d", "real"): (0.322696, 30.0040, 0.7580),
    ("Conv2d", "forward"): (0.307627, 29.1858, 0.8331),
    ("SpectralConv2d", "forward"): (0.322088, 29.3400, 0.8293),
}
VARIANT = {"forward": "unclamped", "real": "clamped"}


def seed_measurements() -> list[Measurement]:
    models = dict.fromkeys(label for label, _ in SEED)
    return [
        Measurement(
            label,
            label,
            "kodak",
            LMBDA,
            tuple(RDPoint(path, VARIANT[path], *SEED[label, path][:2]) for path in VARIANT),
        )
        for label in models
    ]


@pytest.mark.parametrize(("bpp", "psnr", "loss"), SEED.values())
def test_losses_of_the_seeds_points(bpp: float, psnr: float, loss: float) -> None:
    assert RDPoint("real", "clamped", bpp, psnr).loss("psnr", LMBDA) == pytest.approx(loss, abs=5e-5)
    assert loss_at(bpp, psnr, LMBDA, "psnr") == pytest.approx(bpp + LMBDA * 255**2 * 10 ** (-psnr / 10), rel=1e-14)


def test_ms_ssim_plane_uses_its_own_loss() -> None:
    point = RDPoint("real", "clamped", 0.25, ms_ssim=0.96)
    assert point.loss("ms-ssim", 8.73) == pytest.approx(0.25 + 8.73 * (1 - 0.96), rel=1e-12)
    assert point.quality("ms-ssim") == pytest.approx(13.9794, abs=1e-4)
    assert np.isnan(point.quality("psnr"))
    with pytest.raises(UserError, match="psnr, ms-ssim"):
        scale("vmaf")


def test_loss_is_made_of_the_mean_mse_where_it_was_measured() -> None:
    mse = np.array([1e-3, 4e-3])
    point = RDPoint("real", "clamped", 0.3, float(np.mean(-10 * np.log10(mse))), float(-10 * np.log10(mse.mean())))
    assert point.loss("psnr", LMBDA) == pytest.approx(0.3 + LMBDA * 255**2 * mse.mean(), rel=1e-12)
    assert point.quality("psnr") > point.quality("psnr", of_mean=True)


def test_slope_of_a_contour() -> None:
    assert contour_slope(30.0, LMBDA, "psnr") == pytest.approx(9.97, abs=5e-3)  # D = 1e-3
    for metric, quality, lmbda in (("psnr", 31.7, 0.013), ("ms-ssim", 14.2, 8.73)):
        loss, step = float(loss_at(0.4, quality, lmbda, metric)), 1e-6
        above, below = contour_quality([0.4 + step, 0.4 - step], loss, lmbda, metric)
        assert contour_slope(quality, lmbda, metric) == pytest.approx((above - below) / (2 * step), rel=1e-6)


def test_contour_passes_through_its_point_and_ends_where_the_rate_is_the_loss() -> None:
    loss = float(loss_at(0.308173, 29.9231, LMBDA, "psnr"))
    rates = np.array([0.308173, 0.5, loss, loss + 0.1])
    quality = contour_quality(rates, loss, LMBDA, "psnr")
    assert quality[0] == pytest.approx(29.9231, abs=1e-9)
    assert loss_at(rates[1], quality[1], LMBDA, "psnr") == pytest.approx(loss)
    assert np.isnan(quality[2:]).all()


def test_grid_has_rate_along_x_and_is_not_transposed() -> None:
    bpp, quality, loss = loss_grid(LMBDA, "psnr", WINDOW["psnr"])
    assert (bpp[0], bpp[-1], quality[0], quality[-1]) == (0.0, 2.25, 26.0, 41.0)
    assert loss.shape == (50, 50)
    oracle = np.array([[r + LMBDA * 255.0**2 / 10 ** (q / 10) for r in bpp] for q in quality])
    np.testing.assert_allclose(loss, oracle, rtol=1e-12)
    assert (np.diff(loss, axis=1) > 0).all()  # more rate, more loss
    assert (np.diff(loss, axis=0) < 0).all()  # more quality, less loss


def test_levels_go_on_where_losses_are_higher() -> None:
    np.testing.assert_allclose(levels(0.8331), np.logspace(-2, 0.5, 200), rtol=1e-12)
    np.testing.assert_allclose(levels(21.4)[:200], np.logspace(-2, 0.5, 200), rtol=1e-12)
    assert levels(21.4)[-2] >= 21.4 * 0.99
    np.testing.assert_allclose(np.diff(np.log10(levels(21.4))), 2.5 / 199, rtol=1e-9)


def test_every_point_is_marked_with_its_loss() -> None:
    marked = marked_points(seed_measurements(), LMBDA, "psnr")
    assert {one.label: round(one.loss, 4) for one in marked} == {
        f"{label}, {path}": loss for (label, path), (_, _, loss) in SEED.items()
    }
    assert marked_points(seed_measurements(), LMBDA, "ms-ssim") == []


def curves_of(axes: Axes) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.get_lines()]


def test_figure_shows_points_contours_losses_and_labels() -> None:
    references = select(["bmshj2018-factorized_mse"], "kodak", "psnr")
    plot = contour_figure(seed_measurements(), references, LMBDA, "psnr", "kodak", "bmshj2018-factorized")
    assert plot is not None
    whole, close = plot.figure.axes
    title = plot.figure.get_suptitle()
    assert all(part in title for part in ("equal loss", "0.0067", "kodak", "bmshj2018-factorized", "255²"))
    assert (whole.get_xlim(), whole.get_ylim()) == ((0.0, 2.25), (26.0, 41.0))
    assert (whole.get_xlabel(), whole.get_ylabel()) == ("rate [bit/pixel]", "PSNR (RGB), mean over images [dB]")
    texts = [text.get_text() for text in close.texts]
    for (label, path), (bpp, psnr, loss) in SEED.items():
        assert f"{label}, {path}: L = {loss:.4f}" in texts
        assert f"{label}, {path}: L = {loss:.4f}" in plot.caption
        for axes in (whole, close):
            assert any(x.size == 1 and (x[0], y[0]) == (bpp, psnr) for x, y in curves_of(axes))
        # a contour goes through the point
        lines = [(x, y) for x, y in curves_of(close) if x.size == 400]
        assert min(abs(np.interp(bpp, x, y) - psnr) for x, y in lines) < 1e-3
    heights = sorted(text.get_position()[1] for text in close.texts)
    assert np.diff(heights).min() >= 0.06
    assert "9.79 dB per bit/pixel" in plot.caption  # 10 / (ln 10 lambda 255^2 D) at 29.9231 dB


def test_points_of_the_mean_mse_say_so_beside_published_means_of_db() -> None:
    point = RDPoint("real", "clamped", 0.3, psnr=30.0, psnr_of_mean_mse=29.4)
    references = select(["bmshj2018-factorized_mse"], "kodak", "psnr")
    plot = contour_figure([Measurement("a", "a", "kodak", LMBDA, (point,))], references, LMBDA, "psnr", "kodak")
    assert plot is not None and "small crosses" in plot.caption
    for axes in plot.figure.axes:
        assert axes.get_ylabel() == "PSNR (RGB) of the mean MSE [dB]"
        heights = {str(line.get_label()): float(np.asarray(line.get_ydata())[0]) for line in axes.get_lines()}
        assert heights["a, real"] == 29.4 and heights["a, real, mean of dB"] == 30.0
        assert any("published" in label and label.endswith("mean of dB") for label in heights)


def test_labels_of_many_points_are_those_of_the_lowest_losses() -> None:
    many = [
        Measurement(f"m{i:02}", f"m{i:02}", "kodak", LMBDA, (RDPoint("real", "clamped", 0.3 + 0.01 * i, 30.0),))
        for i in reversed(range(20))
    ]
    plot = contour_figure(many, [], LMBDA, "psnr", "kodak")
    assert plot is not None
    labelled = {text.get_text().split(",")[0] for text in plot.figure.axes[1].texts}
    assert labelled == {f"m{i:02}" for i in range(14)}
    assert all(f"m{i:02}, real: L = " in plot.caption for i in range(20))


def test_no_figure_without_points() -> None:
    assert contour_figure([], [], LMBDA, "psnr", "kodak") is None


def test_window_grows_with_points_outside_of_it() -> None:
    far = Measurement("far", "far", "photos", LMBDA, (RDPoint("real", "clamped", 3.0, 20.0),))
    plot = contour_figure([far], [], LMBDA, "psnr", "photos")
    assert plot is not None
    assert plot.figure.axes[0].get_xlim()[1] > 3.0
    assert plot.figure.axes[0].get_ylim()[0] < 20.0


def test_eight_lambdas_each_in_its_colour_through_the_point_trained_with_it() -> None:
    (curve,) = select(["bmshj2018-factorized_mse"], "kodak", "psnr")
    plot = lambdas_figure([curve], "psnr")
    assert plot is not None
    (axes,) = plot.figure.axes
    points = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert len({str(line.get_color()) for line in points}) == 8
    assert [line.get_label() for line in points][2] == "λ = 0.0067: L = 0.7637"
    for line in points:
        same = [other for other in axes.get_lines() if str(other.get_color()) == str(line.get_color())]
        assert len(same) == 4  # the point, its contour and two more
    assert "8 lambdas" in plot.figure.get_suptitle()
    assert lambdas_figure(select(["jpeg"], "kodak", "psnr"), "psnr") is None

from __future__ import annotations

import numpy as np
import pytest

from rdtrain.densities import Density
from rdtrain.latents import ScaleUse
from rdtrain.report.latent_figures import channel_rate_figure, density_figure, feature_map_figure, scale_figure


def test_rates_fall_and_the_title_has_their_sum() -> None:
    figure = channel_rate_figure({"y": np.array([0.01, 0.2, 0.0, 0.04]), "z": np.array([0.5])}, "title")
    y, z = figure.axes
    assert [bar.get_height() for bar in y.patches] == [0.2, 0.04, 0.01, 0.0]
    assert y.get_title() == "y: 0.2500 bit/pixel; 99 % of it in 3 of 4 channels"
    assert z.get_title() == "z: 0.5000 bit/pixel; 99 % of it in 1 of 1 channels"
    assert y.get_ylabel() == "rate [bit/pixel]"


def test_each_channel_has_its_density_and_six_quantiles() -> None:
    x = np.tile(np.linspace(-5, 5, 400), (5, 1))
    learned, exact = np.tile([-3.0, 0.25, 3.0], (5, 1)), np.tile([-4.0, 0.5, 4.0], (5, 1))
    shown = Density(np.array([9, 4, 7, 1, 0]), x, np.exp(-(x**2)), learned, exact, 1e-9)
    figure = density_figure(shown, np.array([0.5, 0.4, 0.3, 0.2, 0.1]), "title")
    drawn = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title().splitlines()[0] for axes in drawn] == [
        "channel 9: 0.5 bpp", "channel 4: 0.4 bpp", "channel 7: 0.3 bpp", "channel 1: 0.2 bpp", "channel 0: 0.1 bpp",
    ]  # fmt: skip
    density, *marks = drawn[1].lines
    np.testing.assert_array_equal(density.get_xdata(), x[1])
    assert sorted(float(mark.get_xdata()[0]) for mark in marks) == [-4.0, -3.0, 0.25, 0.5, 3.0, 4.0]
    assert drawn[0].get_yscale() == "log"


def test_scales_are_shares_of_the_table() -> None:
    table = np.array([0.11, 0.22, 0.44])
    figure = scale_figure({"gaussian_conditional": ScaleUse(table, np.array([60, 10, 20, 10]))}, "title")
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [60.0, 10.0, 20.0]
    assert [bar.get_x() + bar.get_width() for bar in axes.patches] == pytest.approx(table)
    assert axes.get_title() == "gaussian_conditional\n60.0 % at the lowest entry, 10.0 % above the table"


def test_feature_maps_are_the_chosen_channels_in_their_own_range() -> None:
    y_hat = np.arange(6 * 2 * 3, dtype=np.float32).reshape(6, 2, 3) - 10
    figure = feature_map_figure(y_hat, np.array([5, 0]), np.array([0.3, 0.1]), "title")
    first, second, *rest = figure.axes
    np.testing.assert_array_equal(first.images[0].get_array(), y_hat[5])
    assert first.images[0].get_clim() == (-25, 25) and second.images[0].get_clim() == (-10, 10)
    assert first.get_title() == "channel 5: 0.3 bpp, ±25"
    assert not any(axes.images for axes in rest)
    constant = feature_map_figure(np.zeros((1, 2, 3)), np.array([0]), np.array([0.0]), "title")
    assert constant.axes[0].images[0].get_clim() == (-1, 1)

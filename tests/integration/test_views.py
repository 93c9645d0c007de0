"""What TensorBoard and figures/ show of the images, the latents and the rate-distortion plane."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from rdtrain.callbacks.tensorboard_log import beside
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from rdtrain import checkpoint
from rdtrain.config.schema import Config
from rdtrain.latents import Shown
from rdtrain.run_folder import RunFolder
from rdtrain.tensorboard_layout import charts
from rdtrain.train import train

Configure = Callable[..., Config]
FIGURES = "logger.figures={_target_: rdtrain.callbacks.Figures, images: 2, channels: 4}"
ALWAYS = ("feature-maps", "channel-rates", "rd-plane")


def _events(folder: RunFolder) -> EventAccumulator:
    events = EventAccumulator(str(folder.tensorboard), {"images": 0, "tensors": 0})
    events.Reload()
    return events


@pytest.mark.parametrize("model", ["bmshj2018-factorized", "mbt2018-mean"])
def test_figures_are_in_the_folder_and_in_tensorboard(configure: Configure, model: str) -> None:
    folder = train(configure(FIGURES, f"model.name={model}", "conv.switch.trigger=epoch", "conv.switch.at=1"))
    scales = ["scales"] if model == "mbt2018-mean" else []
    names = sorted([*ALWAYS, "densities-entropy-bottleneck", *scales])
    events = _events(folder)
    tags = events.Tags()["images"]
    assert sorted(tag.removeprefix("figures/") for tag in tags if tag.startswith("figures/")) == names
    for name in names:
        (shown,) = events.Images(f"figures/{name}")
        assert shown.encoded_image_string == (folder.figures / f"{name}.png").read_bytes()
        assert shown.step == 6 and shown.width > 400
    assert sorted(events.Tags()["histograms"]) == [f"channels/bpp/{latent}" for latent in ("y", "z")[: 1 + len(scales)]]


def test_the_histogram_is_of_the_rates_that_add_up_to_the_ledgers(configure: Configure) -> None:
    folder = train(configure())
    (histogram,) = _events(folder).Histograms("channels/bpp/y")
    with open(folder.metrics, newline="") as file:
        infer = [row for row in csv.DictReader(file) if row["loader"] == "infer"][-1]
    assert histogram.histogram_value.num == 6  # channels
    assert histogram.histogram_value.sum == pytest.approx(float(infer["bpp/forward"]), rel=1e-6)


def test_every_chart_finds_its_curves_in_a_run(configure: Configure) -> None:
    events = _events(train(configure("ledger.every_n_steps=1")))
    written = events.Tags()["scalars"]
    (config,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(config.tensor_proto.string_val[0])
    found = {
        category.title: {
            chart.title: [[tag for tag in written if re.match(one, tag)] for one in chart.multiline.tag]
            for chart in category.chart
        }
        for category in layout.category
    }
    too_small = "valid/ms_ssim_db/forward/unclamped"  # validation crops of 64 pixels have no MS-SSIM
    assert found == {
        category: {chart: [[tag] if tag != too_small else [] for tag in tags] for chart, tags in titles.items()}
        for category, titles in charts().items()
    }


def test_looking_changes_no_weight(configure: Configure) -> None:
    seen = train(configure(FIGURES, "infer.every_n_epochs=1"))
    expected = checkpoint.read(seen.last)["model"]
    seen.path.rename(seen.path.parent.parent / "seen")
    unseen = train(configure("infer.every_n_epochs=1", "logger.tensorboard=null"))
    assert unseen.path == seen.path
    for name, value in checkpoint.read(unseen.last)["model"].items():
        assert torch.equal(value, expected[name]), name


def test_images_are_kept_of_fewer_and_fewer_passes(configure: Configure) -> None:
    few = ("infer.every_n_epochs=1", "engine.num_epochs=7", "engine.epoch_steps=1", "dataset.batch_size=1")
    events = _events(train(configure(FIGURES, *few, "conv=plain")))
    by_tag = {tag: [shown.step for shown in events.Images(tag)] for tag in events.Tags()["images"]}
    for tag, steps in by_tag.items():
        assert steps == (list(range(1, 8)) if tag == "figures/rd-plane" else [1, 2, 4, 7]), tag


def test_figures_do_without_the_csv_log(configure: Configure) -> None:
    folder = train(configure(FIGURES, "logger.csv=null"))
    assert {path.stem for path in folder.figures.iterdir()} >= {"feature-maps", "channel-rates", "reconstructions"}
    assert not (folder.figures / "rd-plane.png").exists()


def test_the_error_stands_beside_the_image() -> None:
    x = torch.zeros(3, 800, 10, dtype=torch.uint8)
    x_hat = x.clone()
    x_hat[:, 400] = 30
    x_hat[0, 500] = 255
    shown = beside(Shown("a", x, x_hat, None)).numpy()  # type: ignore[arg-type]
    assert shown.shape == (3, 768, 30)  # of 800 rows the middle ones
    np.testing.assert_array_equal(shown[:, 400 - 16], np.tile([0] * 10 + [30] * 10 + [120] * 10, (3, 1)))
    assert (shown[:, 500 - 16, 20:] == 255).all()  # 4 * 85 is above the range

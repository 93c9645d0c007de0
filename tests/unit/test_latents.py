from __future__ import annotations

import numpy as np
import pytest
import torch
from compressai.entropy_models import GaussianConditional
from compressai.models.base import get_scale_table
from tiny_codecs import LAMBDA, image_model_names, images, tiny_model, trained_model

from rdtrain.evaluation import evaluate_image, evaluation_copy
from rdtrain.latents import (
    Shown,
    absolute_error,
    channel_bits,
    highest,
    keeps_images,
    mean_channel_bpp,
    scale_use,
    watched,
)
from rdtrain.losses import RateDistortionLoss


@pytest.mark.parametrize("name", image_model_names())
def test_channels_add_up_and_nothing_else_changes(name: str) -> None:
    model, x = tiny_model(name).eval(), images(1, 64, 128)
    fed: list[torch.Tensor] = []
    with torch.no_grad():
        before = model(x)
        torch.manual_seed(5)
        state = torch.get_rng_state()
        model.g_s.register_forward_pre_hook(lambda module, args: fed.append(args[0]))
        with watched(model) as watch:
            out = model(x)
            model.g_s(torch.full_like(out["likelihoods"]["y"], 9))  # as `decompress` does
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(out["x_hat"], before["x_hat"])
    hooks = [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert len(hooks) == 1  # the test's own
    seen = watch.latents(maps=True)
    for latent, likelihoods in out["likelihoods"].items():
        expected = -np.log2(likelihoods.double().numpy()).sum((0, 2, 3))
        np.testing.assert_allclose(seen.bits[latent], expected, rtol=1e-12)
    latent = "z" if "z" in seen.bits else "y"
    (of_bottleneck,) = seen.bottleneck_bits.values()
    np.testing.assert_allclose(of_bottleneck, seen.bits[latent], rtol=1e-12)
    assert seen.y_hat is not None and seen.y_hat.shape == (seen.bits["y"].size, 4, 8)
    np.testing.assert_array_equal(seen.y_hat, fed[0][0].numpy())
    assert len(fed) == 2 and not torch.equal(fed[0], fed[1])
    coded = sum(use.counts.sum() for use in seen.scales.values())
    assert coded == (0 if latent == "y" else seen.y_hat.size)


def test_channel_rates_are_the_ledgers_rate() -> None:
    model = evaluation_copy(trained_model("mbt2018-mean"))
    shown = []
    for seed, size in ((1, (64, 64)), (2, (70, 90))):
        x = images(1, *size, seed=seed)
        with watched(model) as watch:
            row = evaluate_image(model, x, RateDistortionLoss(LAMBDA))
        kept = Shown("a", x[0].mul(255).to(torch.uint8), row.image, watch.latents(maps=False))
        assert kept.latents.y_hat is None and kept.latents.scales == {}
        shown.append((row.metrics["bpp/forward"], kept))
    bpp = mean_channel_bpp([kept for _, kept in shown])
    assert sum(values.sum() for values in bpp.values()) == pytest.approx(np.mean([rate for rate, _ in shown]), rel=1e-6)


def test_pieces_of_a_latent_are_summed() -> None:
    likelihoods = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1)
    np.testing.assert_allclose(channel_bits([likelihoods, likelihoods**2]), [3, 6])


def test_scales_are_counted_where_compressai_codes_them() -> None:
    table = np.asarray(get_scale_table())
    scales = np.concatenate([table, np.geomspace(0.01, 1000, 999)]).astype(np.float32)
    coder = GaussianConditional(table.tolist())
    indexes = coder.build_indexes(torch.from_numpy(scales)).numpy()
    use = scale_use(scales.astype(np.float64), coder.scale_table.double().numpy())
    folded = use.counts[:-1] + np.eye(table.size, dtype=int)[-1] * use.counts[-1]
    np.testing.assert_array_equal(folded, np.bincount(indexes, minlength=table.size))
    assert use.counts[-1] == (scales > table[-1]).sum() > 100


def test_the_highest_come_first_and_equal_ones_in_order() -> None:
    assert highest(np.array([1.0, 3.0, 3.0, 2.0]), 3).tolist() == [1, 2, 3]
    assert highest(np.array([1.0, 2.0]), 16).tolist() == [1, 0]


def test_the_number_of_kept_images_grows_with_the_logarithm() -> None:
    kept = [epoch for epoch in range(5, 2505, 5) if keeps_images(epoch, 5, is_last=epoch == 2500)]
    assert kept == [5 * 2**i for i in range(9)] + [2500]
    assert keeps_images(3, 5, is_last=True)


def test_the_error_map_is_the_mean_over_colours() -> None:
    x = torch.tensor([0, 255, 10], dtype=torch.uint8).view(3, 1, 1)
    x_hat = torch.tensor([255, 0, 13], dtype=torch.uint8).view(3, 1, 1)
    (shown,) = [Shown("a", x, x_hat, None)]  # type: ignore[arg-type]
    assert absolute_error(shown).tolist() == [[171.0]]

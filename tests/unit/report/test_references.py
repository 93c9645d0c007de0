"""The published figures: known values, where they come from, and the traps that were cleaned out of them."""

from __future__ import annotations

import numpy as np
import pytest

from rdtrain.errors import UserError
from rdtrain.report.plane import loss_at
from rdtrain.report.references import datasets, published, select, usual


def test_factorized_curve_of_the_zoo_is_the_published_one() -> None:
    (curve,) = select(["bmshj2018-factorized_mse"], "kodak", "psnr")
    np.testing.assert_allclose(curve.bpp, [0.1226, 0.1885, 0.2878, 0.4404, 0.6481, 0.9670, 1.3512, 1.8333], atol=5e-5)
    psnr = [26.909, 28.218, 29.617, 31.277, 32.956, 35.381, 37.397, 39.621]
    np.testing.assert_allclose(curve.psnr, psnr, atol=5e-4)
    np.testing.assert_allclose(curve.lmbda, [0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483, 0.0932, 0.18])
    assert (curve.bit_depth, curve.optimized_for, curve.kind) == ("float", "mse", "learned")
    assert loss_at(curve.bpp[2], curve.psnr[2], 0.0067, "psnr") == pytest.approx(0.7636, abs=1e-4)


def test_third_point_of_the_papers_factorized_curve() -> None:
    (curve,) = select(["paper-bmshj2018-factorized_mse"], "kodak", "psnr")
    assert curve.bpp[2] == pytest.approx(0.3160, abs=5e-5)
    assert curve.psnr[2] == pytest.approx(30.0208, abs=5e-5)
    assert loss_at(curve.bpp[2], curve.psnr[2], 0.0067, "psnr") == pytest.approx(0.7496, abs=5e-5)


def test_every_curve_names_its_source_and_licence_and_rises() -> None:
    assert datasets() == ("kodak", "clic2020-mobile", "clic2020-professional")
    assert len(published()) == 76
    for curve in published():
        assert "results/image/" + curve.dataset in curve.source
        assert curve.source.endswith("(BSD-3-Clause-Clear)")
        assert (np.diff(curve.bpp) > 0).all(), curve.curve
        for metric in ("psnr", "ms-ssim"):
            quality = curve.quality(metric)
            assert np.isnan(quality).all() or (np.diff(quality) > 0).all(), curve.curve
        if curve.kind == "paper":
            assert "after arXiv:" in curve.source


def test_ms_ssim_is_in_db_whether_it_was_published_linear_or_in_db() -> None:
    (zoo,) = select(["bmshj2018-factorized_ms-ssim"], "kodak", "ms-ssim")
    assert zoo.ms_ssim_db[0] == pytest.approx(-10 * np.log10(1 - 0.9296295), abs=1e-9)
    (elic,) = select(["paper-elic2022_ms-ssim"], "kodak", "ms-ssim")
    assert elic.ms_ssim_db[0] == pytest.approx(11.593)


def test_ms_ssim_models_are_not_copies_of_the_mse_models() -> None:
    # The trap of CompressAI's 8bit-decoded folder; curves with the same doubt say that they are suspect.
    by_name = {(curve.dataset, curve.curve): curve for curve in published() if curve.tag != "suspect"}
    twins = [key for key in by_name if key[1].endswith("_ms-ssim") and (key[0], key[1][:-8] + "_mse") in by_name]
    assert len(twins) >= 15
    for dataset, name in twins:
        one, other = by_name[dataset, name], by_name[dataset, name[:-8] + "_mse"]
        assert one.bpp.shape != other.bpp.shape or np.abs(one.bpp - other.bpp).min() > 1e-3


def test_disputed_and_8_bit_curves_say_so() -> None:
    assert {curve.curve for curve in published() if curve.tag == "disputed"} == {"vtm"}
    suspect = {curve.curve: curve for curve in published() if curve.tag == "suspect"}
    assert len(suspect) == 3
    for name, curve in suspect.items():
        (mse,) = select([name.replace("ms-ssim", "mse")], "kodak", "psnr")
        np.testing.assert_allclose(curve.bpp, mse.bpp, atol=0.003)
    assert {curve.tag for curve in published() if curve.kind != "paper"} == {"", "disputed"}
    assert {curve.bit_depth for curve in published() if curve.kind == "codec"} == {"8bit"}
    assert {curve.bit_depth for curve in published() if curve.kind == "paper"} == {""}


def test_no_two_curves_of_a_data_set_have_the_same_legend() -> None:
    for dataset in datasets():
        legends = [curve.legend for curve in published() if curve.dataset == dataset]
        assert len(set(legends)) == len(legends)
    (curve,) = select(["bmshj2018-factorized_mse"], "kodak", "psnr")
    assert curve.legend == "bmshj2018-factorized (published, for mse, float)"


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(UserError, match="did you mean bmshj2018-factorized_mse"):
        select(["bmshj2018-factorised_mse"], "kodak", "psnr")
    with pytest.raises(UserError, match="type --dataset with one of kodak"):
        select(["jpeg"], "tecnick", "psnr")
    with pytest.raises(UserError, match="no published psnr"):
        select(["paper-elic2022_ms-ssim"], "kodak", "psnr")
    with pytest.raises(UserError, match="no published ms-ssim"):
        select(["paper-mbt2018_mse"], "kodak", "ms-ssim")


def test_usual_curves_follow_model_and_training() -> None:
    def names(*arguments: object) -> list[str]:
        return [curve.curve for curve in usual(*arguments)]  # type: ignore[arg-type]

    codecs = ["bpg_444_x265_ycbcr", "jpeg"]
    model = "bmshj2018-factorized"
    assert names([model], ["psnr"], "kodak", "psnr") == [f"{model}_mse", f"paper-{model}_mse", *codecs]
    assert names([f"{model}-relu"], ["psnr"], "kodak", "ms-ssim") == [f"{model}_mse", *codecs]
    assert names([model], ["ms-ssim"], "kodak", "ms-ssim") == [f"{model}_ms-ssim", *codecs]
    assert names(["never-published"], ["psnr"], "kodak", "psnr") == codecs
    assert names([model], ["psnr"], "photos", "psnr") == []

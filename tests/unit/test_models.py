from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compressai.models import FactorizedPrior, FactorizedPriorReLU
from compressai.registry import MODELS, register_model
from compressai.zoo.image import cfgs

from rdtrain.errors import UserError
from rdtrain.models import (
    PUBLISHED_LMBDA,
    build_model,
    hyperparameters,
    image_models,
    load_weights,
    model_problems,
    read_weights,
)

NONE = {"N": None, "M": None}


def test_every_image_model_of_the_registry_is_offered() -> None:
    others = {"ssf2020", "hrtzxf2022-pcc-rec", "sfu2023-pcc-rec-pointnet", "sfu2024-pcc-rec-pointnet2-ssg"}
    assert set(image_models()) == set(MODELS) - others
    assert len(image_models()) >= 13


def test_a_newly_registered_model_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressai.registry.torch.MODELS", MODELS)

    @register_model("brand-new")
    class BrandNew(FactorizedPrior):
        def __init__(self, N: int = 8, depth: int = 3) -> None:
            super().__init__(N, 2 * N)

    try:
        assert model_problems("brand-new", 3, NONE | {"depth": 4}) == []
        assert hyperparameters("brand-new", 3, NONE | {"depth": 4}) == {"N": 8, "depth": 4}
        assert isinstance(build_model("brand-new", {"N": 4}, 0), BrandNew)
        assert "brand-new takes no M" in model_problems("brand-new", 3, {"N": 4, "M": 3})[0]
    finally:
        del MODELS["brand-new"]


@pytest.mark.parametrize("name", sorted(cfgs))
def test_quality_gives_the_zoos_channels(name: str) -> None:
    for quality, channels in cfgs[name].items():
        filled = hyperparameters(name, quality, NONE)
        assert tuple(filled[key] for key in ("N", "M") if key in filled) == channels


def test_given_channels_win_and_cheng2020_takes_only_n() -> None:
    assert hyperparameters("bmshj2018-hyperprior", 6, {"N": 8, "M": None}) == {"N": 8, "M": 320}
    assert hyperparameters("cheng2020-anchor", 5, NONE) == {"N": 192}
    assert hyperparameters("elic2022-official", 1, NONE) == {"N": 192, "M": 320}


def test_the_relu_variant_has_relus() -> None:
    net = build_model("bmshj2018-factorized-relu", {"N": 4, "M": 6}, 0)
    assert isinstance(net, FactorizedPriorReLU) and isinstance(net.g_a[1], torch.nn.ReLU)


@pytest.mark.parametrize(
    ("name", "quality", "hp", "sentence"),
    [
        ("bmshj2018", 3, NONE, "did you mean bmshj2018"),
        ("ssf2020", 3, NONE, "there is no such image model"),
        ("cheng2020-attn", 3, {"N": 8, "M": 8}, "cheng2020-attn takes no M"),
        ("cheng2020-attn", 7, NONE, "was published for 1 to 6"),
        ("mbt2018", 3, {"N": 0, "M": None}, "hp.N=0: should be a whole number above 0"),
        ("mbt2018", 3, {"N": 8.5, "M": None}, "hp.N=8.5"),
    ],
)
def test_a_wrong_choice_is_named(name: str, quality: int, hp: dict, sentence: str) -> None:
    assert sentence in " ".join(model_problems(name, quality, hp))


def test_published_lambdas_are_eight_and_rise() -> None:
    for lambdas in PUBLISHED_LMBDA.values():
        assert len(lambdas) == 8 and list(lambdas) == sorted(lambdas)
    assert PUBLISHED_LMBDA["mse"][2] == 0.0067


def test_the_seed_decides_the_weights() -> None:
    a, b, c = (build_model("bmshj2018-factorized", {"N": 4, "M": 6}, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["g_a.0.weight"], c["g_a.0.weight"])


def _old_keys(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Entropy bottleneck keys as CompressAI had them before 1.2.4 and as its zoo's files still do."""
    new = {"matrices.": "_matrix", "biases.": "_bias", "factors.": "_factor"}
    for part, old in new.items():
        weights = {
            key.replace(f"entropy_bottleneck.{part}", f"entropy_bottleneck.{old}"): v for key, v in weights.items()
        }
    return weights


@pytest.mark.parametrize("style", ["new", "old", "train.py", "parallel"])
def test_weights_of_either_style_and_tables_of_any_size(style: str, tmp_path: Path) -> None:
    trained = build_model("bmshj2018-hyperprior", {"N": 4, "M": 6}, 1)
    trained.update(force=True)
    weights = trained.state_dict()
    content = {
        "new": weights,
        "old": _old_keys(weights),
        "train.py": {"epoch": 3, "state_dict": weights, "loss": 1.0},
        "parallel": {f"module.{key}": value for key, value in weights.items()},
    }[style]
    torch.save(content, tmp_path / "a.pth")
    fresh = build_model("bmshj2018-hyperprior", {"N": 4, "M": 6}, 2)
    load_weights(fresh, *read_weights(tmp_path / "a.pth"))
    for name, value in trained.named_parameters():
        assert torch.equal(value, dict(fresh.named_parameters())[name]), name


def test_wrong_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match="no checkpoint of tensors"):
        read_weights(tmp_path / "text.pth")
    other = build_model("bmshj2018-factorized", {"N": 5, "M": 6}, 1).state_dict()
    with pytest.raises(UserError, match="these are not weights of this model"):
        load_weights(build_model("bmshj2018-factorized", {"N": 4, "M": 6}, 1), other)

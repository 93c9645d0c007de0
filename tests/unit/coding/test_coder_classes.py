"""Entropy models with the fast coder: CompressAI's strings and latents, whatever is given."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional, GaussianMixtureConditional
from compressai.models.google import get_scale_table
from tiny_codecs import images, spread_latents, tiny_model
from torch import Tensor, nn

from rdtrain import preflight
from rdtrain.coding import classes, rans
from rdtrain.coding.classes import tables_of, use_coder
from rdtrain.config.schema import Config
from rdtrain.entropy.mended import mend_bottlenecks
from rdtrain.entropy.precision import keep_entropy_models_in_float32
from rdtrain.entropy.stable import use_stable_likelihood
from rdtrain.evaluation import evaluation_copy
from rdtrain.probes import LatentOverflow, Probe
from rdtrain.run_folder import run_id

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not rans.has_numba(), reason="numba is not installed: pip install '.[fast]'"),
]


def quick(model: nn.Module) -> Any:
    """The same model with the fast coder, twice copied."""
    changed = nn.ModuleDict({"model": copy.deepcopy(model)})
    assert use_coder(changed, "auto")
    return copy.deepcopy(changed["model"])


@pytest.fixture(scope="module")
def bottleneck() -> Any:
    """As many channels as the published models, with tables of many widths."""
    torch.manual_seed(0)
    model = EntropyBottleneck(192).requires_grad_(False)
    model.quantiles[:, 0] = torch.cumsum(torch.rand(192, 3) * torch.tensor([1.0, 30.0, 30.0]), 1) - 25
    model.update(force=True)
    return model


@pytest.fixture(scope="module")
def conditional() -> Any:
    model = GaussianConditional(None)
    model.update_scale_table(get_scale_table())
    return model


@pytest.fixture
def heavy_tails() -> Tensor:
    """Latents of three images, channels last, a few of which are far outside every table."""
    generator = np.random.default_rng(0)
    values = 4 * generator.standard_t(1.2, (3, 192, 5, 7))
    values[0, 0, 0] = [2.0**26 - 8, -(2.0**26) + 8, 0.5, -0.5, 1.5, 0.0, -0.0]
    return torch.from_numpy(values).float().clamp(-(2**26) + 8, 2**26 - 8).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("threads", [1, 2])
def test_bottleneck(bottleneck: Any, heavy_tails: Tensor, threads: int) -> None:
    fast = quick(bottleneck)
    torch.set_num_threads(threads)
    strings = bottleneck.compress(heavy_tails)
    assert fast.compress(heavy_tails) == strings
    ours, theirs = fast.decompress(strings, (5, 7)), bottleneck.decompress(strings, (5, 7))
    assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype and ours.stride() == theirs.stride()


@pytest.mark.parametrize("means", ["none", "full", "channel"])
def test_conditional(conditional: Any, heavy_tails: Tensor, means: str) -> None:
    fast = quick(conditional)
    torch.manual_seed(1)
    scales = torch.exp(2 * torch.randn(3, 192, 5, 7))
    given = {"none": None, "full": torch.randn(3, 192, 5, 7), "channel": torch.randn(3, 192, 1, 1)}[means]
    indexes = conditional.build_indexes(scales)
    strings = conditional.compress(heavy_tails, indexes, given)
    assert fast.compress(heavy_tails, fast.build_indexes(scales), given) == strings
    ours, theirs = (model.decompress(strings, indexes, means=given) for model in (fast, conditional))
    assert torch.equal(ours, theirs)
    doubles = [model.decompress(strings, indexes, torch.float64) for model in (fast, conditional)]
    assert torch.equal(*doubles) and doubles[0].dtype == torch.float64


@pytest.mark.parametrize("table", [get_scale_table().tolist(), [0.2], [0.11, 0.110001, 0.110002, 0.5, 1e30]])
def test_indexes_of_scales(table: list[float]) -> None:
    model = GaussianConditional(table)
    fast, bounds = quick(model), model.scale_table
    near = torch.cat([bounds, bounds.nextafter(torch.tensor(0.0)), bounds.nextafter(torch.tensor(torch.inf))])
    odd = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -1.0, 3e38, 1e-45])
    torch.manual_seed(0)
    scales = torch.cat([near, odd, torch.exp(3 * torch.randn(4000))]).reshape(1, 1, -1)
    for given in (scales, scales.bfloat16(), scales.double(), scales[..., ::3]):
        ours, theirs = fast.build_indexes(given), model.build_indexes(given)
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype


@pytest.mark.parametrize(
    "name", ["bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "elic2022-chandelier"]
)
def test_whole_models(name: str) -> None:
    model = tiny_model(name)
    spread_latents(model, 20)
    stock = evaluation_copy(model)
    assert use_coder(model, "numba")
    fast, x = evaluation_copy(model), images(2, 64, 128)
    coded, theirs = fast.compress(x), stock.compress(x)
    assert coded["strings"] == theirs["strings"]
    decoded = [one.decompress(coded["strings"], coded["shape"])["x_hat"] for one in (fast, stock)]
    assert torch.equal(*decoded)
    assert fast.state_dict().keys() == stock.state_dict().keys()


@pytest.mark.parametrize("first", [True, False])
def test_it_goes_with_the_other_changes_of_entropy_models(factorized: Any, first: bool) -> None:
    def quicken(model: nn.Module) -> list[str]:
        return use_coder(model, "auto")

    others = [use_stable_likelihood, keep_entropy_models_in_float32, mend_bottlenecks]
    changed, x = copy.deepcopy(factorized), images(1, 64, 64)
    for change in [quicken, *others] if first else [*others, quicken]:
        assert change(changed)
    changed = copy.deepcopy(changed)
    coded = changed.compress(x)
    assert hasattr(changed.entropy_bottleneck.entropy_coder, "tables")
    assert coded["strings"] == factorized.compress(x)["strings"]
    decoded = [model.decompress(coded["strings"], coded["shape"])["x_hat"] for model in (changed, factorized)]
    assert torch.equal(*decoded)


def test_a_copy_to_be_evaluated_has_its_coder_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bool] = []
    monkeypatch.setattr(classes, "prepare", lambda: loaded.append(True))
    model = tiny_model("bmshj2018-factorized")
    evaluation_copy(model)
    assert loaded == []
    use_coder(model, "auto")
    evaluation_copy(model)
    assert loaded == [True]


def test_a_probe_sees_the_same_strings(factorized: Any) -> None:
    x, seen = images(1, 64, 64), []
    for model in (factorized, quick(factorized)):
        with Probe(model, x.device, share=False) as probe:
            model.compress(x)
        (one,) = probe.strings
        seen.append((one.model, list(one.symbols), list(one.indexes), one.string))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 2.0**26, -(2.0**33), 2.0**32])
def test_what_would_hang_is_refused(bottleneck: Any, conditional: Any, bad: float) -> None:
    y = torch.zeros(1, 192, 2, 2)
    y[0, 3, 1, 0] = bad
    with pytest.raises(LatentOverflow, match="cannot be coded"):
        quick(bottleneck).compress(y)
    indexes = torch.zeros(y.shape, dtype=torch.int32)
    for latents, means in ((y, None), (torch.zeros_like(y), y)):
        with pytest.raises(LatentOverflow, match="cannot be coded"):
            quick(conditional).compress(latents, indexes, means)


def test_wrong_calls_are_refused(conditional: Any, bottleneck: Any) -> None:
    fast, y = quick(conditional), torch.zeros(2, 4, 3, 3)
    indexes = torch.zeros(y.shape, dtype=torch.int32)
    strings = fast.compress(y, indexes)
    for arguments in ((y, indexes[:1]), (y[0, 0, 0], indexes[0, 0, 0])):
        with pytest.raises(ValueError, match="latents of shape"):
            fast.compress(*arguments)
    with pytest.raises(ValueError, match="an index is outside the tables"):
        fast.compress(y, indexes + 64)
    with pytest.raises(ValueError, match="for 1 strings"):
        fast.decompress(strings[:1], indexes)
    with pytest.raises(ValueError, match="means of shape"):
        fast.decompress(strings, indexes, means=y[..., :2])
    for wrong in ([strings[0][:-4], strings[1]], [strings[0], strings[1] + bytes(4)], [b"", b""]):
        with pytest.raises(ValueError, match="string"):
            fast.decompress(wrong, indexes)
    with pytest.raises(ValueError, match=r"call update\(\) first"):
        quick(EntropyBottleneck(4)).compress(y)
    empty = torch.zeros(0, 192, 2, 2)
    assert quick(bottleneck).compress(empty) == []
    assert quick(bottleneck).decompress([], (2, 2)).shape == empty.shape


def test_tables_follow_an_update(bottleneck: Any, heavy_tails: Tensor) -> None:
    model = copy.deepcopy(bottleneck)
    fast = quick(model)
    before = fast.compress(heavy_tails)
    for one in (model, fast):
        one.quantiles[:, 0, 2] += 3
        one.update(force=True)
    assert fast.compress(heavy_tails) == model.compress(heavy_tails) != before
    fast._offset.add_(1)  # as load_state_dict does it
    kept = fast.entropy_coder.tables(fast)
    assert fast.entropy_coder.tables(fast) is kept
    np.testing.assert_array_equal(kept.offsets, model._offset.numpy() + 1)
    np.testing.assert_array_equal(tables_of(fast, "compressai").offsets, kept.offsets)


def test_what_is_left_alone(conditional: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = GaussianMixtureConditional(3, get_scale_table().tolist())
    assert use_coder(nn.ModuleList([mixture, nn.Conv2d(1, 1, 1)]), "numba") == []
    model = nn.ModuleDict({"y": copy.deepcopy(conditional)})
    assert use_coder(model, "compressai") == []
    monkeypatch.setattr(classes, "has_numba", lambda: False)
    assert use_coder(model, "auto") == use_coder(model, "numba") == []
    assert type(model["y"]) is GaussianConditional


def test_the_choice_does_not_change_the_run(configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [configure(f"model.coder={coder}") for coder in ("auto", "numba", "compressai")]
    assert len({run_id(config) for config in configs}) == 1
    assert run_id(configs[0]) != run_id(configure("model.stable_likelihood=true"))
    monkeypatch.setattr(preflight, "has_numba", lambda: False)
    found, (told,) = [preflight.problems(config.to_dict()) for config in configs[:2]]
    assert found == [] and told.startswith(
        "model.coder=numba: numba is not installed, or does not fit this NumPy; type"
    )


def test_a_second_call_changes_nothing(factorized: Any) -> None:
    changed = copy.deepcopy(factorized)
    changes = [
        lambda net: use_coder(net, "auto"),
        mend_bottlenecks,
        keep_entropy_models_in_float32,
        use_stable_likelihood,
    ]
    for change in changes:
        change(changed)
    kind = type(changed.entropy_bottleneck)
    for change in changes:
        change(changed)
    assert type(changed.entropy_bottleneck) is kind and use_coder(changed, "auto") == []
    assert changed.compress(images(1, 64, 64))["strings"] == factorized.compress(images(1, 64, 64))["strings"]

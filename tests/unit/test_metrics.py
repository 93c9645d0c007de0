from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rdtrain.metrics import (
    CSV_KEYS,
    LOADERS,
    METRICS,
    Means,
    csv_columns,
    markdown_table,
    ms_ssim_db,
    psnr,
    to_8bit,
    with_psnr_of_mean_mse,
)


def test_the_table_holds_every_name_of_the_contract() -> None:
    for path in ("forward", "real"):
        for variant in ("unclamped", "clamped", "8bit"):
            for quantity in ("loss", "mse", "psnr", "psnr_of_mean_mse", "ms_ssim", "ms_ssim_db"):
                assert "infer" in METRICS[f"{quantity}/{path}/{variant}"].loaders
        assert "infer" in METRICS[f"bpp/{path}"].loaders
        assert not any(name.startswith(f"bpp/{path}/") for name in METRICS)
    assert METRICS["loss/forward/unclamped"].loaders == LOADERS
    for other in ("lr/net", "lr/aux", "conv/spectral", "time/step_ms", "time/samples_per_s", "aux_loss", "grad_norm"):
        assert other in METRICS
    for name in METRICS:
        if name.startswith("mse/"):
            twin = METRICS["psnr_of_mean_" + name]
            assert twin.loaders == METRICS[name].loaders
        assert METRICS[name].loaders


def test_columns_are_unique_and_in_a_fixed_order() -> None:
    columns = csv_columns()
    assert tuple(columns[:3]) == CSV_KEYS == ("epoch", "step", "loader")
    assert len(columns) == len(set(columns)) == 3 + len(METRICS)
    assert columns[3] == "loss/forward/unclamped"


def test_docs_table_has_a_row_a_metric() -> None:
    rows = markdown_table().splitlines()
    assert len(rows) == 2 + len(METRICS)
    assert all(row.count("|") == 5 for row in rows)
    assert any(row.startswith("| `psnr/real/8bit` | dB | infer |") for row in rows)


def test_reading_the_table_loads_nothing_heavy() -> None:
    program = (
        "import sys; from rdtrain.metrics import csv_columns, markdown_table; csv_columns(); markdown_table();"
        "print([m for m in ('torch', 'numpy', 'compressai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@given(st.floats(1e-12, 10))
def test_psnr_of_a_float_and_of_a_tensor_agree(mse: float) -> None:
    assert psnr(mse) == pytest.approx(-10 * np.log10(mse), rel=1e-12)
    assert psnr(torch.tensor(mse, dtype=torch.float64)).item() == pytest.approx(psnr(mse), rel=1e-12)


def test_extreme_values() -> None:
    assert psnr(0.0) == math.inf
    assert math.isnan(psnr(math.nan))
    assert math.isnan(psnr(-1.0))
    assert psnr(torch.zeros(2)).tolist() == [math.inf, math.inf]
    assert psnr(0.01) == pytest.approx(20)
    assert ms_ssim_db(0.99) == pytest.approx(20)
    assert ms_ssim_db(torch.tensor([0.9, 1.0], dtype=torch.float64)).tolist() == pytest.approx([10, math.inf])


def test_8bit_rounds_as_numpy_writes_a_file() -> None:
    x = torch.cat([torch.linspace(-0.5, 1.5, 5001), torch.tensor([0.5, 1.5, 2.5, 3.5]) / 255])
    kept = x.clone()
    levels = np.rint(np.clip(x.numpy(), 0, 1) * np.float32(255)).astype(np.uint8)
    assert np.array_equal(to_8bit(x).numpy(), levels.astype(np.float32) / np.float32(255))
    assert torch.equal(x, kept)
    assert torch.equal((to_8bit(torch.arange(256) / 255) * 255).round(), torch.arange(256.0))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**31))
def test_means_do_not_depend_on_the_batches(sizes: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = {name: generator.random(sum(sizes)).astype(np.float32) for name in ("loss/x", "mse/forward/clamped")}
    vectors, scalars = Means(), Means()
    bounds = np.cumsum([0, *sizes])
    for a, b in itertools.pairwise(bounds):
        batch = {name: torch.from_numpy(v[a:b]) for name, v in values.items()}
        vectors.update(batch)
        scalars.update({name: v.mean() for name, v in batch.items()}, n=int(b - a))
    expected = {name: float(v.astype(np.float64).mean()) for name, v in values.items()}
    expected["psnr_of_mean_mse/forward/clamped"] = -10 * math.log10(expected["mse/forward/clamped"])
    assert vectors.compute() == pytest.approx(expected, rel=1e-12)
    assert scalars.compute() == pytest.approx(expected, rel=1e-6)


def test_means_weigh_each_name_by_its_own_images() -> None:
    means = Means()
    means.update({"a": torch.tensor(1.0), "b": torch.tensor(10.0)}, n=3)
    means.update({"a": torch.tensor(5.0)}, n=1)
    means.update({})
    assert means.compute() == pytest.approx({"a": 2.0, "b": 10.0})


def test_sums_are_float64() -> None:
    means = Means()
    for _ in range(3):
        means.update({"a": torch.tensor([1.0, 1e8, -1e8])})
    assert means.compute()["a"] == pytest.approx(1 / 3, rel=1e-12)  # float32 would lose the ones


def test_a_nan_stays_in_its_own_mean() -> None:
    means = Means()
    means.update({"a": torch.tensor([1.0, math.nan]), "b": torch.tensor([1.0, 3.0])})
    computed = means.compute()
    assert math.isnan(computed["a"])
    assert computed["b"] == 2.0


def test_means_hold_no_graph_and_no_alias() -> None:
    leaf = torch.ones(2, requires_grad=True)
    values = (leaf * 2).clone()
    means = Means()
    means.update({"a": values})
    assert not next(iter(means._sums.values())).requires_grad
    with torch.no_grad():
        values.fill_(100)
    assert means.compute()["a"] == 2.0


def test_scalars_without_their_number_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match="pass n"):
        Means().update({"a": torch.tensor(1.0)})


class CountReads(TorchDispatchMode):
    """Count what waits for a device: a tensor read as a Python number or list."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_updates_read_nothing_back() -> None:
    means = Means()
    with CountReads() as counter:
        for _ in range(5):
            means.update({"a": torch.rand(4), "b": torch.rand(4)})
            means.update({"c": torch.rand(())}, n=4)
    assert counter.reads == 0
    assert set(means.compute()) == {"a", "b", "c"}


def test_no_update_no_means() -> None:
    assert Means().compute() == {}


def test_mean_of_db_is_at_least_db_of_the_mean() -> None:
    mse = torch.tensor([1e-4, 1e-2, 3e-3], dtype=torch.float64)
    means = with_psnr_of_mean_mse({"mse/real/8bit": mse.mean().item(), "psnr/real/8bit": psnr(mse).mean().item()})
    assert means["psnr/real/8bit"] > means["psnr_of_mean_mse/real/8bit"]
    assert set(means) == {"mse/real/8bit", "psnr/real/8bit", "psnr_of_mean_mse/real/8bit"}

"""Small run folders and evaluation files with numbers that a test can work out for itself."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

STEPS_AN_EPOCH = 10
SECONDS_AN_EPOCH = 2.5


def plain_loss(epoch: np.ndarray) -> np.ndarray:
    """Loses half of what is left above 0.5 every 20 ln 2 epochs, from 1.0 on."""
    return 0.5 + 0.5 * np.exp(-epoch / 20)


def spectral_loss(epoch: np.ndarray) -> np.ndarray:
    """Faster at first, but stops at 0.6."""
    return 0.6 + 0.4 * np.exp(-epoch / 10)


def real_point(lmbda: float, seed: int, spectral: bool) -> tuple[float, float]:
    """Rate and PSNR of a made-up codec: 6 dB and 0.9 bit per factor of ten in lambda, spectral 2 % cheaper."""
    bpp = 0.3 * (lmbda / 0.0067) ** 0.4 * (1 + 0.01 * (seed - 1)) * (0.98 if spectral else 1.0)
    return bpp, 30 + 6 * np.log10(lmbda / 0.0067) + 0.02 * (seed - 1)


def config(conv: str = "plain", lmbda: float = 0.0067, seed: int = 1, **changes: Any) -> dict[str, Any]:
    """The keys of a resolved configuration that a report looks at."""
    made: dict[str, Any] = {
        "model": {"name": "bmshj2018-factorized", "quality": 3},
        "hp": {"N": 128, "M": 192},
        "conv": {"type": conv, "transform": "rfft", "switch": {"trigger": "plateau", "at": None}},
        "criterion": {"lmbda": lmbda, "metric": "mse", "form": "rd"},
        "optimizer": {"net": {"lr": 1e-4}},
        "dataset": {"name": "image_folder", "infer_name": "kodak"},
        "engine": {"num_epochs": 60, "device": "cpu"},
        "scheduler": {"net": {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"}},
        "seed": seed,
    }
    for key, value in changes.items():
        node, *rest = key.split("__")
        target = made
        for part in rest:
            target, node = target[node], part
        target[node] = value
    return made


def rows(conv: str, lmbda: float, seed: int, epochs: int) -> list[dict[str, Any]]:
    """The rows of metrics.csv: losses every epoch, infer images every fifth."""
    spectral = conv == "spectral"
    made: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        loss = float((spectral_loss if spectral else plain_loss)(np.array(epoch - 1.0))) + 0.001 * (seed - 1)
        common = {"epoch": epoch, "step": epoch * STEPS_AN_EPOCH, "time/elapsed_s": epoch * SECONDS_AN_EPOCH}
        lr = 1e-4 if epoch < 40 else 1e-5
        train = {"loss/forward/unclamped": loss + 0.02, "lr/net": lr, "conv/spectral": int(spectral and epoch < 30)}
        made.append({**common, "loader": "train", **train})
        made.append({**common, "loader": "valid", "loss/forward/unclamped": loss})
        if epoch % 5 == 0:
            made.append(
                {**common, "loader": "infer", "loss/forward/unclamped": loss + 0.01, **infer(lmbda, seed, conv)}
            )
    return made


def infer(lmbda: float, seed: int, conv: str) -> dict[str, float]:
    """One measurement of the infer images on both paths."""
    bpp, psnr = real_point(lmbda, seed, conv == "spectral")
    return {
        "bpp/forward": bpp / 1.002,
        "bpp/real": bpp,
        "psnr/forward/unclamped": psnr - 0.7,
        "psnr/forward/clamped": psnr,
        "psnr/real/clamped": psnr,
        "psnr/real/8bit": psnr - 0.01,
        "psnr_of_mean_mse/forward/unclamped": psnr - 1.0,
        "psnr_of_mean_mse/forward/clamped": psnr - 0.3,
        "psnr_of_mean_mse/real/clamped": psnr - 0.3,
        "ms_ssim/real/clamped": 1 - 10 ** (-(psnr - 15) / 10),
        "ms_ssim/real/8bit": 1 - 10 ** (-(psnr - 15.01) / 10),
        "ms_ssim/forward/unclamped": 1 - 10 ** (-(psnr - 15.2) / 10),
    }


def write_rows(file: Path, table: list[dict[str, Any]]) -> None:
    """Write rows as metrics.csv, empty where a row has no value."""
    names = ["epoch", "step", "loader", *sorted({name for row in table for name in row} - {"epoch", "step", "loader"})]
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, names, restval="")
        writer.writeheader()
        writer.writerows(table)


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run folder under tmp_path/runs and return it."""

    def make(
        conv: str = "plain",
        lmbda: float = 0.0067,
        seed: int = 1,
        epochs: int = 60,
        status: str = "finished",
        **changes: Any,
    ) -> Path:
        number = len(list((tmp_path / "runs").glob("*")))
        folder = tmp_path / "runs" / f"{number:010x}-{conv}-lmbda{lmbda:g}-seed{seed}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config(conv, lmbda, seed, **changes)))
        write_rows(folder / "metrics.csv", rows(conv, lmbda, seed, epochs))
        switch = {"epoch": 30, "step": 30 * STEPS_AN_EPOCH} if conv == "spectral" and epochs >= 30 else None
        summary = {"run_id": folder.name[:10], "status": status, "epochs": epochs, "seconds": epochs * SECONDS_AN_EPOCH}
        (folder / "summary.json").write_text(json.dumps({**summary, "switch": switch, "warnings": []}))
        return folder

    return make


@pytest.fixture
def make_evaluation(tmp_path: Path) -> Callable[..., Path]:
    """Write an evaluation of four lambdas with 24 images each, cheaper than the anchor by a factor on every image."""

    def make(name: str, factor: float = 1.0, noise: float = 0.0, dataset: str = "kodak", images: bool = True) -> Path:
        random = np.random.default_rng(1)
        hardness = random.uniform(0.5, 2.0, 24)
        lmbdas = np.array([0.0018, 0.0067, 0.025, 0.0932])
        spread = np.exp(noise * np.random.default_rng(2).standard_normal(24))
        bpp = 0.3 * (lmbdas[:, None] / 0.0067) ** 0.4 * hardness * factor * spread
        psnr = 30 + 6 * np.log10(lmbdas[:, None] / 0.0067) - 3 * np.log10(hardness)
        results = {"bpp": bpp.mean(1).tolist(), "psnr-rgb": psnr.mean(1).tolist(), "lmbda": lmbdas.tolist()}
        file = tmp_path / f"{name}.json"
        meta = {"dataset": dataset}
        file.write_text(json.dumps({"name": name, "description": "test", "meta": meta, "results": results}))
        if images:
            lines = ["point,image,bpp/real,psnr/real/clamped"]
            lines += [f"{p},kodim{i + 1:02},{bpp[p, i]!r},{psnr[p, i]!r}" for p in range(4) for i in range(24)]
            file.with_suffix(".csv").write_text("\n".join(lines).replace("np.float64(", "").replace(")", "") + "\n")
        return file

    return make

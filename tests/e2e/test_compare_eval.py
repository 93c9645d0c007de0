"""scripts/compare_eval.py: CompressAI's own program and rdtrain-eval on the same checkpoint and photographs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_eval.py"
MODEL = "bmshj2018-factorized"


def weights(path: Path, updated: bool) -> Path:
    from compressai.models import FactorizedPrior

    from rdtrain.evaluation import evaluation_copy

    torch.manual_seed(0)
    model = FactorizedPrior(8, 12)
    with torch.no_grad():
        model.g_a[-1].weight.mul_(20)  # latents larger than their rounding
        model.entropy_bottleneck.quantiles[:, :, 1] += 0.3  # medians that an aux loss has not found yet
    torch.save((evaluation_copy(model) if updated else model).state_dict(), path)
    return path


def compare(file: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(file), "--model", MODEL, "--root", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_the_figures_of_two_kodak_images_are_compressais(test_data: Path, tmp_path: Path) -> None:
    (tmp_path / "images" / "portrait").mkdir(parents=True)
    shutil.copy(test_data / "kodak" / "kodim01.png", tmp_path / "images")
    shutil.copy(test_data / "kodak" / "kodim04.png", tmp_path / "images" / "portrait")
    done = compare(weights(tmp_path / "updated.pth", updated=True), tmp_path / "images")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0]: [float(part) for part in line.split()[1:]] for line in done.stdout.splitlines()[1:3]}
    assert set(rows) == {"kodim01", "portrait/kodim04"}
    for bpp, bpp_less, psnr, psnr_less in rows.values():
        assert bpp > 0.1 and psnr > 3
        assert abs(bpp_less) <= 1e-4 and abs(psnr_less) <= 1e-4
    assert re.search(r"whole program: theirs [\d.]+ s, ours [\d.]+ s, median ratio [\d.]+", done.stdout)
    assert "quantiles" not in done.stdout and "padded" not in done.stdout


@pytest.mark.slow
def test_differences_are_found_and_explained(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.effect_noise((200, 176), 60).convert("RGB").save(tmp_path / "images" / "a.png")
    done = compare(weights(tmp_path / "raw.pth", updated=False), tmp_path / "images")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "a.png: 200x176 is padded to multiples of 64 by CompressAI, of 16 here" in done.stdout
    assert "quantiles: CompressAI takes the file's, here bisection moves them by up to" in done.stdout

"""The command `rdtrain-report entropy` and what it writes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_codecs import images, trained_model

from rdtrain.report import figures
from rdtrain.report.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw few dots: these tests look at names and numbers."""
    monkeypatch.setattr(figures, "PAPER_DPI", 20)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two images of 70x90 pixels."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name, x in zip(("a.png", "b.png"), images(2, 70, 90), strict=True):
        Image.fromarray(x.mul(255).round().byte().permute(1, 2, 0).numpy()).save(folder / name)
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


@pytest.mark.slow
@pytest.mark.usefixtures("coarse")
def test_a_stock_model_gives_page_figures_and_tables(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "stock.pth", tmp_path / "out"
    torch.save(trained_model("mbt2018-mean").state_dict(), source)
    words = ["entropy", str(source), "--model", "mbt2018-mean", "--images", str(photographs), "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "What a file is made of" in printed and "gaussian_conditional" in printed
    names = {"parts"} | {f"{kind}-entropy-bottleneck" for kind in ("channels", "symbols", "quantiles", "tail")}
    names |= {f"{kind}-gaussian-conditional" for kind in ("channels", "scales", "residuals")}
    for ending in ("png", "svg"):
        assert {file.stem for file in (out / "figures").glob(f"*.{ending}")} == names
    page = (out / "entropy.html").read_text()
    assert page.count("<img") == len(names) and "stock.pth" in page
    parts, channels = rows(out / "tables" / "parts.csv"), rows(out / "tables" / "image-channels.csv")
    assert [row["image"] for row in parts] == ["a.png", "b.png", "mean"]
    for row in parts[:2]:
        own = [float(one["ideal"]) for one in channels if one["image"] == row["image"]]
        assert len(own) == 8 + 12
        assert sum(own) == pytest.approx(float(row["ideal [bit]"]), rel=1e-3)
    every = rows(out / "tables" / "channels-gaussian-conditional.csv")
    assert len(every) == 12
    trained = rows(out / "tables" / "channels-entropy-bottleneck.csv")[0]  # the aux loss was not trained
    assert [float(trained[f"{place} (aux loss)"]) for place in ("lower tail", "upper tail")] == [-10, 10]
    assert float(trained["upper tail"]) > 50


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "does not exist"),
        (["{stock}"], "type --model NAME"),
        (["{stock}", "--model", "bmshj2018-factorized", "--max-images", "0"], "--max-images 0"),
        (["{stock}", "--model", "bmshj2018-factorized", "--images", "{tmp}/none"], "there is no such folder"),
    ],
)
def test_mistakes_end_with_exit_code_2(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock = tmp_path / "stock.pth"
    torch.save(trained_model("bmshj2018-factorized").state_dict(), stock)
    assert main(["entropy", *(word.format(stock=stock, tmp=tmp_path) for word in words)]) == 2
    assert said in capsys.readouterr().err


def test_a_diverged_model_is_told(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = dict(trained_model("bmshj2018-factorized").state_dict())
    weights["g_a.6.weight"] = weights["g_a.6.weight"] * 1e12
    torch.save(weights, tmp_path / "stock.pth")
    words = ["entropy", str(tmp_path / "stock.pth"), "--model", "bmshj2018-factorized", "--images", str(photographs)]
    assert main(words) == 2
    assert "diverged" in capsys.readouterr().err

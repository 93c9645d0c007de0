"""The command: a whole sweep, the seed's four points, mistakes, and a quick --help."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rdtrain.report import figures
from rdtrain.report.cli import main
from rdtrain.report.evaluations import find_evaluations

MakeRun = Callable[..., Path]
SEED = """
- {label: Conv2d, path: real, bpp: 0.308173, psnr: 29.9231, lmbda: 0.0067}
- {label: SpectralConv2d, path: real, bpp: 0.322696, psnr: 30.0040, lmbda: 0.0067}
- {label: Conv2d, path: forward, bpp: 0.307627, psnr: 29.1858, lmbda: 0.0067}
- {label: SpectralConv2d, path: forward, bpp: 0.322088, psnr: 29.3400, lmbda: 0.0067}
"""


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw few dots: these tests look at names and numbers."""
    monkeypatch.setattr(figures, "PAPER_DPI", 20)


def test_seeds_points_give_the_table_the_figure_and_the_db_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "seed.yaml").write_text(SEED)
    out = tmp_path / "out"
    assert main(["--points", str(tmp_path / "seed.yaml"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for cell in ("0.308173 / 29.9231 / 0.7516", "0.322696 / 30.0040 / 0.7580"):
        assert cell in printed
    for cell in ("0.307627 / 29.1858 / 0.8331", "0.322088 / 29.3400 / 0.8293"):
        assert cell in printed
    assert "Conv2d 0.7373 dB, SpectralConv2d 0.6640 dB" in printed
    with Image.open(out / "figures" / "contours-psnr-0.0067-kodak.png") as image:
        assert round(image.info["dpi"][0]) == 300
    assert (out / "figures" / "contours-psnr-0.0067-kodak.svg").exists()
    assert (out / "figures" / "contours-psnr-all-lambdas-kodak.png").exists()
    assert "L = 0.7516" in (out / "report.html").read_text()


@pytest.mark.usefixtures("coarse")
def test_whole_sweep_with_a_damaged_and_an_unfinished_run(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lmbda in (0.0067, 0.025):
        make_run("plain", lmbda, 1)
        make_run("spectral", lmbda, 1)
    make_run("plain", 0.0067, 2, epochs=20, status="interrupted")
    (make_run("plain", 0.0067, 3) / "metrics.csv").write_text("epoch,step,loader\n1,1\n")
    out = tmp_path / "runs" / "report"  # below the sweep: a second report must not read the first one's files
    assert main([str(tmp_path / "runs"), "--out", str(out), "--metric", "psnr"]) == 0
    said = capsys.readouterr()
    assert said.err.count("left out") == 1
    assert "line 2 is damaged" in said.err
    assert find_evaluations([tmp_path / "runs"]) == ([], [])
    names = {file.stem for file in (out / "figures").glob("*.svg")}
    assert names == {
        "contours-psnr-0.0067-kodak",
        "contours-psnr-0.025-kodak",
        "contours-psnr-all-lambdas-kodak",
        "learning-rate",
        "loss-seconds-0.0067",
        "loss-seconds-0.025",
        "loss-steps-0.0067",
        "loss-steps-0.025",
        "rd-psnr-kodak",
    }
    assert {file.stem for file in (out / "figures").glob("*.png")} == names
    tables = {file.stem for file in (out / "tables").glob("*.csv")}
    assert {"runs", "settings", "speed", "ledger-psnr-kodak", "bd-psnr-kodak"} <= tables
    text = (out / "report.html").read_text()
    assert text.count("<figure>") == len(names)
    assert "not finished (status interrupted), shown up to epoch 20 of 60." in text
    assert "line 2 is damaged" in text
    assert "http" not in text.replace("http-equiv", "")
    curve = json.loads((out / "curves" / "spectral-until-plateau-kodak.json").read_text())
    assert curve["results"]["lmbda"] == [0.0067, 0.025]
    assert curve["results"]["psnr-rgb"][0] == pytest.approx(29.99)  # of 8-bit files
    assert curve["results"]["bpp"][0] == pytest.approx(0.294)
    assert set(curve["results"]) == {"bpp", "psnr-rgb", "ms-ssim-rgb", "lmbda"}


@pytest.mark.usefixtures("coarse")
def test_references_of_other_images_are_drawn_with_a_warning_and_not_compared(
    make_evaluation: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = make_evaluation("model", dataset="photos", images=False), tmp_path / "out"
    assert main([str(file), "--out", str(out), "--reference", "vtm", "--lmbda", "0.013"]) == 0
    text = (out / "report.html").read_text()
    assert "The published curves are of kodak, not of photos" in text
    assert not list((out / "tables").glob("bd-*"))
    assert (out / "figures" / "contours-psnr-0.013-photos.png").exists()
    assert not (out / "figures" / "contours-psnr-0.0067-photos.png").exists()
    assert "0.013" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to report; give run folders"),
        (["nowhere"], "nowhere does not exist"),
        (["."], "no run in ."),
        (["--points", "nothing.yaml"], "nothing.yaml cannot be read"),
        (["--points", "p.yaml", "--lmbda", "0"], "lambdas are finite and above 0"),
        (["--points", "p.yaml", "--lmbda", "nan"], "lambdas are finite and above 0"),
        (["--points", "p.yaml", "--lmbda", "inf"], "lambdas are finite and above 0"),
        (["--points", "p.yaml", "--reference", "jpg"], "did you mean jpeg"),
        (["--points", "p.yaml", "--baseline", "x"], "--baseline 'x' is no curve; type one of 'Conv2d'"),
        (["--points", "p.yaml", "--out", "p.yaml"], "cannot write to p.yaml"),
    ],
)
def test_mistakes_are_sentences_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(SEED)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_only_damaged_runs_is_an_error_that_names_them(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run()
    (folder / "metrics.csv").unlink()
    assert main([str(folder)]) == 2
    said = capsys.readouterr().err
    assert "no metrics.csv" in said
    assert "no run in" in said


@pytest.mark.parametrize("command", [[], ["status"], ["entropy"]])
def test_a_name_that_no_file_can_have_is_told(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "y" * 3000]) == 2
    assert capsys.readouterr().err.endswith(": File name too long\n")


def test_list_of_references(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list-references"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 76
    assert any("vtm" in line and "disputed" in line and "BSD-3-Clause-Clear" in line for line in lines)


def test_help_is_quick_and_light() -> None:
    code = "import sys; from rdtrain.report.cli import parser; parser().format_help(); print(len(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code + "; print('numpy' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split()[1] == "False"
    start = time.monotonic()
    shown = subprocess.run(
        [sys.executable, "-m", "rdtrain.report.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - start < 5  # about 0.1 s on a machine that does nothing else
    for option in ("--out", "--reference", "--lmbda", "--points", "--metric"):
        assert option in shown.stdout


def test_a_reader_that_has_enough_is_no_fault() -> None:
    command = [str(Path(sys.executable).with_name("rdtrain-report")), "--list-references"]
    shown = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert shown.stdout is not None and shown.stderr is not None
    shown.stdout.close()
    assert shown.wait(timeout=60) == 141 and shown.stderr.read() == ""
    shown.stderr.close()

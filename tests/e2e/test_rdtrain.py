"""The installed command, as a user types it, from a folder that is not the repository."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

COMMAND = Path(sys.executable).with_name("rdtrain")
SMALL = (
    "hp.N=4", "hp.M=6", "dataset.patch_size=64", "dataset.batch_size=4", "engine.num_epochs=2", "engine.epoch_steps=3",
    "infer.max_images=1",
)  # fmt: skip


def _rdtrain(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(COMMAND), *words], cwd=folder, capture_output=True, text=True, timeout=300)


def test_help_lists_groups_and_keys(tmp_path: Path) -> None:
    done = _rdtrain(tmp_path, "--help")
    assert done.returncode == 0 and done.stderr == ""
    for group in ("model", "conv", "criterion", "optimizer", "scheduler", "dataset", "engine", "experiment", "paths"):
        assert f"\n{group}: " in done.stdout or f"\n{group}:\n" in done.stdout
    assert "lmbda" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_and_cfg_import_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['rdtrain', {flags}]\n"
        "from rdtrain.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print('HEAVY', sorted({{'torch', 'compressai', 'catalyst', 'matplotlib'}} & set(sys.modules)))"
    )
    for flags in ("'--help'", "'--cfg', 'job'"):
        words = [sys.executable, "-c", program.format(flags=flags)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr


def test_cfg_prints_the_composed_configuration(tmp_path: Path) -> None:
    done = _rdtrain(tmp_path, "--cfg", "job", "++criterion.lmbda=0.0067", "scheduler.net.threshold=5e-4")
    assert done.returncode == 0 and done.stderr == ""
    config = yaml.safe_load(done.stdout)
    assert config["criterion"]["lmbda"] == 0.0067 and config["scheduler"]["net"]["threshold"] == 0.0005


def test_the_documented_override_trains_silently_and_continues_from_its_own_config(tmp_path: Path) -> None:
    literal = ("++model.name=bmshj2018-factorized", "++criterion.lmbda=0.0067", "++scheduler.net.threshold=5e-4")
    done = _rdtrain(tmp_path, *literal, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "overrides.txt").read_text().split() == [*literal, *SMALL]
    assert len([line for line in done.stdout.splitlines() if line.startswith("epoch ")]) == 2

    again = _rdtrain(tmp_path, "--config-dir", str(run), "--config-name", "config")
    assert again.returncode == 0 and "already finished" in again.stdout, again.stdout + again.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name]


def test_all_mistakes_are_told_at_once_before_anything_is_created(tmp_path: Path) -> None:
    words = ("++modle.name=x", "model.name=y", "criterion.lmbda=-1", "dataset.patch_size=4096", "seed=x")
    done = _rdtrain(tmp_path, *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for sentence in ("modle.name does not exist", *words[1:]):
        assert sentence in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = _rdtrain(tmp_path, "dataset=image_folder", "dataset.root=data")
    assert done.returncode == 2 and "holds no image files" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_ctrl_c_is_told_and_the_same_command_continues(tmp_path: Path) -> None:
    words = [str(COMMAND), *SMALL, "engine.num_epochs=8", "engine.epoch_steps=20"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("epoch 2/8"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted; the same command continues where it stopped\n"
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"

    done = _rdtrain(tmp_path, *words[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("continues: ")
    epochs = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("epoch ")]
    assert 1 <= len(epochs) <= 7 and epochs[-1] == "8/8"
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def test_a_sweep_makes_a_run_a_point(tmp_path: Path) -> None:
    done = _rdtrain(tmp_path, "-m", *SMALL, "engine.num_epochs=1", "criterion.lmbda=0.01,0.02")
    assert done.returncode == 0, done.stderr
    statuses = [json.loads(path.read_text())["status"] for path in (tmp_path / "runs").glob("sweep-*/*/summary.json")]
    assert statuses == ["finished", "finished"]


@pytest.mark.slow
def test_quickstart_on_the_embedded_photographs(tmp_path: Path) -> None:
    _check_quickstart(tmp_path)


@pytest.mark.slow
@pytest.mark.long
def test_quickstart_on_bsds500_and_kodak(tmp_path: Path, test_data: Path) -> None:
    _check_quickstart(
        tmp_path,
        "dataset=image_folder",
        f"dataset.root={test_data / 'bsds500'}",
        "dataset.infer_name=kodak",
        f"dataset.infer_root={test_data / 'kodak'}",
    )


def _check_quickstart(folder: Path, *words: str) -> None:
    done = _rdtrain(folder, "experiment=quickstart", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (run,) = (folder / "runs").iterdir()
    with open(run / "metrics.csv") as file:
        header, *lines = [line.rstrip("\n").split(",") for line in file]
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    losses = [float(row["loss/forward/unclamped"]) for row in rows if row["loader"] == "valid"]
    assert losses[-1] <= losses[0] / 2
    assert json.loads((run / "summary.json").read_text())["switch"]["convs"] == 8
    infer = [row for row in rows if row["loader"] == "infer"][-1]
    estimate, real = float(infer["bpp/forward"]), float(infer["bpp/real"])
    assert estimate <= real <= 1.03 * estimate
    parts = sum(float(infer[f"rate_gap/{name}"]) for name in ("padding", "tables", "tails", "flush"))
    assert parts == pytest.approx(float(infer["rate_gap/total"]), abs=0.01)
    assert float(infer["mse/real/clamped"]) == pytest.approx(float(infer["mse/forward/clamped"]), abs=1e-6)

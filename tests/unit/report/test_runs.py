"""Run folders and their names: what is read, what is refused with which sentence, which runs make one curve."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from rdtrain.errors import UserError
from rdtrain.report.naming import conv_name, curve_names, model_title, settings_table
from rdtrain.report.runs import find_runs, notes, read_run

MakeRun = Callable[..., Path]


def test_columns_have_one_value_an_epoch_and_nan_where_nothing_was_measured(make_run: MakeRun) -> None:
    run = read_run(make_run("plain", epochs=10))
    np.testing.assert_array_equal(run.column("valid", "epoch"), np.arange(1, 11))
    expected = 0.5 + 0.5 * np.exp(-np.arange(10) / 20)
    np.testing.assert_allclose(run.column("valid", "loss/forward/unclamped"), expected, rtol=1e-12)
    assert np.isnan(run.column("valid", "bpp/real")).all()
    assert run.column("valid", "never/logged").shape == (10,)
    steps, bpp = run.series("infer", "bpp/real")
    np.testing.assert_array_equal(steps, [50, 100])
    np.testing.assert_allclose(bpp, [0.3, 0.3])


def test_later_row_of_the_same_epoch_counts(make_run: MakeRun) -> None:
    folder = make_run(epochs=3)
    file = folder / "metrics.csv"
    lines = file.read_text().splitlines()
    again = next(line for line in lines if line.startswith("2,20,valid")).split(",")
    again[lines[0].split(",").index("loss/forward/unclamped")] = "0.125"
    file.write_text("\n".join([*lines, ",".join(again)]) + "\n")
    assert read_run(folder).column("valid", "loss/forward/unclamped")[1] == 0.125
    assert read_run(folder).column("valid", "epoch").tolist() == [1, 2, 3]


def test_settings_and_lambda_of_both_forms(make_run: MakeRun) -> None:
    run = read_run(make_run(lmbda=0.0067))
    assert run.setting("optimizer.net.lr") == 1e-4
    assert run.setting("conv.switch.at", "none") == "none"
    assert run.setting("model.name.deeper") is None
    assert (run.lmbda, run.metric, run.dataset, run.status, run.epochs) == (0.0067, "psnr", "kodak", "finished", 60)
    dr = read_run(make_run(lmbda=0.0022953, criterion__form="dr"))
    assert dr.lmbda == pytest.approx(0.0067, rel=1e-4)  # lambda' = 1 / (lambda 255^2)
    dr_ms_ssim = read_run(make_run(lmbda=1 / 8.73, criterion__form="dr", criterion__metric="ms-ssim"))
    assert (dr_ms_ssim.lmbda, dr_ms_ssim.metric) == (pytest.approx(8.73), "ms-ssim")


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        (
            "metrics.csv",
            "epoch,step,loader,a\n1,10,train,1\n2,20,train\n",
            "line 3 is damaged (3 values for 4 columns)",
        ),
        ("metrics.csv", "epoch,step,loader,a\n1,10,train,many\n", "line 2 is damaged"),
        ("metrics.csv", "epoch,step,loader,a\n1,10,test,1\n", "unknown loader 'test'"),
        ("metrics.csv", "epoch,step,loader,a\n,10,train,1\n", "no epoch or step"),
        ("metrics.csv", "epoch,step,loader,a\n", "no epoch has been measured yet"),
        ("metrics.csv", "", "damaged"),
        ("metrics.csv", "a,b\n1,2\n", "line 2 is damaged"),
        ("config.yaml", "a: [1\n", "left out"),
        ("config.yaml", "- 1\n", "not a mapping"),
        ("config.yaml", "task: kernels\n", "an experiment (kernels) has no rate"),
        ("config.yaml", "[" * 700, "left out"),
        ("summary.json", "{", "left out"),
        ("summary.json", "[]", "not a mapping"),
    ],
)
def test_damaged_run_gets_a_sentence_and_the_others_are_read(
    make_run: MakeRun, tmp_path: Path, file: str, content: str, sentence: str
) -> None:
    good, bad = make_run(seed=1), make_run(seed=2)
    (bad / file).write_text(content)
    runs, problems = find_runs([tmp_path / "runs"])
    assert [run.folder for run in runs] == [good.resolve()]
    assert len(problems) == 1
    assert bad.name in problems[0]
    assert sentence in problems[0]
    assert "\n" not in problems[0]


@pytest.mark.parametrize("missing", ["metrics.csv", "config.yaml"])
def test_run_that_stopped_early_is_left_out(make_run: MakeRun, missing: str) -> None:
    folder = make_run()
    (folder / missing).unlink()
    runs, problems = find_runs([folder])
    assert not runs
    assert f"no {missing}" in problems[0]


def test_binary_garbage_is_a_sentence(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "metrics.csv").write_bytes(b"\xff\xfe\x00\x01" * 50)
    assert "damaged" in find_runs([folder])[1][0]


def test_runs_are_found_at_any_depth_once_and_not_in_hidden_folders(make_run: MakeRun, tmp_path: Path) -> None:
    one, two = make_run(seed=1), make_run(seed=2)
    (two / "figures").mkdir()
    (two / "figures" / "config.yaml").write_text("{}")  # inside a run: not a run
    hidden = tmp_path / "runs" / ".hydra"
    hidden.mkdir()
    (hidden / "config.yaml").write_text("{}")
    runs, problems = find_runs([tmp_path, one, tmp_path / "runs"])
    assert [run.folder for run in runs] == [one.resolve(), two.resolve()]
    assert problems == []


def test_path_that_does_not_exist_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist; give a run folder"):
        find_runs([tmp_path / "nowhere"])


def test_notes_tell_what_is_not_finished_and_the_warnings(make_run: MakeRun) -> None:
    assert notes(read_run(make_run())) == []
    folder = make_run(epochs=12, status="interrupted")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "warnings": ["aux loss climbs"]}))
    said = notes(read_run(folder))
    assert said[0].endswith("not finished (status interrupted), shown up to epoch 12 of 60.")
    assert said[1].endswith("aux loss climbs")


def test_missing_or_strange_summary_is_no_obstacle(make_run: MakeRun) -> None:
    folder = make_run("spectral")
    (folder / "summary.json").write_text('{"switch": "soon", "seconds": null, "warnings": "none"}')
    run = read_run(folder)
    assert run.switch is None
    assert run.status == "unknown"
    assert len(notes(run)) == 1
    (folder / "summary.json").unlink()
    assert read_run(folder).summary == {}


def test_sweep_over_lambda_quality_and_seed_is_one_curve_for_each_kind_of_conv(make_run: MakeRun) -> None:
    for quality, lmbda, channels in ((1, 0.0018, 128), (6, 0.0483, 192)):
        for seed in (1, 2):
            for conv in ("plain", "spectral"):
                make_run(conv, lmbda, seed, epochs=1, model__quality=quality, hp__N=channels)
    runs, _ = find_runs([make_run(epochs=1).parent])
    names = curve_names(runs)
    assert list(dict.fromkeys(names.values())) == ["plain", "spectral until plateau"]
    assert sum(name == "plain" for name in names.values()) == 5


def test_any_other_difference_makes_another_curve_and_is_named(make_run: MakeRun) -> None:
    make_run(epochs=1)
    make_run(epochs=1, seed=2, engine__device="cuda")
    make_run(epochs=1, optimizer__net__lr=1e-3)
    runs, _ = find_runs([make_run(epochs=1, seed=2, optimizer__net__lr=1e-3).parent])
    names = list(curve_names(runs).values())
    assert names == ["plain, net.lr 0.0001"] * 2 + ["plain, net.lr 0.001"] * 2
    header, rows = settings_table(runs, curve_names(runs))
    assert header == ["setting", "plain, net.lr 0.0001", "plain, net.lr 0.001"]
    assert rows == [["optimizer.net.lr", "0.0001", "0.001"]]


def test_a_difference_that_follows_lambda_is_still_a_difference(make_run: MakeRun) -> None:
    make_run(lmbda=0.0067, epochs=1, optimizer__net__lr=1e-4)
    runs, _ = find_runs([make_run(lmbda=0.025, epochs=1, optimizer__net__lr=1e-3).parent])
    assert list(curve_names(runs).values()) == ["plain, net.lr 0.0001", "plain, net.lr 0.001"]


def test_channels_that_do_not_follow_lambda_make_two_curves(make_run: MakeRun) -> None:
    make_run(epochs=1, hp__N=64)
    runs, _ = find_runs([make_run(epochs=1, hp__N=128).parent])
    assert list(curve_names(runs).values()) == ["plain, hp.N 64", "plain, hp.N 128"]


def test_models_and_losses_are_named_only_where_they_differ(make_run: MakeRun) -> None:
    make_run(epochs=1)
    make_run(epochs=1, model__name="mbt2018-mean")
    runs, _ = find_runs([make_run(epochs=1, criterion__metric="ms-ssim").parent])
    assert list(curve_names(runs).values()) == [
        "bmshj2018-factorized, plain, trained for psnr",
        "mbt2018-mean, plain, trained for psnr",
        "bmshj2018-factorized, plain, trained for ms-ssim",
    ]
    assert model_title(runs) == "bmshj2018-factorized (M = 192, N = 128); mbt2018-mean (M = 192, N = 128)"


@pytest.mark.parametrize(
    ("transform", "trigger", "at", "name"),
    [
        ("rfft", "plateau", None, "spectral until plateau"),
        ("rfft", "never", None, "spectral"),
        ("rdft", "epoch", 30, "spectral (rdft) until epoch 30"),
    ],
)
def test_conv_name(make_run: MakeRun, transform: str, trigger: str, at: int | None, name: str) -> None:
    switch = {"trigger": trigger, "at": at}
    folder = make_run("spectral", epochs=1, conv__transform=transform, conv__switch=switch)
    assert conv_name(read_run(folder)) == name
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["conv"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert conv_name(read_run(folder)) == "plain"

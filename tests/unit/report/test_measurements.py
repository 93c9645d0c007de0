"""What is measured: points of runs, of evaluation files and of lists, and means over seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdtrain.errors import UserError
from rdtrain.report.evaluations import find_evaluations, read_evaluation
from rdtrain.report.gather import measure
from rdtrain.report.measurements import Measurement, from_file, mean_of, of_evaluation, of_images, of_run
from rdtrain.report.naming import curve_names
from rdtrain.report.plane import RDPoint
from rdtrain.report.runs import read_run

MakeRun = Callable[..., Path]
MakeEvaluation = Callable[..., Path]


def test_run_gives_its_last_infer_epoch_on_both_paths(make_run: MakeRun) -> None:
    one = of_run(read_run(make_run(seed=2, lmbda=0.013, epochs=13)), "plain")
    assert one is not None
    assert (one.curve, one.label, one.dataset, one.lmbda) == ("plain", "plain, seed 2, last", "kodak", 0.013)
    assert one.full_label == "plain, seed 2, last, λ = 0.013"
    keys = {(point.path, point.variant) for point in one.points}
    assert keys == {("forward", "unclamped"), ("forward", "clamped"), ("real", "clamped"), ("real", "8bit")}
    real, forward = one.point("real"), one.point("forward")
    assert real is not None
    assert forward is not None
    assert (real.variant, forward.variant) == ("clamped", "unclamped")
    assert real.psnr == pytest.approx(30 + 6 * np.log10(0.013 / 0.0067) + 0.02)
    assert real.bpp / forward.bpp == pytest.approx(1.002)
    assert one.point("real", "8bit").psnr == pytest.approx(real.psnr - 0.01)  # type: ignore[union-attr]
    assert one.point("real", "unclamped") is None


def test_epoch_with_real_bitstreams_wins_over_a_later_one_without(make_run: MakeRun) -> None:
    run = read_run(make_run(epochs=15))
    run.columns["infer"]["bpp/real"][:] = [0.11, 0.22, np.nan]
    run.columns["infer"]["bpp/forward"][:] = [0.1, 0.2, 0.3]
    one = of_run(run, "plain")
    assert one is not None
    assert one.point("real").bpp == 0.22  # type: ignore[union-attr]
    assert one.point("forward").bpp == 0.2  # type: ignore[union-attr]
    run.columns["infer"]["bpp/real"][:] = np.nan
    only_forward = of_run(run, "plain")
    assert only_forward is not None
    assert only_forward.point("forward").bpp == 0.3  # type: ignore[union-attr]
    assert only_forward.point("real") is None


def test_run_without_infer_images_gives_nothing(make_run: MakeRun) -> None:
    assert of_run(read_run(make_run(epochs=3)), "plain") is None


def test_stock_compressai_result_is_read(tmp_path: Path) -> None:
    file = tmp_path / "zoo.json"
    results = {"bpp": [0.2, 0.4], "psnr-rgb": [28.0, 31.0], "ms-ssim-rgb": [0.93, 0.97], "encoding_time": [1, 2]}
    file.write_text(json.dumps({"name": "mbt2018", "description": "Inference (ans)", "results": results}))
    evaluation = read_evaluation(file)
    assert evaluation is not None
    one, two = of_evaluation(evaluation)
    assert (one.curve, one.label, two.label, one.dataset) == ("mbt2018", "mbt2018 1", "mbt2018 2", "unknown images")
    point = two.point("real")
    assert point is not None
    assert (point.bpp, point.psnr, point.ms_ssim) == (0.4, 31.0, 0.97)
    assert one.point("forward") is None


def test_ledger_names_and_images_of_an_evaluation(make_evaluation: MakeEvaluation) -> None:
    evaluation = read_evaluation(make_evaluation("model"))
    assert evaluation is not None
    measured = of_evaluation(evaluation)
    assert [one.lmbda for one in measured] == [0.0018, 0.0067, 0.025, 0.0932]
    images = of_images(measured[1], "real", "psnr")
    assert images is not None
    assert images[0].shape == images[1].shape == (24,)
    assert images[0].mean() == pytest.approx(measured[1].point("real").bpp)  # type: ignore[union-attr]
    assert of_images(measured[1], "forward", "psnr") is None
    assert measured[1].images["image"][0] == "kodim01"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "left out"),
        ('{"results": {"bpp": [1, 2], "psnr-rgb": [1]}}', "not of one length"),
        ('{"results": {"bpp": 1}}', "not of one length"),
        ('{"results": {"bpp": ["a"]}}', "left out"),
        ("[" * 100000, "left out"),
    ],
)
def test_damaged_evaluation_is_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    evaluations, problems = find_evaluations([tmp_path])
    assert evaluations == []
    assert sentence in problems[0]


def test_damaged_table_of_images_is_a_sentence(make_evaluation: MakeEvaluation) -> None:
    file = make_evaluation("model")
    file.with_suffix(".csv").write_text("point,image,bpp/real\n0,a,much\n")
    assert "left out" in find_evaluations([file])[1][0]


def test_other_json_is_passed_over_unless_it_was_named(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"a": 1}')
    assert find_evaluations([tmp_path]) == ([], [])
    assert "no evaluation result" in find_evaluations([file])[1][0]


def test_curves_of_an_earlier_report_are_read_only_when_named(tmp_path: Path) -> None:
    file = tmp_path / "curve.json"
    meta = {"made_by": "rdtrain-report"}
    file.write_text(json.dumps({"name": "a", "meta": meta, "results": {"bpp": [1.0], "psnr-rgb": [30.0]}}))
    assert find_evaluations([tmp_path]) == ([], [])
    assert len(find_evaluations([file])[0]) == 1


def test_evaluation_of_a_run_replaces_what_it_measured_on_the_same_images(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("spectral", epochs=5, lmbda=0.013)
    run = read_run(folder)
    names = curve_names([run])
    result = {"bpp": [0.5], "psnr-rgb": [33.0], "bpp/forward": [0.49], "psnr/forward/unclamped": [32.5]}

    def write(file: Path, **meta: str) -> None:
        file.write_text(json.dumps({"name": "m", "meta": meta, "results": result}))

    write(folder / "kodak.json", dataset="kodak")
    write(tmp_path / "clic.json", dataset="clic2020-mobile", run_id=run.summary["run_id"])
    write(tmp_path / "stranger.json", dataset="kodak", run_id="0123456789")
    evaluations, _ = find_evaluations([tmp_path])
    measured = measure([run], evaluations, names)
    assert [(one.curve, one.dataset, one.lmbda) for one in measured[:2]] == [
        ("spectral until plateau", "kodak", 0.013),
        ("spectral until plateau", "clic2020-mobile", 0.013),
    ]
    assert measured[0].point("real").bpp == 0.5  # type: ignore[union-attr]
    assert measured[0].point("forward").psnr == 32.5  # type: ignore[union-attr]
    assert (measured[2].curve, len(measured)) == ("m", 3)


YAML = """
points:
  - {label: Conv2d, path: real, bpp: 0.308173, psnr: 29.9231, lmbda: 0.0067}
  - {label: Conv2d, path: forward, bpp: 0.307627, psnr: 29.1858, lmbda: 0.0067}
  - {label: other, bpp: 0.5, ms_ssim: 0.97, lmbda: 8.73, metric: ms-ssim, dataset: photos, curve: c}
"""
CSV = """label,path,bpp,psnr,ms_ssim,lmbda,metric,dataset,curve
Conv2d,real,0.308173,29.9231,,0.0067,,,
Conv2d,forward,0.307627,29.1858,,0.0067,,,
other,,0.5,,0.97,8.73,ms-ssim,photos,c
"""


@pytest.mark.parametrize(("name", "text"), [("p.yaml", YAML), ("p.csv", CSV), ("p.yml", YAML.split("points:")[1])])
def test_points_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    conv, other = from_file(tmp_path / name, "kodak")
    assert (conv.label, conv.dataset, conv.lmbda, len(conv.points)) == ("Conv2d", "kodak", 0.0067, 2)
    assert conv.point("real").bpp == 0.308173  # type: ignore[union-attr]
    assert conv.point("forward").variant == "unclamped"  # type: ignore[union-attr]
    assert (other.curve, other.dataset, other.metric) == ("c", "photos", "ms-ssim")
    assert (other.weight("ms-ssim"), np.isnan(other.weight("psnr"))) == (8.73, True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- {label: a, psnr: 30}", "point 1 cannot be understood (no bpp)"),
        ("- {label: a, bpp: 1, psnr: 30}\n- {label: b, bpp: much, psnr: 30}", "point 2 cannot be understood"),
        ("- {label: a, bpp: 1}", "a finite psnr or ms_ssim"),
        ("- {label: a, bpp: .nan, psnr: 30}", "a finite bpp"),
        ("- {label: a, bpp: 1, psnr: 30, lambda: 1}", "unknown key lambda"),
        ("- {label: a, bpp: 1, psnr: 30, path: decoded}", "path is 'decoded', not forward or real"),
        ("- 3", "point 1 cannot be understood"),
        ("points: 3", "no list of points"),
        ("[]", "has no points"),
        ("[", "cannot be read"),
    ],
)
def test_points_that_cannot_be_understood(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "points.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        from_file(file, "kodak")
    assert sentence in str(error.value)
    assert "a point is such as {label: Conv2d" in str(error.value)


def test_missing_points_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        from_file(tmp_path / "none.yaml", "kodak")


def test_mean_over_seeds_averages_only_what_all_have() -> None:
    def measured(bpp: float, *variants: str) -> Measurement:
        points = tuple(RDPoint("real", variant, bpp, 30 + bpp, ms_ssim=0.9) for variant in variants)
        return Measurement("c", "c, seed", "kodak", 0.01, points)

    mean = mean_of([measured(0.2, "clamped", "8bit"), measured(0.4, "clamped")])
    assert (mean.label, mean.lmbda, len(mean.points)) == ("c (2 seeds)", 0.01, 1)
    (point,) = mean.points
    assert (point.variant, point.bpp, point.psnr) == ("clamped", pytest.approx(0.3), pytest.approx(30.3))
    assert np.isnan(point.psnr_of_mean_mse)
    alone = measured(0.2, "8bit")
    assert mean_of([alone]) is alone

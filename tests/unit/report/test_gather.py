"""What belongs together: sets of images, checkpoints of a run, and models of the same name are not mixed up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdtrain.report.evaluations import find_evaluations, read_evaluation
from rdtrain.report.gather import measure
from rdtrain.report.image_sets import ImageSet, names
from rdtrain.report.measurements import of_evaluation
from rdtrain.report.naming import curve_names
from rdtrain.report.runs import read_run

MakeRun = Callable[..., Path]


def write(file: Path, bpp: float = 0.5, lmbda: float | None = None, **meta: Any) -> Path:
    results = {"bpp": [bpp], "psnr-rgb": [33.0], "ms-ssim-rgb": [0.95]}
    results |= {} if lmbda is None else {"lmbda": [lmbda]}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"name": "m", "meta": {"dataset": "kodak"} | meta, "results": results}))
    return file


def test_sets_that_differ_have_names_that_differ() -> None:
    whole, some, unknown = ImageSet("kodak", 24, 24, "aa"), ImageSet("kodak", 3, None, "bb"), ImageSet("kodak")
    one, other = (ImageSet("image_folder", 5, 5, fingerprint) for fingerprint in ("1234567", "abcdefg"))
    cut = ImageSet("image_folder", 4, 5)
    assert list(names([whole, some, unknown, one, other, cut]).values()) == [
        "kodak",
        "kodak (3 of 24 images)",
        "kodak",
        "image_folder [123456]",
        "image_folder [abcdef]",
        "image_folder (4 of 5 images)",
    ]
    assert names([one, ImageSet("image_folder")])[one] == "image_folder"


def test_partial_evaluation_does_not_replace_the_whole_one(make_run: MakeRun) -> None:
    run = read_run(make_run(epochs=5))
    write(run.folder / "eval-kodak.json", n_images=3, max_images=3, failed={}, checkpoint="best.pt")
    measured = measure([run], find_evaluations([run.folder])[0], curve_names([run]))
    assert [(one.dataset, one.weights) for one in measured] == [("kodak", "last"), ("kodak (3 of 24 images)", "best")]


def test_images_of_a_run_are_those_of_its_inventory(make_run: MakeRun) -> None:
    folder = make_run(epochs=5, infer={"max_images": 3})
    data = {"infer": {"images": 3, "fingerprint": "abc"}}
    (folder / "environment.json").write_text(json.dumps({"data": data}))
    run = read_run(folder)
    assert (run.dataset, run.image_set.fingerprint) == ("kodak (3 of 24 images)", "abc")
    data["infer"]["images"] = 24  # the inventory of older runs was taken before the cut
    (folder / "environment.json").write_text(json.dumps({"data": data}))
    assert read_run(folder).image_set == ImageSet("kodak", 3)


def test_failed_images_are_told(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", n_images=23, failed={"x.png": "memory"}, ms_ssim_images=20)
    evaluation = read_evaluation(file)
    assert evaluation is not None and evaluation.image_set.name == "kodak (23 of 24 images)"
    failed, few = evaluation.notes()
    assert "1 images failed and are in no mean: x.png" in failed
    assert "only 20 of 23 images are large enough for MS-SSIM" in few
    (point,) = of_evaluation(evaluation)[0].points
    assert np.isnan(point.ms_ssim) and point.psnr == 33.0


def test_models_of_one_name_and_lambda_are_no_seeds(tmp_path: Path) -> None:
    for name, lmbda in (("a", 0.01), ("b", 0.01)):
        write(tmp_path / f"{name}.json", lmbda=lmbda, checkpoint=f"{name}.pth", weights_id=f"{name}{name}")
    measured = measure([], find_evaluations([tmp_path])[0], {})
    assert [one.curve for one in measured] == ["m, a", "m, b"]
    write(tmp_path / "b.json", lmbda=0.02, checkpoint="b.pth")  # two points of a curve
    measured = measure([], find_evaluations([tmp_path])[0], {})
    assert [one.curve for one in measured] == ["m", "m"]


def test_every_checkpoint_of_a_run_is_shown(make_run: MakeRun) -> None:
    run = read_run(make_run(epochs=5))
    for stem, bpp in (("best", 0.5), ("last", 0.6)):
        suffix = "" if stem == "best" else "-last"
        write(run.folder / f"eval-kodak{suffix}.json", bpp, checkpoint=f"x/{stem}.pt", weights_id=stem)
    measured = measure(
        [run], find_evaluations([run.folder, run.folder / "eval-kodak-last.json"])[0], curve_names([run])
    )
    assert [(one.curve, one.weights, one.points[0].bpp) for one in measured] == [
        ("plain", "best", 0.5),
        ("plain, last", "last", 0.6),
    ]
    assert measured[0].label == "plain, seed 1, best"


@pytest.mark.parametrize("known", [True, False])
def test_lambda_is_that_of_the_training(make_run: MakeRun, known: bool) -> None:
    own = 1 / (0.0067 * 255**2)
    run = read_run(make_run(lmbda=own, epochs=5, criterion__form="dr"))
    training = {"lmbda": own, "metric": "mse", "form": "dr"}
    write(run.folder / "eval-kodak.json", lmbda=0.05, lmbda_typed=True, trained_with=training)
    (evaluation,), _ = find_evaluations([run.folder])
    (one,) = measure([run], [evaluation], curve_names([run])) if known else of_evaluation(evaluation)
    assert one.lmbda == pytest.approx(0.0067, rel=1e-12)
    assert "typed lambda" in evaluation.notes()[0]

"""Evaluating: equal to CompressAI's own evaluation, read by the report, named after what was evaluated."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.utils.eval_model.__main__ import inference
from compressai.utils.plot.__main__ import parse_json_file
from PIL import Image
from tiny_codecs import tiny_model, trained_model

from rdtrain.bitstream import unpack
from rdtrain.errors import UserError
from rdtrain.eval.cli import main
from rdtrain.eval.complexity import macs_per_pixel, parameters
from rdtrain.eval.models import identity, load_subject, with_criterion
from rdtrain.evaluation import evaluation_copy
from rdtrain.report.evaluations import read_evaluation
from rdtrain.run_folder import RunFolder

MODEL = "bmshj2018-factorized"


def of(folder: Path, *more: str) -> list[str]:
    return ["--dataset", "image_folder", "--root", str(folder), *more]


def test_results_are_those_of_the_files_beside_them(stock: Path, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    asked = of(photographs, "--out", str(out), "--save-reconstructions", "--save-bitstreams")
    assert main([str(stock), "--model", MODEL, *asked]) == 0
    content = json.loads((out / "stock-eval-image_folder.json").read_text())
    rows = list(csv.DictReader((out / "stock-eval-image_folder.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["a.png", "sub/b.png"]
    folder = out / "stock-eval-image_folder"
    for row in rows:
        original = np.asarray(Image.open(photographs / row["image"])).astype(np.float64)
        mse = np.mean((np.asarray(Image.open(folder / "reconstructions" / row["image"])) - original) ** 2)
        assert float(row["psnr/real/8bit"]) == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-5)
        stream = unpack((folder / "bitstreams" / row["image"]).with_suffix(".rdt").read_bytes())
        assert float(row["bpp/real"]) == pytest.approx(8 * len(stream.strings[0][0]) / (170 * 200), rel=1e-12)
        assert (stream.height, stream.width, stream.padded) == (170, 200, (176, 208))
    for name, column in (("bpp", "bpp/real"), ("psnr-rgb", "psnr/real/8bit"), ("ms-ssim-rgb", "ms_ssim/real/8bit")):
        assert content["results"][name] == [pytest.approx(np.mean([float(row[column]) for row in rows]), rel=1e-12)]
    assert not any(name.startswith("loss/") for name in content["results"])
    assert "lmbda" not in content["results"]


def test_lambda_of_a_stock_model_fills_the_losses(
    stock: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(stock), "--model", MODEL, *of(photographs, "--max-images", "1", "--out", str(tmp_path))]
    assert main(arguments) == 0
    assert "type --lmbda L" in capsys.readouterr().out
    result = tmp_path / "stock-eval-image_folder.json"
    for more, scale, quality in ((["0.02"], 0.02 * 255**2, "mse"), (["9", "--metric", "ms-ssim"], 9, "ms_ssim")):
        assert main([*arguments, "--lmbda", *more]) == 0
        said, content = capsys.readouterr().out, json.loads(result.read_text())
        mean = {name: values[0] for name, values in content["results"].items()}
        assert "type --lmbda" not in said and f"loss {mean['loss/real/8bit']:.4f}" in said
        assert mean["lmbda"] == float(more[0]) and content["meta"]["opt_metric"] == quality.replace("_", "-")
        for path in ("forward", "real"):
            distortion = mean[f"{quality}/{path}/8bit"]
            loss = scale * (distortion if quality == "mse" else 1 - distortion) + mean[f"bpp/{path}"]
            assert mean[f"loss/{path}/8bit"] == pytest.approx(loss, rel=1e-6)


def test_lambda_of_the_command_goes_before_that_of_the_run(run: RunFolder, photographs: Path, tmp_path: Path) -> None:
    subject = load_subject(run.path, None)
    assert subject.criterion is not None and with_criterion(subject, None, None) is subject
    other = with_criterion(subject, 0.5, None).criterion
    assert other is not None and (other.lmbda, other.metric, other.form) == (0.5, "mse", subject.criterion.form)
    assert main([str(run.path), *of(photographs, "--max-images", "1", "--out", str(tmp_path), "--lmbda", "0.5")]) == 0
    (result,) = tmp_path.glob("*.json")
    content = json.loads(result.read_text())
    assert content["results"]["lmbda"] == [0.5] and content["meta"]["lmbda_typed"] is True
    assert content["meta"]["trained_with"]["lmbda"] == subject.criterion.lmbda
    assert (content["meta"]["n_images"], content["meta"]["max_images"], len(content["meta"]["fingerprint"])) == (
        1,
        1,
        64,
    )


def test_compressais_plot_program_reads_the_result(stock: Path, photographs: Path, tmp_path: Path) -> None:
    assert main([str(stock), "--model", MODEL, *of(photographs, "--out", str(tmp_path))]) == 0
    results = json.loads((tmp_path / "stock-eval-image_folder.json").read_text())["results"]
    for metric, ys in (
        ("psnr", results["psnr-rgb"]),
        ("ms-ssim", -10 * np.log10(1 - np.array(results["ms-ssim-rgb"]))),
    ):
        read = parse_json_file(str(tmp_path / "stock-eval-image_folder.json"), metric)
        assert read["name"] == MODEL and read["xs"] == results["bpp"] and list(read["ys"]) == list(ys)


def test_multiples_of_64_give_exactly_compressais_figures(stock: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (192, 192, 3), dtype=np.uint8)
    (tmp_path / "one").mkdir()
    Image.fromarray(pixels).save(tmp_path / "one" / "x.png")
    assert main([str(stock), "--model", MODEL, *of(tmp_path / "one", "--out", str(tmp_path))]) == 0
    ours = json.loads((tmp_path / "stock-eval-image_folder.json").read_text())["results"]
    model = evaluation_copy(trained_model(MODEL))
    theirs = inference(model, torch.from_numpy(pixels / 255).permute(2, 0, 1).float())
    assert ours["bpp"][0] == pytest.approx(theirs["bpp"], abs=1e-12)
    assert ours["psnr-rgb"][0] == pytest.approx(theirs["psnr-rgb"], abs=1e-4)
    assert ours["ms-ssim-rgb"][0] == pytest.approx(theirs["ms-ssim-rgb"], abs=1e-5)
    assert 0 < ours["encoding_time"][0] < 60 and 0 < ours["decoding_time"][0] < 60


def test_run_is_evaluated_into_its_folder_and_the_report_reads_it(run: RunFolder, photographs: Path) -> None:
    assert main([str(run.path), *of(photographs, "--max-images", "1")]) == 0
    evaluation = read_evaluation(run.path / "eval-image_folder.json")
    assert evaluation is not None
    assert evaluation.image_set.name == "image_folder (1 images)" and evaluation.meta["run_id"] == run.id
    lmbda, mean = float(evaluation.results["lmbda"][0]), evaluation.results
    loss = lmbda * 255**2 * mean["mse/real/clamped"][0] + mean["bpp/real"][0]
    assert mean["loss/real/clamped"][0] == pytest.approx(loss, rel=1e-6)
    assert evaluation.images[0]["image"].tolist() == ["a.png"]
    assert evaluation.images[0]["bpp/real"][0] == mean["bpp/real"][0]


def test_checkpoint_and_export_of_a_run_are_the_same_model(run: RunFolder, photographs: Path, tmp_path: Path) -> None:
    checkpoint, exported = load_subject(run.path, None), load_subject(run.exported, None)
    assert identity(checkpoint.model) == identity(exported.model)
    stock = load_subject(Path(shutil.copy(run.exported, tmp_path / "elsewhere.pth")), MODEL)
    assert identity(stock.model) == identity(checkpoint.model)
    assert stock.criterion is None and exported.criterion is not None
    assert main([str(run.exported), *of(photographs, "--max-images", "1")]) == 0
    assert (run.path / "eval-image_folder-model.json").exists()
    assert not (run.path / "eval-image_folder.json").exists()


def test_identity_sees_every_tensor_that_was_trained() -> None:
    model = evaluation_copy(tiny_model(MODEL))
    before = identity(model)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter[(-1,) * parameter.dim()] += 1
        assert (identity(model).weights != before.weights) == (not name.endswith("quantiles"))
        with torch.no_grad():
            parameter[(-1,) * parameter.dim()] -= 1
    before = identity(model)
    model.entropy_bottleneck._quantized_cdf[0, 1] += 1
    assert identity(model).weights == before.weights and identity(model).tables != before.tables


def test_macs_and_parameters_against_the_formula() -> None:
    n, m = 8, 12  # four 5x5 convolutions of stride 2, MACs by pixel of the image
    g_a = 25 * (3 * n / 4 + n * n / 16 + n * n / 64 + n * m / 256)
    model = tiny_model("bmshj2018-factorized-relu").eval()
    assert macs_per_pixel(model) == {"g_a": g_a, "g_s": g_a, "total": 2 * g_a}
    convs = 25 * (3 * n + 2 * n * n + n * m)
    biases = (3 * n + m) + (3 * n + 3)
    bottleneck = m * (3 + (3 + 9 + 9 + 9 + 3) + (3 * 4 + 1) + 3 * 4)  # quantiles, matrices, biases, factors
    assert parameters(model) == 2 * convs + biases + bottleneck


def test_mistakes_end_with_exit_code_2(
    stock: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    named = ["--model", MODEL]
    mistakes = {
        "does not exist": [str(tmp_path / "nothing"), *of(photographs)],
        "is no run folder": [str(tmp_path), *of(photographs)],
        "type --model NAME": [str(stock), *of(photographs)],
        "bmshj2018-factorized": [str(stock), "--model", "bmshj2018-factorised", *of(photographs)],
        "not weights of --model mbt2018": [str(stock), "--model", "mbt2018", *of(photographs)],
        "holds more than tensors": [str(tmp_path / "text.pth"), *named, *of(photographs)],
        "--root": [str(stock), *named, "--dataset", "kodak"],
        "holds no image files": [str(stock), *named, *of(tmp_path / "nothing")],
        "a.png: not an image": [str(stock), *named, *of(tmp_path / "broken")],
        "is a file; give a folder": [str(stock), *named, *of(photographs, "--out", str(stock))],
        "type --lmbda L as well": [str(stock), *named, "--metric", "ms-ssim", *of(photographs)],
        "would both write": [str(stock), str(stock), *named, *of(photographs, "--out", str(tmp_path / "o"))],
    }
    for sentence, arguments in mistakes.items():
        assert main(arguments) == 2, sentence
        assert sentence in capsys.readouterr().err


def test_files_that_differ_in_their_ending_keep_it(stock: Path, tmp_path: Path) -> None:
    folder = tmp_path / "twins"
    folder.mkdir()
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (64, 64), "gray").save(folder / name)
    assert main([str(stock), "--model", MODEL, *of(folder, "--out", str(tmp_path), "--save-bitstreams")]) == 0
    made = sorted(path.name for path in (tmp_path / "stock-eval-image_folder" / "bitstreams").iterdir())
    assert made == ["a.bmp.rdt", "a.png.rdt"]


def test_run_without_checkpoint(run: RunFolder) -> None:
    run.best.unlink()
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_subject(run.path, None)

"""Case E: rdtrain-eval against CompressAI's forward, compress and decompress, in alternating processes of one thread.

As a program it evaluates on one side.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Options, Row, images, in_turn, medians, ratios
from benchmarks.processes import Finished, scratch, tell, worker

_MODELS = ("bmshj2018-factorized", "bmshj2018-hyperprior")
PUBLISHED, SMALL = (128, 192), (16, 24)  # N and M of both


def case_e(options: Options) -> list[Row]:
    """The ledger.

    Args:
        options: of the user.

    Returns:
        A row for each model.
    """
    rows = []
    for model in _MODELS:
        with scratch() as folder:
            files = prepare(options, model, SMALL if options.quick else PUBLISHED, folder, 1 if options.quick else None)
            sides = {side: partial(_seconds, side, model, folder, options) for side in ("theirs", "ours")}
            times = in_turn(sides, options.turns(3), f"E, {model}")
        what = f"ledger of {files} Kodak images, {model} {'N=16 M=24' if options.quick else 'N=128 M=192'}, one thread"
        found = ratios(times["ours"], times["theirs"])
        rows.append(Row("E", what, "forward, compress, decompress of CompressAI's eval_model", "of the time", 0.4,
                        False, found, medians(times)))  # fmt: skip
    return rows


def prepare(options: Options, model: str, channels: tuple[int, int], folder: Path, most: int | None) -> int:
    """Write images and weights for both sides.

    Args:
        options: of the user.
        model: name in CompressAI.
        channels: N and M.
        folder: receives `images/` and `weights.pth`.
        most: images, None for all.

    Returns:
        The number of images.
    """
    import torch
    from compressai.zoo.image import model_architectures

    from rdtrain.evaluation import evaluation_copy

    torch.manual_seed(0)
    net = model_architectures[model](*channels)
    with torch.no_grad():
        net.g_a[-1].weight.mul_(20)  # latents that are larger than their rounding, as trained ones are
    torch.save(evaluation_copy(net).state_dict(), folder / "weights.pth")
    files = images(options, "kodak", most)
    (folder / "images").mkdir()
    for path in files:
        shutil.copy(path, folder / "images")
    return len(files)


def evaluated(side: str, model: str, folder: Path, options: Options) -> Finished:
    """Evaluate in a process of its own.

    Args:
        side: `theirs` or `ours`.
        model: name in CompressAI.
        folder: of `prepare`.
        options: of the user.

    Returns:
        The process; its content has `seconds`, from the first image to the last.
    """
    settings = {"side": side, "model": model, "folder": str(folder), "device": options.device}
    return worker("ledger", settings, OMP_NUM_THREADS="1")


def _seconds(side: str, model: str, folder: Path, options: Options) -> float:
    return float(evaluated(side, model, folder, options).content["seconds"])


def _theirs(model: str, folder: Path, device: str) -> float:
    import torch
    from compressai.utils.eval_model.__main__ import inference, inference_entropy_estimation, read_image
    from compressai.zoo.image import model_architectures
    from compressai.zoo.pretrained import load_pretrained

    torch.set_num_threads(1)
    state = load_pretrained(torch.load(folder / "weights.pth", weights_only=True))
    net = model_architectures[model].from_state_dict(state).eval().to(device)
    net.update(force=True)
    start = time.perf_counter()
    with torch.no_grad():
        for path in sorted((folder / "images").iterdir()):
            x = read_image(path).to(device)
            inference_entropy_estimation(net, x)
            inference(net, x)
    return time.perf_counter() - start


def _ours(model: str, folder: Path, device: str) -> float:
    from rdtrain.eval import cli, evaluate

    seconds = []
    program: Any = evaluate  # the module whose function the command calls
    work = program.evaluate

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        done = work(*arguments)
        seconds.append(time.perf_counter() - start)
        return done

    program.evaluate = timed
    words = [str(folder / "weights.pth"), "--model", model, "--dataset", "image_folder", "--device", device]
    if cli.main([*words, "--root", str(folder / "images"), "--out", str(folder)]):
        raise SystemExit("rdtrain-eval failed")
    return seconds[0]


def _main(settings: dict[str, str]) -> dict[str, float]:
    run = _theirs if settings["side"] == "theirs" else _ours
    return {"seconds": run(settings["model"], Path(settings["folder"]), settings["device"])}


if __name__ == "__main__":
    tell(_main(json.loads(sys.argv[1])))

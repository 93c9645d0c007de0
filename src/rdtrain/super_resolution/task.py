"""The super-resolution experiment, from a configuration to a finished run folder. Reads from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from rdtrain.config.check import section
from rdtrain.config.experiment import Machine
from rdtrain.conv.convert import to_plain
from rdtrain.engine import Engine, make_engine
from rdtrain.errors import UserError
from rdtrain.experiment import Record, engine_section, folder_of, run_experiment
from rdtrain.files import write_tensors
from rdtrain.kernels.forms import OnEpoch, Row, compare_forms, form_figure, make_adam, store_kernels
from rdtrain.metrics import psnr
from rdtrain.preflight import device_problems
from rdtrain.report.figures import save_png
from rdtrain.run_folder import RunFolder
from rdtrain.runners.super_resolution import SuperResolutionRunner
from rdtrain.super_resolution.data import Found, WholeImages, describe, find, make_loaders
from rdtrain.super_resolution.model import SCALE, SmallSuperResolution, bicubic, halved
from rdtrain.super_resolution.schema import LEAST_PATCH, Config, Data, Train


def problems(raw: dict[str, Any]) -> list[str]:
    """What is wrong with a configuration, as far as only torch and the data can tell.

    Args:
        raw: composed configuration as plain containers; sections that are wrong by themselves are left out.

    Returns:
        One sentence for every mistake.
    """
    machine, data, train = (section(kind, raw.get(name)) for kind, name in
                            ((Machine, "engine"), (Data, "data"), (Train, "train")))  # fmt: skip
    found = [] if machine is None else device_problems(engine_section(machine))
    if data is not None and data.name == "photos" and data.root is not None:
        found.append(f"data.root={data.root}: data.name=photos does not look there; type data.name=image_folder")
    try:
        return found if data is None or train is None else found + _size_problems(find(data), train)
    except UserError as error:
        return found + error.problems


def _size_problems(found: Found, train: Train) -> list[str]:
    if not found["train"] or not found["valid"]:
        return ["data.root: there are too few images to train on some and judge by others; type another data.root=DIR"]
    wrong = []
    smallest, narrowest = (min(min(info.height, info.width) for info in found[name]) for name in ("train", "valid"))
    if smallest < LEAST_PATCH:
        wrong.append(
            f"data.root: an image to train on has a side of {smallest}; it takes {LEAST_PATCH} at least; take it out"
        )
    elif train.patch_size > smallest:
        fitting = smallest // SCALE * SCALE
        wrong.append(f"train.patch_size={train.patch_size}: an image has a side of {smallest}; type {fitting}")
    if narrowest < SCALE:
        wrong.append(f"data.root: an image to judge by has a side of {narrowest}; take it out of the folder")
    return wrong


def planned(config: Config) -> tuple[Config, RunFolder]:
    """What is going to be run.

    Args:
        config: without mistakes.

    Returns:
        The configuration, which has nothing to be filled in, and its run folder, made or not.
    """
    return config, folder_of(config, _name(config), describe(find(config.data)))


def run(config: Config, overrides: Sequence[str] = ()) -> RunFolder:
    """Train and judge, or leave alone what is finished.

    Args:
        config: without mistakes.
        overrides: what the user typed, for the record.

    Returns:
        The run's folder.

    Raises:
        UserError: the data or the device is not there.
    """
    if mistakes := problems(config.to_dict()):
        raise UserError(mistakes)
    found = find(config.data)
    return run_experiment(config, _name(config), overrides, describe(found), partial(_work, config, found))


def _name(config: Config) -> str:
    return f"super-resolution-{config.data.name}-{config.conv.form}-seed{config.seed}"


def _work(config: Config, found: Found, record: Record, engine: Engine, writer: SummaryWriter) -> None:
    interpolated = bicubic_psnr(found)
    record.final["psnr/bicubic"] = interpolated

    def on_epoch(epoch: int, steps: int, means: Mapping[str, Row]) -> None:
        record.steps = steps
        for loader, values in means.items():
            record.log(writer, epoch, loader, values)
        gain = means["valid"]["psnr"] - interpolated
        print(f"epoch {epoch}: PSNR {means['valid']['psnr']:.3f} dB, {gain:+.3f} dB to bicubic", flush=True)
        record.final["psnr/network"] = means["valid"]["psnr"]

    model = train_network(config.conv.form, config.seed, config.train, found, engine, on_epoch)
    if config.conv.type == "spectral":
        to_plain(model)
    write_tensors(record.folder.exported, {name: value.cpu() for name, value in model.state_dict().items()})
    _compare_forms(config, found, interpolated, record)


@torch.no_grad()
def bicubic_psnr(found: Found) -> float:
    """What bicubic interpolation reaches.

    Args:
        found: the images.

    Returns:
        Mean PSNR of the images of `valid`, dB.
    """
    images = WholeImages(found["valid"])
    halves = ((x, halved(x)) for x in (images[i]["x"][None] for i in range(len(images))))
    errors = [(x - bicubic(half).clamp(0, 1)).square().mean() for x, half in halves]
    return float(psnr(torch.stack(errors)).mean())


def train_network(
    form: str, seed: int, train: Train, found: Found, engine: Engine, on_epoch: OnEpoch
) -> SmallSuperResolution:
    """Train a network with Adam.

    Args:
        form: how its kernels are stored, see `rdtrain.kernels.forms`.
        seed: of the initial function and the crops.
        train: `train.*`.
        found: the images.
        engine: a new one.
        on_epoch: see `MeasuringRunner`.

    Returns:
        The network in eval mode.
    """
    torch.manual_seed(seed)
    model = SmallSuperResolution()
    store_kernels(model, form)
    SuperResolutionRunner(on_epoch).train(
        engine=engine,
        model=model,
        optimizer=make_adam(model, form, train.lr),
        loaders=make_loaders(found, train, seed),
        seed=seed,
        num_epochs=train.epochs,
    )
    return model.eval()


def _compare_forms(config: Config, found: Found, interpolated: float, record: Record) -> None:
    def train(form: str, seed: int, on_epoch: OnEpoch) -> nn.Module:
        engine = make_engine(engine_section(config.engine))
        return train_network(form, seed, config.train, found, engine, on_epoch)

    if not config.compare.forms:
        return
    seeds = range(config.seed, config.seed + config.compare.seeds)
    rows = [with_gain(row, interpolated) for row in compare_forms(config.compare.forms, seeds, train)]
    record.table("forms", rows)
    title = f"{config.data.name}: images doubled by a network with kernels stored in other forms"
    labels = {"loss": "mean squared error on test images", "gain": "PSNR above bicubic [dB]"}
    save_png(form_figure(rows, title, labels), record.folder.figures / "forms.png")


def with_gain(row: Row, interpolated: float) -> dict[str, Any]:
    """Say how much better than interpolation a network is.

    Args:
        row: with `psnr`.
        interpolated: PSNR of the interpolation, dB.

    Returns:
        The same with `gain`, dB.
    """
    return {**row, "gain": row["psnr"] - interpolated}

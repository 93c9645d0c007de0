"""The experiment on JPEG coefficients, from a configuration to a finished run folder. Reads from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from rdtrain.conv.convert import to_plain
from rdtrain.engine import Engine, make_engine
from rdtrain.errors import UserError
from rdtrain.experiment import Record, engine_section, folder_of, run_experiment
from rdtrain.files import write_tensors
from rdtrain.jpeg import figures, measure
from rdtrain.jpeg.codec import Codec, table
from rdtrain.jpeg.convert import to_jpeg
from rdtrain.jpeg.data import Digits, load_digits, normalised
from rdtrain.jpeg.relu import BlockReLU, approximation_errors
from rdtrain.jpeg.schema import Config, Data
from rdtrain.jpeg.training import accuracy, logits_of, make_classifier, train_classifier
from rdtrain.kernels.forms import OnEpoch, Row, compare_forms, form_figure
from rdtrain.preflight import device_problems
from rdtrain.report.figures import save_png
from rdtrain.run_folder import RunFolder


def problems(raw: dict[str, Any]) -> list[str]:
    """What is wrong with a configuration, as far as only torch and the data can tell.

    Args:
        raw: composed configuration as plain containers; sections that are wrong by themselves are left out.

    Returns:
        One sentence for every mistake.
    """
    from pydantic import ValidationError

    from rdtrain.config.experiment import Machine

    found = []
    for kind, name, check in ((Machine, "engine", _device_problems), (Data, "data", _data_problems)):
        try:
            found += check(kind.model_validate(raw.get(name)))
        except ValidationError:
            continue
    return found


def _device_problems(machine: Any) -> list[str]:
    return device_problems(engine_section(machine))


def _data_problems(data: Any) -> list[str]:
    if data.name == "digits" and data.root is not None:
        return [f"data.root={data.root}: data.name=digits does not look there; type data.name=mnist"]
    try:
        load_digits(data.name, data.root, 0)
    except UserError as error:
        return error.problems
    return []


def planned(config: Config) -> tuple[Config, RunFolder]:
    """What is going to be run.

    Args:
        config: without mistakes.

    Returns:
        The configuration, which has nothing to be filled in, and its run folder, made or not.
    """
    return config, folder_of(config, _name(config), _digits(config).describe())


def run(config: Config, overrides: Sequence[str] = ()) -> RunFolder:
    """Train on pixels, convert, and measure; or leave alone what is finished.

    Args:
        config: without mistakes.
        overrides: what the user typed, for the record.

    Returns:
        The run's folder.

    Raises:
        UserError: the data or the device is not there.
    """
    if found := problems(config.to_dict()):
        raise UserError(found)
    digits = _digits(config)
    work = partial(_work, config, digits)
    return run_experiment(config, _name(config), overrides, digits.describe(), work)


def _digits(config: Config) -> Digits:
    return load_digits(config.data.name, config.data.root, config.seed)


def _name(config: Config) -> str:
    return f"jpeg-{config.data.name}-{config.conv.form}-seed{config.seed}"


def _work(config: Config, digits: Digits, record: Record, engine: Engine, writer: SummaryWriter) -> None:
    for note in digits.notes:
        record.warn(note)
    codec = Codec(table(config.jpeg.table))
    save_png(figures.image_figure(digits, codec, config.data.name), record.folder.figures / "images.png")
    codec.to(engine.device)
    model = _train(config, digits, record, engine, writer)
    write_tensors(record.folder.exported, {name: value.cpu() for name, value in model.state_dict().items()})
    _compare_with_pixels(config, digits, model, codec, record)
    _sweep_frequencies(config, digits, model, codec, record)
    if config.relu.blocks:
        rows = approximation_errors(config.relu.blocks, config.seed)
        record.table("approximation", rows)
        save_png(figures.approximation_figure(rows, config.relu.blocks), record.folder.figures / "approximation.png")
    _sweep_qualities(config, digits, model, codec, record)
    _measure_cost(config, digits, model, codec, record)
    _compare_forms(config, digits, record)


def _train(config: Config, digits: Digits, record: Record, engine: Engine, writer: SummaryWriter) -> nn.Module:
    model = make_classifier(config.seed, config.conv.form)
    untrained = accuracy(logits_of(model.eval(), normalised(digits.test[0])), digits.test[1])
    record.log(writer, 0, "valid", {"accuracy": untrained})
    record.final["accuracy/untrained"] = untrained

    def on_epoch(epoch: int, steps: int, means: Mapping[str, Row]) -> None:
        record.steps = steps
        for loader, values in means.items():
            record.log(writer, epoch, loader, values)
        print(
            f"epoch {epoch}: loss {means['train']['loss']:.4f}, accuracy {means['valid']['accuracy']:.4f}", flush=True
        )

    train_classifier(model, digits, config.train, config.seed, engine, on_epoch)
    if config.conv.type == "spectral":
        to_plain(model)
    return model


def _compare_with_pixels(config: Config, digits: Digits, model: nn.Module, codec: Codec, record: Record) -> None:
    x, labels = normalised(digits.all_images).to(codec.q.device), torch.cat([digits.train[1], digits.test[1]])
    on_pixels = logits_of(model, x)
    encoded, record.final["encode/seconds"] = measure.timed(codec.encode, x)
    on_coefficients = logits_of(to_jpeg(model, codec, mode=config.jpeg.mode), encoded)
    test = slice(len(digits.train[1]), None)
    record.final |= {f"exact/{name}": value for name, value in measure.agreement(on_coefficients, on_pixels).items()}
    record.final |= {
        "exact/images": len(x),
        "accuracy/pixels": accuracy(on_pixels[test], labels[test]),
        "accuracy/coefficients": accuracy(on_coefficients[test], labels[test]),
    }
    print(
        f"exact ReLU, all {len(x)} images: largest difference of a logit {record.final['exact/max_difference']:.2g}, "
        f"{record.final['exact/disagreeing']} images with another answer",
        flush=True,
    )


def _sweep_frequencies(config: Config, digits: Digits, model: nn.Module, codec: Codec, record: Record) -> None:
    images, labels = digits.test
    x = normalised(images).to(codec.q.device)
    coefficients, on_pixels = codec.encode(x), logits_of(model, x)
    rows: list[dict[str, Any]] = []

    def add(network: str, n_freqs: int, converted: nn.Module, reference: Tensor) -> None:
        logits = logits_of(converted, coefficients)
        agreement = measure.agreement(logits, reference)
        rows.append({"network": network, "n_freqs": n_freqs, "accuracy": accuracy(logits, labels), **agreement})

    for n_freqs in config.relu.converted:
        add("converted", n_freqs, to_jpeg(model, codec, n_freqs=n_freqs), on_pixels)
    for n_freqs in config.relu.retrained:
        relu: Callable[[], nn.Module] = partial(BlockReLU, n_freqs)
        trained = _retrained(config, digits, make_classifier(config.seed, config.conv.form, relu=relu))
        add("retrained", n_freqs, to_jpeg(trained, codec), logits_of(trained, x))
    if rows:
        record.table("n_freqs", rows)
        record.final |= {f"accuracy/{row['network']}/n_freqs_{row['n_freqs']}": row["accuracy"] for row in rows}
        save_png(figures.frequency_figure(rows, config.data.name), record.folder.figures / "n_freqs.png")


def _retrained(config: Config, digits: Digits, model: nn.Module) -> nn.Module:
    return train_classifier(model, digits, config.train, config.seed, make_engine(engine_section(config.engine)))


def _sweep_qualities(config: Config, digits: Digits, model: nn.Module, codec: Codec, record: Record) -> None:
    if not config.rounding.qualities:
        return
    images, labels = digits.test
    network, images = to_jpeg(model, codec), images.to(codec.q.device)
    rows = measure.quality_rows(network, codec, images, labels, config.rounding.table, config.rounding.qualities)
    record.table("quality", rows)
    record.final |= {f"accuracy/quality_{row['quality']}": float(row["accuracy"]) for row in rows}
    figure = figures.quality_figure(rows, config.data.name, record.final["accuracy/coefficients"])
    save_png(figure, record.folder.figures / "quality.png")


def _measure_cost(config: Config, digits: Digits, model: nn.Module, codec: Codec, record: Record) -> None:
    exploded = to_jpeg(model, codec, mode="exploded") if config.timing.exploded else None
    networks = {"pixels": model, "coefficients, fused": to_jpeg(model, codec), "coefficients, exploded": exploded}
    record.table("size", measure.size_rows({name: net for name, net in networks.items() if net is not None}))
    if not config.timing.batch_size:
        return
    x = normalised(digits.test[0][: config.timing.batch_size]).to(codec.q.device)
    rows = measure.timing_rows(model, codec, x, config.timing.repeats, exploded)
    record.table("timing", rows)
    for row in rows:
        if str(row["way"]).startswith("coefficients") and float(row["of_pixels"]) < 1:
            record.warn(f"{row['task']} on {row['way']}: {row['of_pixels']:.2g} of the images a second on pixels")
    save_png(figures.timing_figure(rows, str(codec.q.device)), record.folder.figures / "timing.png")


def _compare_forms(config: Config, digits: Digits, record: Record) -> None:
    def train(form: str, seed: int, on_epoch: OnEpoch) -> None:
        engine = make_engine(engine_section(config.engine))
        train_classifier(make_classifier(seed, form), digits, config.train, seed, engine, on_epoch, form)

    if config.compare.forms:
        rows = compare_forms(config.compare.forms, range(config.seed, config.seed + config.compare.seeds), train)
        record.table("forms", rows)
        title = f"{config.data.name}: the same classifier with kernels stored in other forms"
        labels = {quantity: f"{quantity} on test images" for quantity in ("loss", "accuracy")}
        save_png(form_figure(rows, title, labels), record.folder.figures / "forms.png")

"""The experiment on factorised kernels, from a configuration to a finished run folder. Reads from top to bottom."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from rdtrain.config.check import section
from rdtrain.config.experiment import Machine
from rdtrain.data.scan import fingerprint
from rdtrain.engine import Engine
from rdtrain.errors import UserError
from rdtrain.eval.images import TestImage, find_test_images, read_image
from rdtrain.eval.models import Subject, check_name, identity, load_subject
from rdtrain.evaluation import evaluate_image, mean_row
from rdtrain.experiment import Record, engine_section, folder_of, run_experiment
from rdtrain.factorisation import chain, figures, targets
from rdtrain.factorisation.descent import Descent, Setting, descend
from rdtrain.factorisation.latency import latency_rows
from rdtrain.factorisation.network import replace_convs, replaceable
from rdtrain.factorisation.schema import Case, Config, Model, Search
from rdtrain.factorisation.toy import diverging_share
from rdtrain.losses import RateDistortionLoss
from rdtrain.preflight import device_problems
from rdtrain.report.figures import save_png
from rdtrain.run_folder import RunFolder

_LARGEST = targets.CANVAS - 1
_MAPS = {"map": ("lmbda", "lr"), "map-penalties": ("lambda1", "lambda2")}  # settings that are varied together
_UNKNOWN = RateDistortionLoss(0.01)  # of a stock model, whose loss is not reported


def problems(raw: dict[str, Any]) -> list[str]:
    """What is wrong with a configuration, as far as only torch and the files can tell.

    Args:
        raw: composed configuration as plain containers; sections that are wrong by themselves are left out.

    Returns:
        One sentence for every mistake.
    """
    found = _nothing_to_do(raw)
    for name, node in (raw.get("cases") or {}).items():
        if (case := section(Case, node)) is not None:
            found += _case_problems(name, case)
    if (machine := section(Machine, raw.get("engine"))) is not None:
        found += device_problems(engine_section(machine))
    if (model := section(Model, raw.get("model"))) is not None and model.checkpoint is not None:
        found += _told(lambda: _check_layers(model))
        found += _told(lambda: _images(model))
    mapped = (raw.get("map") or {}).get("case")
    if mapped is not None and (raw.get("cases") or {}).get(mapped) is None:
        found.append(f"map.case={mapped}: there is no such case; type one of {', '.join(raw.get('cases') or ())}")
    return found


def _nothing_to_do(raw: dict[str, Any]) -> list[str]:
    keys = (("model", "checkpoint"), ("latency", "channels"), ("toy", "starts"))
    if raw.get("cases") or any((raw.get(section) or {}).get(key) for section, key in keys):
        return []
    return ["there is nothing to factorise: type model.checkpoint=RUN, or experiment=factorisation/filters"]


def _told(work: Any) -> list[str]:
    try:
        work()
    except UserError as error:
        return error.problems
    return []


def _case_problems(name: str, case: Case) -> list[str]:
    if case.k % 2 == 0 or chain.support(case.n, case.k) > _LARGEST:
        return [f"cases.{name}: {case.n} kernels of side {case.k}; the side must be odd and the chain reach at most 15"]
    if (case.target == "file") != (case.file is not None):
        return [f"cases.{name}: target=file and file=PATH belong together; type both or neither"]
    return _told(lambda: _canvas(name, case))


def planned(config: Config) -> tuple[Config, RunFolder]:
    """What is going to be run.

    Args:
        config: without mistakes.

    Returns:
        The configuration, which has nothing to be filled in, and its run folder, made or not.
    """
    return config, folder_of(config, _name(config), what_is_read(config))


def run(config: Config, overrides: Sequence[str] = ()) -> RunFolder:
    """Factorise, or leave alone what is finished.

    Args:
        config: without mistakes.
        overrides: what the user typed, for the record.

    Returns:
        The run's folder.

    Raises:
        UserError: a file is wrong.
    """
    if found := problems(config.to_dict()):
        raise UserError(found)
    return run_experiment(config, _name(config), overrides, what_is_read(config), partial(_work, config))


def what_is_read(config: Config) -> dict[str, Any]:
    """What an experiment takes from files.

    Args:
        config: without mistakes.

    Returns:
        Fingerprints of the filters that cases read, of the trained model and of the images that it is judged by.
    """
    files = {name: case.file for name, case in config.cases.items() if case is not None and case.file is not None}
    kernels = {name: targets.read_kernel(file, _file_key(name)) for name, file in files.items()}
    found: dict[str, Any] = {name: hashlib.sha256(kernel.tobytes()).hexdigest() for name, kernel in kernels.items()}
    if config.model.checkpoint is not None:
        found["model"] = identity(_subject(config.model).model).weights
        found["images"] = fingerprint(_images(config.model))
    return found


def _name(config: Config) -> str:
    return f"factorisation-{'filters' if config.model.checkpoint is None else 'model'}-seed{config.seed}"


def _work(config: Config, record: Record, engine: Engine, writer: SummaryWriter) -> None:
    cases = {name: case for name, case in config.cases.items() if case is not None}
    if cases:
        _save(record, "targets", figures.target_figure())
        _solve(config, cases, record, writer)
    if config.map.case is not None:
        _map(config, config.map.case, record)
    _time(config, engine.device, record)
    if config.toy.starts:
        share = diverging_share(config.toy.starts, deviation=10.0, lr=1e-2, steps=20, seed=config.seed)
        record.final["toy/diverging_share"] = share
        print(f"(x y - 20)^2 + 0.1 (|x| + |y|): {share:.1%} of {config.toy.starts} starts diverge", flush=True)
    if config.model.checkpoint is not None:
        _replace(config, record)


def _save(record: Record, name: str, figure: Figure) -> None:
    save_png(figure, record.folder.figures / f"{name}.png")


def _file_key(name: str) -> str:
    return f"cases.{name}.file"


def _canvas(name: str, case: Case) -> targets.Array:
    kernel = targets.wavelet(case.target) if case.file is None else targets.read_kernel(case.file, _file_key(name))
    return targets.normalised(targets.on_canvas(kernel))


def _setting(search: Search, seed: int) -> Setting:
    return Setting(**search.model_dump(), seed=seed)


def _solve(config: Config, cases: dict[str, Case], record: Record, writer: SummaryWriter) -> None:
    rows: list[dict[str, Any]] = []
    for name, case in cases.items():
        y = torch.from_numpy(_canvas(name, case))
        found = descend(y, case.n, case.k, _setting(case.search(config.sgd), config.seed))
        _log_trace(record, writer, name, found)
        exact = _least_squares(config, case, y)
        solved = {"sgd": found.w, "als": exact}
        own = {solver: _row(name, case, solver, w, y, found, config) for solver, w in solved.items()}
        rows += own.values()
        views = {
            s: (chain.composed(w[None], len(y))[0].numpy(), float(chain.mse(w[None], y))) for s, w in solved.items()
        }
        _save(record, f"case-{name}", figures.case_figure(name, y.numpy(), views))
    record.table("cases", rows)
    record.final |= {f"{row['case']}/{row['solver']}/mse": row["mse"] for row in rows}


def _log_trace(record: Record, writer: SummaryWriter, name: str, found: Descent) -> None:
    record.steps += found.steps
    for step, value in enumerate(found.trace):
        writer.add_scalar(f"objective/{name}", value, step)
    record.log(writer, 1, name, {"mse": found.mse, "diverged": found.diverged})


def _least_squares(config: Config, case: Case, y: Tensor) -> Tensor:
    starts = chain.random_chains(config.als.restarts, case.n, case.k, config.seed)
    w = chain.alternating_least_squares(starts, y, config.als.iterations)
    return w[chain.mse(w, y).argmin()]


def _row(name: str, case: Case, solver: str, w: Tensor, y: Tensor, found: Descent, config: Config) -> dict[str, Any]:
    reach = chain.support(case.n, case.k)
    return {
        "case": name,
        "solver": solver,
        "kernels": f"{case.n}x {case.k}x{case.k}",
        "mse": float(chain.mse(w[None], y)),
        "floor": targets.floor(y.numpy(), reach),
        "diverged": found.diverged if solver == "sgd" else 0,
        "restarts": case.search(config.sgd).restarts if solver == "sgd" else config.als.restarts,
        "multiply_adds": chain.multiply_adds(case.n, case.k),
        "direct": reach**2,
    }


def _map(config: Config, name: str, record: Record) -> None:
    case = config.cases[name]
    assert case is not None  # `problems` has told
    y = torch.from_numpy(_canvas(name, case))
    maps: dict[str, list[dict[str, Any]]] = {}
    for kind, keys in _MAPS.items():
        for pair in itertools.product(*(getattr(config.map, key) for key in keys)):
            search = case.search(config.sgd).model_copy(update=dict(zip(keys, pair, strict=True)))
            found = descend(y, case.n, case.k, _setting(search, config.seed))
            row = {key: getattr(search, key) for key in ("lmbda", "lr", "lambda1", "lambda2")}
            row |= {"diverged_share": found.diverged / search.restarts, "mse": found.mse}
            maps.setdefault(kind, []).append(row)
    for kind, rows in maps.items():
        record.table(kind, rows)
        _save(record, kind, figures.map_figure(rows, name, _MAPS[kind]))


def _time(config: Config, device: torch.device, record: Record) -> None:
    rows = [
        row
        for channels in config.latency.channels
        for row in latency_rows(channels, config.latency.size, config.latency.repeats, device)
    ]
    if not rows:
        return
    record.table("latency", rows)
    _save(record, "latency", figures.latency_figure(rows, config.latency.size, str(device)))
    for row in rows:
        if row["of_direct"] > 1:
            record.warn(
                f"{row['convolutions']} with {row['channels']} channels is slower on {device} than one "
                f"{row['reach']}x{row['reach']} convolution: {row['of_direct']:.2f} of its time"
            )


def _subject(model: Model) -> Subject:
    subject = load_subject(Path(str(model.checkpoint)), model.name, "model.name=")
    check_name(subject, model.name, "model.name=")
    return subject


def _check_layers(model: Model) -> None:
    network = _subject(model).model
    if not (names := replaceable(network, [], model.smallest)):
        raise UserError(f"model.smallest={model.smallest}: this model has no convolution that could become two")
    if idle := [pattern for pattern in model.layers if not replaceable(network, [pattern], model.smallest)]:
        raise UserError(f"model.layers: {', '.join(idle)} matches none of {', '.join(names)}; type some of those")


def _images(model: Model) -> list[TestImage]:
    root = None if model.root is None else Path(model.root)
    return find_test_images(model.dataset, root, model.max_images, ("model.dataset", "model.root"))


def _replace(config: Config, record: Record) -> None:
    chosen = config.model
    subject = _subject(chosen)
    images = _images(chosen)
    rows: list[dict[str, Any]] = [{"cost": 0.0, "worst_error": 0.0, **_judged(subject, subject.model, images)}]
    layers: list[dict[str, Any]] = []
    for wanted in chosen.costs:
        model = copy.deepcopy(subject.model)
        replaced = replace_convs(model, chosen.layers, chosen.smallest, wanted, chosen.iterations, config.seed)
        layers += [{"wanted_cost": wanted, **vars(one)} for one in replaced]
        cost = sum(one.multiply_adds for one in replaced) / sum(one.direct for one in replaced)
        worst = max(one.error for one in replaced)
        rows.append({"cost": cost, "worst_error": worst, **_judged(subject, model, images)})
    record.table("layers", layers)
    record.table("model", rows)
    record.final |= {f"model/{row['cost']:.3f}/{key}": row[key] for row in rows for key in ("bpp", "psnr", "loss")}
    _save(record, "model", figures.rate_figure(rows, subject.name))


def _judged(subject: Subject, model: nn.Module, images: Sequence[TestImage]) -> dict[str, float]:
    criterion = subject.criterion or _UNKNOWN
    means = mean_row([evaluate_image(model, read_image(image, torch.device("cpu")), criterion) for image in images])
    loss = means["loss/real/clamped"] if subject.criterion is not None else float("nan")
    return {"bpp": means["bpp/real"], "psnr": means["psnr/real/clamped"], "loss": loss}

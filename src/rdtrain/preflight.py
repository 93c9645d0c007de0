"""The checks that need torch and compressai; made before anything is created."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from rdtrain.config import schema
from rdtrain.config.targets import make, optimization_problems, target_problems
from rdtrain.conv.moments import unknown_state
from rdtrain.quiet import silence_libraries


def problems(raw: dict[str, Any]) -> list[str]:
    """Everything that is wrong with the sections that are right by themselves.

    Args:
        raw: composed configuration as plain containers, of which some sections may be wrong.

    Returns:
        One sentence for every mistake.
    """
    silence_libraries()
    from rdtrain.models import model_problems

    found: list[str] = []
    if (model := _section(schema.Model, raw, "model")) is not None and isinstance(raw.get("hp"), dict):
        found += model_problems(model.name, model.quality, raw["hp"])
        if model.checkpoint is not None and not Path(model.checkpoint).is_file():
            found.append(f"model.checkpoint={model.checkpoint}: there is no such file")
    optimizer, scheduler = _section(schema.Optimizer, raw, "optimizer"), _section(schema.Scheduler, raw, "scheduler")
    if optimizer is not None and scheduler is not None:
        found += optimization_problems(
            {"net": optimizer.net, "aux": optimizer.aux}, {"net": scheduler.net, "aux": scheduler.aux}
        )
        conv = _section(schema.Conv, raw, "conv")
        if not found and conv is not None and conv.type == "spectral" and conv.switch.trigger != "never":
            found += _moments_problems(optimizer.net, conv.switch.moments)
    for group in ("callbacks", "logger"):
        for name, node in (raw.get(group) or {}).items():
            if node is not None:
                found += target_problems(f"{group}.{name}", node, dry_run=False)
    if (engine := _section(schema.Engine, raw, "engine")) is not None:
        found += device_problems(engine)
    infer, runner = _section(schema.Infer, raw, "infer"), _section(schema.Runner, raw, "runner")
    if infer is not None and runner is not None and infer.real == "best" and runner.monitor.startswith("infer/"):
        found.append(
            f"infer.real=best: the best epoch is not known before infer with runner.monitor={runner.monitor}; "
            "type infer.real=always, or a monitor of valid"
        )
    return found


def _moments_problems(node: dict[str, Any], moments: str) -> list[str]:
    # One step of the optimizer on a parameter of its own shows what it would have to take along at the switch.
    parameter = torch.nn.Parameter(torch.zeros(1, 1))
    optimizer = make(node, [parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    name = type(optimizer).__name__
    if moments == "shadow" and "betas" not in optimizer.defaults:
        return [f"conv.switch.moments=shadow follows Adam's second moment, which {name} lacks: type moments=transfer"]
    unknown = unknown_state(optimizer.state[parameter])
    if moments != "reset" and unknown:
        return [
            f"optimizer.net: {name} remembers {', '.join(unknown)}, which cannot go along when convs become plain; "
            "type conv.switch.moments=reset, or conv.switch.trigger=never, or an optimizer of the Adam family or SGD"
        ]
    return []


def device_problems(engine: schema.Engine) -> list[str]:
    """Whether the machine has what is asked for.

    Args:
        engine: `engine.*`.

    Returns:
        One sentence for every mistake.
    """
    if engine.device == "cuda" and not torch.cuda.is_available():
        return ["engine.device=cuda: torch sees no cuda device; type engine.device=cpu"]
    if engine.distributed and "WORLD_SIZE" not in os.environ:
        return ["engine=ddp needs torchrun: type torchrun --nproc-per-node N -m rdtrain engine=ddp ..."]
    if not engine.distributed and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return ["started by torchrun as one of several processes: type engine=ddp"]
    return []


def _section(kind: type[Any], raw: dict[str, Any], name: str) -> Any:
    try:
        return kind.model_validate(raw.get(name))
    except ValidationError:
        return None

"""The checks that need torch and compressai; made before anything is created."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from rdtrain.config import schema
from rdtrain.config.targets import optimization_problems, target_problems
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
        found += optimization_problems(optimizer.model_dump(), {"net": scheduler.net, "aux": scheduler.aux})
    for group in ("callbacks", "logger"):
        for name, node in (raw.get(group) or {}).items():
            if node is not None:
                found += target_problems(f"{group}.{name}", node, dry_run=False)
    if (engine := _section(schema.Engine, raw, "engine")) is not None:
        found += device_problems(engine)
    return found


def device_problems(engine: schema.Engine) -> list[str]:
    """Whether the machine has what is asked for.

    Args:
        engine: `engine.*`.

    Returns:
        One sentence for every mistake.
    """
    if engine.device == "cuda" and not torch.cuda.is_available():
        return ["engine.device=cuda: torch sees no cuda device; type engine.device=cpu"]
    return []


def _section(kind: type[Any], raw: dict[str, Any], name: str) -> Any:
    try:
        return kind.model_validate(raw.get(name))
    except ValidationError:
        return None

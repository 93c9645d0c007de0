"""The checks that need torch and compressai; made before anything is created."""

from __future__ import annotations

import os
from typing import Any

import torch

from rdtrain.coding.rans import has_numba
from rdtrain.config import schema
from rdtrain.config.check import section
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
    found = [*_model_problems(raw), *_training_problems(raw)]
    for name, node in _nodes(raw, "logger").items():
        ours = str(node.get("_target_")).startswith("rdtrain.")  # which nobody notices to be made
        found += target_problems(f"logger.{name}", node, dry_run=ours)
    if (engine := section(schema.Engine, raw.get("engine"))) is not None:
        found += device_problems(engine)
    infer, runner = section(schema.Infer, raw.get("infer")), section(schema.Runner, raw.get("runner"))
    if infer is not None and runner is not None and infer.real == "best" and runner.monitor.startswith("infer/"):
        found.append(
            f"infer.real=best: the best epoch is not known before infer with runner.monitor={runner.monitor}; "
            "type infer.real=always, or a monitor of valid"
        )
    return found


def _nodes(raw: dict[str, Any], section: str) -> dict[str, dict[str, Any]]:
    # What is neither a node nor null is the schema's to tell.
    nodes = raw.get(section)
    return {name: node for name, node in nodes.items() if isinstance(node, dict)} if isinstance(nodes, dict) else {}


def _model_problems(raw: dict[str, Any]) -> list[str]:
    from rdtrain.models import model_problems

    model = section(schema.Model, raw.get("model"))
    if model is None or not isinstance(raw.get("hp"), dict):
        return []
    found = model_problems(model.name, model.quality, raw["hp"])
    if model.checkpoint is not None and not os.path.isfile(model.checkpoint):  # Path.is_file raises for long names
        found.append(f"model.checkpoint={model.checkpoint}: there is no such file")
    if model.coder == "numba" and not has_numba():
        found.append(
            "model.coder=numba: numba is not installed, or does not fit this NumPy; "
            "type model.coder=auto, or pip install '.[fast]' in rdtrain's folder"
        )
    return found


def _training_problems(raw: dict[str, Any]) -> list[str]:
    from rdtrain.rehearsal import rehearse

    callbacks = _nodes(raw, "callbacks")
    found: list[str] = []
    for name, node in callbacks.items():
        found += target_problems(f"callbacks.{name}", node, dry_run=False)
    optimizer, scheduler = (
        section(schema.Optimizer, raw.get("optimizer")),
        section(schema.Scheduler, raw.get("scheduler")),
    )
    if optimizer is None or scheduler is None:
        return found
    found += optimization_problems(
        {"net": optimizer.net, "aux": optimizer.aux}, {"net": scheduler.net, "aux": scheduler.aux}
    )
    conv = section(schema.Conv, raw.get("conv"))
    switches = conv is not None and conv.type == "spectral" and conv.switch.trigger != "never"
    return found or rehearse(optimizer, scheduler, conv.switch if switches else None, callbacks.values())


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

"""Device, precision and Catalyst engine, chosen by the configuration and never by guess.

Catalyst 22.4's own choice (`get_available_engine`) passes `fp16=` to accelerate, which refuses it on every CUDA
machine, and its DDP engine leaves the parent process with an untrained model; processes are started by torchrun.
"""

from __future__ import annotations

import contextlib
from typing import Any, TypeAlias

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from catalyst.engines.torch import CPUEngine, GPUEngine

from rdtrain.allocator import keep_memory
from rdtrain.config import schema

Engine: TypeAlias = CPUEngine | GPUEngine


def choose_device(name: str) -> torch.device:
    """Turn `engine.device` into a device.

    Args:
        name: `auto`, `cpu` or `cuda`.

    Returns:
        The device; `auto` is cuda where there is one.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_engine(engine: schema.Engine) -> Engine:
    """Make the Catalyst engine, and set up this process for it.

    Args:
        engine: `engine.*`.

    Returns:
        An accelerate `Accelerator`; under torchrun it is one of several processes.
    """
    if engine.malloc == "tuned":
        keep_memory()
    if engine.threads is not None:
        torch.set_num_threads(engine.threads)
    torch.use_deterministic_algorithms(engine.deterministic, warn_only=True)
    if not engine.distributed:
        AcceleratorState._reset_state(True)  # a process may run several configurations one after another
    kind = CPUEngine if choose_device(engine.device).type == "cpu" else GPUEngine
    return kind(dataloader_config=DataLoaderConfiguration(non_blocking=True))


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context of a forward pass.

    Args:
        device: that computes.
        precision: `fp32` or `bf16`.

    Returns:
        A context manager.
    """
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()

"""Device, precision and Catalyst engine, chosen by the configuration and never by guess.

Catalyst 22.4's own choice (`get_available_engine`) passes `fp16=` to accelerate, which refuses it on every CUDA
machine, and its DDP engine leaves the parent process with an untrained model; processes are started by torchrun.
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any, TypeAlias

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from catalyst.engines.torch import CPUEngine, GPUEngine
from compressai.entropy_models import EntropyModel
from torch import Tensor, nn

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
    """Make the Catalyst engine.

    Args:
        engine: `engine.*`.

    Returns:
        An accelerate `Accelerator`; under torchrun it is one of several processes.
    """
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


class _InFloat32:
    """Mixed into a module's class: its forward pass leaves an autocast region.

    Hooks around the forward pass would do the same, but torch.compile cannot carry a context from one to the other.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        device = next((value.device.type for value in args if isinstance(value, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return super().forward(  # type: ignore[misc]  # of the class that this one is mixed into
                *(_float32(value) for value in args), **{name: _float32(value) for name, value in kwargs.items()}
            )


@cache
def _in_float32(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (_InFloat32, kind), {})


def keep_entropy_models_in_float32(model: nn.Module) -> list[str]:
    """Take the entropy models out of bf16 autocast.

    In bf16 the estimated rate is off by up to 0.7 % for wide latents, because sums of nearby logits are rounded.

    Args:
        model: changed in place; a deep copy keeps the change.

    Returns:
        Names of the entropy models.
    """
    names = []
    for name, module in model.named_modules():
        if isinstance(module, EntropyModel):
            module.__class__ = _in_float32(type(module))  # type: ignore[arg-type]  # a class is hashable
            names.append(name)
    return names


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value

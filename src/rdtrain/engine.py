"""Device, precision and Catalyst engine, chosen by the configuration and never by guess.

Catalyst 22.4's own choice (`get_available_engine`) passes `fp16=` to accelerate, which refuses it on every CUDA
machine, and its DDP engine leaves the parent process with an untrained model; processes are started by torchrun.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from catalyst.engines.torch import CPUEngine, GPUEngine
from compressai.entropy_models import EntropyModel
from torch import Tensor, nn

from rdtrain.config import schema

Engine = CPUEngine | GPUEngine


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


class _Float32Island:
    """Hooks that run one module in float32 inside an autocast region."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        device = next((value.device.type for value in args if isinstance(value, Tensor)), "cpu")
        context = torch.autocast(device, enabled=False)
        context.__enter__()
        self._open.append(context)
        return tuple(_float32(value) for value in args), {name: _float32(value) for name, value in kwargs.items()}

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._open.pop().__exit__(None, None, None)


def keep_entropy_models_in_float32(model: nn.Module) -> list[str]:
    """Take the entropy models out of bf16 autocast.

    In bf16 the estimated rate is off by up to 0.7 % for wide latents, because sums of nearby logits are rounded.

    Args:
        model: changed in place by hooks, which a deep copy keeps.

    Returns:
        Names of the entropy models.
    """
    names = []
    for name, module in model.named_modules():
        if isinstance(module, EntropyModel):
            island = _Float32Island()
            module.register_forward_pre_hook(island.enter, with_kwargs=True)
            module.register_forward_hook(island.leave, always_call=True)
            names.append(name)
    return names


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value

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
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from torch import Tensor, nn

from rdtrain.allocator import keep_memory
from rdtrain.config import schema
from rdtrain.entropy.classes import mix_in

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
            mix_in(_InFloat32, module)
            names.append(name)
    return names


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


class _Mended(EntropyBottleneck):
    """Behind the class of an entropy bottleneck: CompressAI 1.2.8's methods without what slows training down.

    It permutes by tensors of axes. Each axis is a number that the host waits for on a GPU, and that torch.compile
    cannot know, so that it breaks the graph (CompressAI's pull request 344). And both ends of a likelihood's interval
    go through the network of the density one after the other.
    """

    def forward(self, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        mode = "noise" if (self.training if training is None else training) else "dequantize"
        by_channel = x.transpose(0, 1).contiguous()  # (C, B, ...)
        values = self.quantize(by_channel.reshape(len(by_channel), 1, -1), mode, self._get_medians())
        likelihood, _, _ = self._likelihood(values)
        if self.use_likelihood_bound:
            likelihood = self.likelihood_lower_bound(likelihood)
        x_hat, likelihood = (
            value.reshape(by_channel.shape).transpose(0, 1).contiguous() for value in (values, likelihood)
        )
        return x_hat, likelihood

    def _likelihood(self, inputs: Tensor, stop_gradient: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        if not torch.is_grad_enabled():  # evaluations and coder tables keep CompressAI's bits
            return super()._likelihood(inputs, stop_gradient)
        ends = torch.cat((inputs - 0.5, inputs + 0.5), -1)
        lower, upper = self._logits_cumulative(ends, stop_gradient).chunk(2, -1)
        return torch.sigmoid(upper) - torch.sigmoid(lower), lower, upper


def mend_bottlenecks(model: nn.Module) -> list[str]:
    """Let torch.compile make one graph of a model, and no entropy bottleneck wait for the GPU.

    Without gradients the numbers are CompressAI's to the last bit, with them to float32's rounding.

    Args:
        model: changed in place; a deep copy keeps the change, a state dict knows nothing of it.

    Returns:
        Names of the entropy bottlenecks.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, EntropyBottleneck)}
    for module in found.values():
        if not isinstance(module, _Mended):
            module.__class__ = _mended(type(module))  # type: ignore[arg-type]  # a class is hashable
    return list(found)


@cache
def _mended(kind: type[nn.Module]) -> type[nn.Module]:
    # What a class does itself, or another change of it, comes first.
    return _Mended if kind is EntropyBottleneck else type(kind.__name__, (kind, _Mended), {})

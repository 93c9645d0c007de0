"""Small models and images for tests of the ledger."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import torch
from compressai.models import CompressionModel
from compressai.optimizers import net_aux_optimizer
from compressai.registry import MODELS
from torch import Tensor, nn

from rdtrain.losses import RateDistortionLoss

LAMBDA = 0.013
CRITERION = RateDistortionLoss(LAMBDA)
TRAINED = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean")


def image_model_names() -> list[str]:
    return [name for name, model in MODELS.items() if not model.__module__.startswith(NOT_IMAGES)]


NOT_IMAGES = ("compressai.models.video", "compressai.models.pointcloud")


def tiny_model(name: str, seed: int = 0) -> CompressionModel:
    torch.manual_seed(seed)
    if name.startswith("cheng2020"):
        return MODELS[name](N=12)
    if name.startswith("elic2022"):
        return MODELS[name](N=8, M=12, groups=[2, 2, 8])
    return MODELS[name](N=8, M=12)


def spread_latents(model: CompressionModel, gain: float) -> None:
    """Make an untrained model's latents larger than its rounding."""
    convs = [module for module in model.g_a.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        convs[-1].weight.mul_(gain)


def images(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images with a natural spectrum (1/f), mostly grey-scale, many of whose pixels are black or white."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    spectrum = np.fft.fft2(generator.standard_normal((n, 3, height, width))) / np.maximum(
        frequency, 1 / max(height, width)
    )
    pink = np.fft.ifft2(spectrum).real
    pink = pink / pink.std(axis=(2, 3), keepdims=True)
    colour = 0.2 * pink + pink[:, :1]
    return torch.from_numpy(np.clip(0.5 + 0.4 * colour, 0, 1).astype(np.float32))


@functools.cache
def trained_model(name: str, steps: int = 60) -> CompressionModel:
    """Train for about a second, which is enough for latents that are not all zero; the aux loss is not trained."""
    model = tiny_model(name).train()
    spread_latents(model, 8)
    optimizer = net_aux_optimizer(model, {"net": {"type": "Adam", "lr": 3e-3}, "aux": {"type": "Adam", "lr": 1e-3}})
    x = images(4, 64, 64)
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer["net"].zero_grad()
        CRITERION(model(x), x)["loss"].backward()
        optimizer["net"].step()
    with torch.no_grad():
        model.g_s[-1].weight.mul_(3)  # reconstructions leave [0, 1] in places
    return model


def fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name}{value.shape}{value.dtype}{value.requires_grad}".encode())
        digest.update(value.detach().numpy().tobytes())
        digest.update(b"" if value.grad is None else value.grad.numpy().tobytes())
    return digest.hexdigest() + str([(name, module.training) for name, module in model.named_modules()])


def without_times(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}

"""How spectral convolutions train: against CompressAI's layer, and against numpy for the plain weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compressai.layers import SpectralConv2d as PeerConv
from compressai.layers import SpectralConvTranspose2d as PeerTranspose
from conv_oracles import FULL_RANK, SIZES, doubling
from torch import nn

from rdtrain.conv.convert import to_spectral
from rdtrain.conv.layers import SpectralConv2d, SpectralConvTranspose2d
from rdtrain.conv.transforms import Attenuated, Rdft, Rfft

Conv, Transpose = Callable[..., nn.Module], Callable[..., nn.Module]


def analysis_synthesis(conv: Conv, transpose: Transpose, **options: Any) -> nn.Sequential:
    """A small autoencoder of the shapes of a compression model: strides, even and odd kernels, groups."""
    torch.manual_seed(1)
    return nn.Sequential(
        conv(3, 8, 5, stride=2, padding=2, **options),
        nn.LeakyReLU(),
        conv(8, 8, (3, 4), stride=2, padding=1, groups=2, **options),
        nn.LeakyReLU(),
        transpose(8, 8, 4, stride=2, padding=1, **options),
        nn.LeakyReLU(),
        transpose(8, 3, 5, stride=2, padding=2, output_padding=1, **options),
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, dtype: torch.dtype = torch.float32) -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        x = torch.rand(2, 3, 16, 16, generator=generator, dtype=torch.float64).to(dtype)
        optimizer.zero_grad()
        y = model(x)
        (y - x[..., : y.shape[-2], : y.shape[-1]]).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW], ids=lambda o: o.__name__)
def test_fifty_adam_steps_are_compressais(optimizer: type[torch.optim.Optimizer]) -> None:
    peer = analysis_synthesis(PeerConv, PeerTranspose)
    ours = analysis_synthesis(SpectralConv2d, SpectralConvTranspose2d)
    start = [layer.weight.detach().clone() for layer in ours[::2]]
    for model in (peer, ours):
        train(model, optimizer(model.parameters(), lr=1e-3), steps=50)
    for theirs, layer, before in zip(peer[::2], ours[::2], start, strict=True):
        torch.testing.assert_close(layer.weight, theirs.weight, rtol=0, atol=1e-5)
        torch.testing.assert_close(layer.bias, theirs.bias, rtol=0, atol=1e-5)
        assert (layer.weight - before).abs().max() > 0.01  # it did train


@pytest.mark.parametrize(("k", "ratio"), [(3, 1.3744), (5, 1.4000), (11, 1.4113)])
def test_adams_first_step_is_longer_by_the_known_ratio(k: int, ratio: float) -> None:
    lengths = {}
    for name in ("plain", "rfft", "rdft"):
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Conv2d(2, 3, k, bias=False, dtype=torch.float64))
        if name != "plain":
            to_spectral(model, Rfft() if name == "rfft" else Rdft())
        before = model[0].weight.detach().clone()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-30)
        (model[0].weight * torch.randn(3, 2, k, k, dtype=torch.float64)).sum().backward()
        optimizer.step()
        lengths[name] = (model[0].weight - before).flatten(2).norm(dim=-1).detach().numpy()
    np.testing.assert_allclose(lengths["plain"], 1e-3 * k, rtol=1e-9)
    np.testing.assert_allclose(lengths["rdft"], 1e-3 * k, rtol=1e-9)
    np.testing.assert_allclose(lengths["rfft"] / lengths["plain"], np.sqrt((2 * k * k - 1) / k**2), rtol=1e-8)
    assert (lengths["rfft"] / lengths["plain"]).mean() == pytest.approx(ratio, abs=5e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_does_not_notice_an_orthonormal_basis(momentum: float) -> None:
    models = [analysis_synthesis(nn.Conv2d, nn.ConvTranspose2d, dtype=torch.float64) for _ in range(2)]
    to_spectral(models[1], Rdft())
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=1e-3)
        norms = []
        optimizer.register_step_pre_hook(lambda o, *_, n=norms: n.append(clipped_norm(o)))
        train(model, optimizer, 30, torch.float64)
        model.norms = norms
    for plain, spectral in zip(models[0][::2], models[1][::2], strict=True):
        torch.testing.assert_close(spectral.weight, plain.weight, rtol=0, atol=1e-12)
    np.testing.assert_allclose(models[0].norms, models[1].norms, rtol=1e-10)


def clipped_norm(optimizer: torch.optim.Optimizer) -> float:
    return nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.05).item()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("floor", [None, 0.3])
def test_sgd_on_the_half_spectrum_is_preconditioned_sgd(size: tuple[int, int], floor: float | None) -> None:
    torch.manual_seed(2)
    transform = Rfft() if floor is None else Attenuated(floor)
    layer: Any = SpectralConv2d(2, 3, size, bias=False, dtype=torch.float64, transform=transform)
    target = torch.randn(3, 2, *size, dtype=torch.float64)
    w, lr = layer.weight.detach().numpy().copy(), 0.05
    mask = 1.0 if floor is None else transform.gain((3, 2, *size), 0)[0, 0].reshape(size[0], -1, 2)[..., 0]
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr)
    for _ in range(10):
        optimizer.zero_grad()
        (0.5 * (layer.weight - target).square()).sum().backward()
        optimizer.step()
        spectrum = doubling(size[1]) * mask**2 * np.fft.rfft2(w - target.numpy(), norm="ortho")
        w -= lr * np.fft.irfft2(spectrum, s=size, norm="ortho")
    np.testing.assert_allclose(layer.weight.detach().numpy(), w, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("transform", "symmetric"), [(Rfft(), False), (Rdft(), True)], ids=str)
def test_only_the_half_spectrum_treats_the_axes_differently(transform: Any, symmetric: bool) -> None:
    torch.manual_seed(0)
    target = torch.randn(1, 1, 5, 5, dtype=torch.float64)
    results = []
    for flip in (False, True):
        layer = SpectralConv2d(1, 1, 5, bias=False, dtype=torch.float64, transform=transform)
        layer.set_weight(torch.zeros(1, 1, 5, 5, dtype=torch.float64))
        wanted = target.mT if flip else target
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            (layer.weight - wanted).square().sum().backward()
            optimizer.step()
        results.append(layer.weight.detach().mT if flip else layer.weight.detach())
    assert torch.allclose(*results, rtol=0, atol=1e-12) == symmetric


@pytest.mark.parametrize("transform", FULL_RANK, ids=str)
def test_tools_that_refuse_complex_parameters_work(transform: Any) -> None:
    model = analysis_synthesis(nn.Conv2d, nn.ConvTranspose2d)
    to_spectral(model, transform)
    twin = analysis_synthesis(nn.Conv2d, nn.ConvTranspose2d)
    to_spectral(twin, transform)
    for m, options in ((model, {"fused": True}), (twin, {"foreach": True})):
        optimizer = torch.optim.Adam(m.parameters(), lr=1e-3, **options)
        optimizer.register_step_pre_hook(lambda o, *_: nn.utils.clip_grad_value_(o.param_groups[0]["params"], 1e-3))
        train(m, optimizer, 10)
    for fused, foreach in zip(model[::2], twin[::2], strict=True):
        torch.testing.assert_close(fused.weight, foreach.weight, rtol=0, atol=1e-4)

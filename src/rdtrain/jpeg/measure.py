"""What a network on coefficients is judged by: its answers, its speed and its size beside those on pixels."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdtrain.jpeg.codec import BLOCK, Codec, TableName, table
from rdtrain.jpeg.convert import to_jpeg
from rdtrain.jpeg.data import MEAN, STD
from rdtrain.jpeg.layers import JpegBatchNorm2d, JpegConv2d
from rdtrain.jpeg.relu import BlockReLU
from rdtrain.jpeg.training import accuracy, logits_of

Row = dict[str, str | float]


def agreement(logits: Tensor, reference: Tensor) -> dict[str, float]:
    """How close answers are to others.

    Args:
        logits: (N, classes).
        reference: same shape.

    Returns:
        `max_difference` and `rmse` of the logits, and `disagreeing`, the number of images with another answer or none.
    """
    difference = (logits - reference).double()
    answered = (logits.isfinite() & reference.isfinite()).all(1)
    return {
        "max_difference": float(difference.abs().max()),
        "rmse": float(difference.square().mean().sqrt()),
        "disagreeing": int((~answered | (logits.argmax(1) != reference.argmax(1))).sum()),
    }


def stored_coefficients(images: Tensor, name: TableName, quality: int) -> Tensor:
    """The whole numbers that a JPEG file of such images holds.

    Args:
        images: uint8, (N, 1, H, W).
        name: of the table.
        quality: 1 to 100.

    Returns:
        (N, 1, H/8, W/8, 64).
    """
    file = Codec(table(name, quality)).to(images.device)
    return file.encode(images.float() - 128).round()


def network_coefficients(stored: Tensor, name: TableName, quality: int, codec: Codec) -> Tensor:
    """What a file holds, scaled as the network wants it; nothing is decoded.

    Args:
        stored: of `stored_coefficients`.
        name: of the table.
        quality: 1 to 100.
        codec: of the network.

    Returns:
        Coefficients of the normalised images, same shape.
    """
    q = torch.as_tensor(table(name, quality), dtype=stored.dtype, device=stored.device)
    scaled = stored * q / (255 * STD * codec.q)
    scaled[..., 0] += BLOCK * (128 / 255 - MEAN) / STD / codec.q[0]
    return scaled


def quality_rows(
    network: nn.Module, codec: Codec, images: Tensor, labels: Tensor, name: TableName, qualities: Sequence[int]
) -> list[Row]:
    """Accuracy on coefficients that were rounded.

    Args:
        network: on coefficients.
        codec: its codec.
        images: uint8, (N, 1, H, W).
        labels: (N,).
        name: of the table of the files.
        qualities: 1 to 100.

    Returns:
        For each quality: `accuracy`, and `nonzero`, the mean number of coefficients of an image that are not 0.
    """
    rows: list[Row] = []
    for quality in qualities:
        stored = stored_coefficients(images, name, quality)
        logits = logits_of(network, network_coefficients(stored, name, quality, codec))
        nonzero = float(stored.count_nonzero()) / len(images)
        rows.append({"quality": quality, "accuracy": accuracy(logits, labels), "nonzero": nonzero})
    return rows


def timing_rows(
    model: nn.Module, codec: Codec, x: Tensor, repeats: int, exploded: nn.Module | None = None
) -> list[Row]:
    """How many images a second, on pixels and on coefficients.

    All inputs are tensors already, so that nobody pays for loading. Ways take turns; the first round does not count.

    Args:
        model: on pixels.
        codec: of the coefficients.
        x: images, (B, 1, H, W), the batch.
        repeats: rounds.
        exploded: the network on coefficients with exploded convolutions, None to leave it out.

    Returns:
        For each way of inference and of training (forward, backward with respect to all weights): `task`, `way`,
        median of `images_per_s`, and its ratio to that on pixels.
    """
    coefficients = codec.encode(x)
    ways: dict[tuple[str, str], tuple[Callable[[Tensor], Tensor], Tensor]] = {
        ("inference", "pixels"): (_inference(model), x),
        ("inference", "decode, pixels"): (lambda f: _inference(model)(codec.decode(f)), coefficients),
        ("inference", "coefficients, fused"): (_inference(to_jpeg(model, codec)), coefficients),
        ("training", "pixels"): (_training(model), x),
        ("training", "pixels, ReLU of blocks"): (_training(with_block_relu(model, 8)), x),
        ("training", "coefficients, fused"): (_training(to_jpeg(model, codec)), coefficients),
    }
    if exploded is not None:
        ways["inference", "coefficients, exploded"] = (_inference(exploded), coefficients)
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for _ in range(repeats + 1):
        for way, (run, images) in ways.items():
            seconds[way].append(timed(run, images)[1] / len(images))
    rates = {way: 1 / statistics.median(times[1:]) for way, times in seconds.items()}
    return [
        {"task": task, "way": way, "images_per_s": rate, "of_pixels": rate / rates[task, "pixels"]}
        for (task, way), rate in rates.items()
    ]


def with_block_relu(model: nn.Module, n_freqs: int) -> nn.Module:
    """A copy of a network with approximate ReLU on pixels.

    Args:
        model: on pixels.
        n_freqs: largest alpha + beta, 0 to 14.

    Returns:
        The copy.
    """
    result = copy.deepcopy(model)
    for module in list(result.modules()):
        for name, child in module._modules.items():  # repeated ones too
            if isinstance(child, nn.ReLU):
                setattr(module, name, BlockReLU(n_freqs).to(next(model.parameters()).device))
    return result


def _inference(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.no_grad()(model.eval())


def _training(model: nn.Module) -> Callable[[Tensor], Tensor]:
    model = copy.deepcopy(model).requires_grad_()
    for module in model.modules():  # the weights of converted layers are buffers
        if isinstance(module, JpegConv2d):
            module.weight.requires_grad_()
        elif isinstance(module, JpegBatchNorm2d):
            module.gain.requires_grad_()
            module.shift.requires_grad_()
    weights = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.requires_grad]

    def step(x: Tensor) -> Tensor:
        labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        loss = F.cross_entropy(model(x), labels)
        torch.autograd.grad(loss, weights)
        return loss

    return step


def timed(run: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, float]:
    """Time one call.

    Args:
        run: what is timed.
        x: what it is given; on a GPU its work is waited for.

    Returns:
        Its result, and wall clock, seconds.
    """
    start = time.perf_counter()
    result = run(x)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return result, time.perf_counter() - start


def size_rows(models: dict[str, nn.Module]) -> list[Row]:
    """How large networks are.

    Args:
        models: by name.

    Returns:
        For each: `parameters` and `buffers`, in bytes, each tensor once.
    """
    return [
        {"network": name, "parameters": _bytes(model.parameters()), "buffers": _bytes(model.buffers())}
        for name, model in models.items()
    ]


def _bytes(tensors: object) -> int:
    unique = {id(tensor): tensor for tensor in tensors}  # type: ignore[attr-defined]
    return sum(tensor.numel() * tensor.element_size() for tensor in unique.values())

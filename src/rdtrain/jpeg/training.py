"""Training and judging a classifier on pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from catalyst.engines.torch import CPUEngine, GPUEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rdtrain.jpeg.data import Digits, ImageDataset
from rdtrain.jpeg.model import SmallResNet
from rdtrain.jpeg.schema import Train
from rdtrain.kernels.forms import OnEpoch, make_adam, store_kernels
from rdtrain.runners.classification import ClassificationRunner


def make_classifier(seed: int, form: str = "plain", relu: Callable[[], nn.Module] = nn.ReLU) -> SmallResNet:
    """Make the network; its initial function depends on the seed alone.

    Args:
        seed: of the initial weights.
        form: how kernels are stored, see `rdtrain.kernels.forms`.
        relu: makes a nonlinearity.

    Returns:
        The network on the CPU.
    """
    torch.manual_seed(seed)
    model = SmallResNet(relu=relu)
    store_kernels(model, form)
    return model


def train_classifier(
    model: nn.Module,
    digits: Digits,
    train: Train,
    seed: int,
    engine: CPUEngine | GPUEngine,
    on_epoch: OnEpoch = lambda epoch, steps, means: None,
    form: str = "plain",
) -> nn.Module:
    """Train a classifier with Adam.

    Args:
        model: changed in place.
        digits: `train` is trained on, `test` is loader `valid`.
        train: `train.*`.
        seed: of the order of the images.
        engine: a new one.
        on_epoch: see `ClassificationRunner`.
        form: how the model's kernels are stored, which matters for the learning rates.

    Returns:
        The same model in eval mode, on the engine's device.
    """
    sets = {"train": digits.train, "valid": digits.test}
    loaders = {
        name: DataLoader(ImageDataset(*part), batch_size=train.batch_size, shuffle=name == "train")
        for name, part in sets.items()
    }
    optimizer = make_adam(model, form, train.lr)
    ClassificationRunner(on_epoch).train(
        engine=engine, model=model, optimizer=optimizer, loaders=loaders, seed=seed, num_epochs=train.epochs
    )
    return model.to(engine.device).eval()


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, batch_size: int = 128) -> Tensor:
    """Answers of a classifier.

    Args:
        model: in eval mode.
        x: images or coefficients, (N, ...), on the model's device.
        batch_size: at a time.

    Returns:
        (N, classes).
    """
    return torch.cat([model(some) for some in x.split(batch_size)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right answers.

    Args:
        logits: (N, classes).
        labels: (N,).

    Returns:
        From 0 to 1.
    """
    return float((logits.argmax(1) == labels.to(logits.device)).double().mean())

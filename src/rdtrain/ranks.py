"""Several processes: who evaluates what, and one mean over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import TypeVar, cast

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from rdtrain.errors import UserError
from rdtrain.metrics import with_psnr_of_mean_mse

Row = TypeVar("Row")


def rank_share(loader: DataLoader, engine: Accelerator) -> DataLoader:
    """The part of an evaluation loader that this process looks at.

    accelerate would repeat images to give every process equally many, which would falsify the means.

    Args:
        loader: in fixed order.
        engine: knows this process's rank.

    Returns:
        The loader itself for one process; else one over every n-th image.

    Raises:
        UserError: there are fewer images than processes.
    """
    if engine.num_processes == 1:
        return loader
    images = len(cast(Sized, loader.dataset))
    if images < engine.num_processes:
        raise UserError(f"{images} image(s) for {engine.num_processes} processes: give each at least one")
    share = Subset(loader.dataset, range(engine.process_index, images, engine.num_processes))
    return DataLoader(
        share,
        batch_size=loader.batch_size,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def keep_quantiles_local(model: nn.Module) -> list[str]:
    """Take the quantiles of the entropy bottlenecks out of DistributedDataParallel.

    They get no gradient from the loss, so its reducer would wait for them until the auxiliary backward pass, and the
    net optimizer would step with gradients that are not averaged yet. The auxiliary loss does not depend on the
    images: every process finds the same gradient.

    Args:
        model: before it is wrapped.

    Returns:
        Names of the parameters left out.
    """
    names = [name for name, _ in model.named_parameters() if name.endswith(".quantiles")]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
    return names


def gathered(rows: Sequence[Row], engine: Accelerator) -> list[Row]:
    """The rows of all processes.

    Args:
        rows: one for each image of this process.
        engine: knows the other processes.

    Returns:
        One for each image.
    """
    if engine.num_processes == 1:
        return list(rows)
    parts: list[list[Row]] = [[]] * engine.num_processes
    torch.distributed.all_gather_object(parts, list(rows))
    return [row for part in parts for row in part]


def agreed(value: int, engine: Accelerator) -> int:
    """The largest value of all processes, so that all do the same.

    Args:
        value: of this process.
        engine: knows the other processes.

    Returns:
        The same number in every process.
    """
    if engine.num_processes == 1:
        return value
    largest = torch.tensor(value, device=engine.device)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest)


def merged(means: Mapping[str, float], samples: int, engine: Accelerator) -> dict[str, float]:
    """Mean over the samples of all processes.

    Args:
        means: of this process, each over all of its images.
        samples: images that they are over.
        engine: knows the other processes.

    Returns:
        Means over all processes, weighted by their samples; PSNR of the mean MSE made anew.
    """
    if engine.num_processes == 1:
        return dict(means)
    parts: list[tuple[dict[str, float], int]] = [({}, 0)] * engine.num_processes
    torch.distributed.all_gather_object(parts, (dict(means), samples))
    total = sum(n for _, n in parts)
    return with_psnr_of_mean_mse({name: sum(part[name] * n for part, n in parts) / total for name in means})


def leave() -> None:
    """Part from the other processes of a run that has come to its end.

    A process that ends without it may abort while it ends: gloo's threads are still there ("terminate called without an
    active exception"), and torchrun then calls the whole run failed.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

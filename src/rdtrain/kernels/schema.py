"""Types and ranges of the keys of `conf/kernels.yaml`, where the values and their meanings stand."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rdtrain.config import schema
from rdtrain.config.experiment import Experiment
from rdtrain.config.schema import Count, Natural, Positive, Section, Text

Name = Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$")]
Draws = Literal["streams", "script"]
Nodes = dict[Name, schema.Target | None]


class Target(Section):
    """`target.*`."""

    name: Literal["sinusoid", "smoothing", "edge", "random", "trained"]
    checkpoint: Text | None
    layer: Text | None
    channels: Count | None


class Inputs(Section):
    """`inputs.*`."""

    name: Literal["white", "pink", "pink_batch", "images"]
    size: Count
    batch: Count
    padding: Natural
    padding_mode: Literal["zeros", "circular", "reflect", "replicate"]
    crop: Natural


class Fit(Section):
    """`fit.*`."""

    optimizer: Name
    steps: Count
    epoch_steps: Count
    seeds: Annotated[int, Field(ge=1, le=1000)]
    bias: bool
    draws: Draws
    controls: bool
    tolerance: Positive


class Config(Experiment):
    """A whole configuration of a fit.

    Attributes:
        optimizers: nodes with `_target_`, of which `fit.optimizer` names the one that is used.
        transforms: nodes with `_target_`, each one an arm; null takes an arm out. Plain kernels are always an arm.
    """

    task: Literal["kernels"]
    target: Target
    inputs: Inputs
    fit: Fit
    optimizers: Nodes
    transforms: Nodes

    @property
    def seeds(self) -> list[int]:
        """The seeds of the initial kernels, the inputs and a random target, one a repetition."""
        return [self.seed + i for i in range(self.fit.seeds)]

    @property
    def optimizer(self) -> schema.Target:
        """The node of the optimizer that is used."""
        return self.optimizers[self.fit.optimizer] or {}

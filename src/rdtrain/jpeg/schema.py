"""Types and ranges of the keys of `conf/jpeg.yaml`, where their values and meanings stand."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rdtrain.config.experiment import Compare, Conv, Experiment
from rdtrain.config.schema import Count, Natural, Positive, Section, Text

Frequencies = list[Annotated[int, Field(ge=0, le=14)]]
Table = Literal["mpeg2", "luminance", "chrominance", "flat"]


class Data(Section):
    """`data.*`."""

    name: Literal["digits", "mnist"]
    root: Text | None


class Train(Section):
    """`train.*`."""

    epochs: Count
    batch_size: Count
    lr: Positive


class Jpeg(Section):
    """`jpeg.*`."""

    table: Table
    mode: Literal["fused", "exploded"]


class Relu(Section):
    """`relu.*`."""

    converted: Frequencies
    retrained: Frequencies
    blocks: Natural


class Rounding(Section):
    """`rounding.*`."""

    table: Table
    qualities: list[Annotated[int, Field(ge=1, le=100)]]


class Timing(Section):
    """`timing.*`."""

    batch_size: Natural
    repeats: Count
    exploded: bool


class Config(Experiment):
    """A whole configuration."""

    task: Literal["jpeg"]
    data: Data
    train: Train
    conv: Conv
    jpeg: Jpeg
    relu: Relu
    rounding: Rounding
    timing: Timing
    compare: Compare

"""Types and ranges of the keys of `conf/super_resolution.yaml`, where their values and meanings stand."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rdtrain.config.experiment import Compare, Conv, Experiment
from rdtrain.config.schema import Count, Positive, Section, Text

LEAST_PATCH = 8  # side of the crops, pixels


class Data(Section):
    """`data.*`."""

    name: Literal["photos", "image_folder"]
    root: Text | None


class Train(Section):
    """`train.*`."""

    epochs: Count
    epoch_steps: Count
    batch_size: Count
    patch_size: Annotated[int, Field(ge=LEAST_PATCH, multiple_of=2)]
    lr: Positive


class Config(Experiment):
    """A whole configuration."""

    task: Literal["super_resolution"]
    data: Data
    train: Train
    conv: Conv
    compare: Compare

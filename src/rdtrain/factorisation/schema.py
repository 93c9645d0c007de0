"""Types and ranges of the keys of `conf/factorisation.yaml`, where their values and meanings stand."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rdtrain.config.experiment import Experiment
from rdtrain.config.schema import Count, Natural, Positive, Section, Text

Name = Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$")]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=15)]


class Search(Section):
    """`sgd.*`."""

    lmbda: Weight
    lambda1: Weight
    lambda2: Weight
    admissibility: Literal["absolute", "square"]
    lr: Positive
    iterations: Count
    restarts: Annotated[int, Field(ge=1, le=100_000)]


class Case(Section):
    """One node of `cases`; what it leaves out stands in `sgd`."""

    target: Literal["ll", "lh", "hl", "hh", "file"]
    n: Annotated[int, Field(ge=1, le=7)]
    k: Side
    file: Text | None = None
    lmbda: Weight | None = None
    lambda1: Weight | None = None
    lambda2: Weight | None = None
    admissibility: Literal["absolute", "square"] | None = None
    lr: Positive | None = None
    iterations: Count | None = None
    restarts: Annotated[int, Field(ge=1, le=100_000)] | None = None

    def search(self, sgd: Search) -> Search:
        """The settings of this case.

        Args:
            sgd: `sgd.*`.

        Returns:
            The same with what the case has of its own.
        """
        own = {name: value for name in Search.model_fields if (value := getattr(self, name, None)) is not None}
        return sgd.model_copy(update=own)


class LeastSquares(Section):
    """`als.*`."""

    restarts: Annotated[int, Field(ge=1, le=100_000)]
    iterations: Count


class Map(Section):
    """`map.*`."""

    case: Name | None
    lmbda: list[Positive]
    lr: list[Positive]
    lambda1: list[Weight]
    lambda2: list[Weight]


class Latency(Section):
    """`latency.*`."""

    channels: list[Count]
    size: Count
    repeats: Count


class Toy(Section):
    """`toy.*`."""

    starts: Natural


class Model(Section):
    """`model.*`."""

    checkpoint: Text | None
    name: Text | None
    layers: list[str]
    smallest: Annotated[int, Field(ge=2, le=15)]
    costs: Annotated[list[Annotated[float, Field(gt=0, le=8)]], Field(min_length=1)]
    iterations: Count
    dataset: Text
    root: Text | None
    max_images: Count | None


class Config(Experiment):
    """A whole configuration."""

    task: Literal["factorisation"]
    cases: dict[Name, Case | None]
    sgd: Search
    als: LeastSquares
    map: Map
    latency: Latency
    toy: Toy
    model: Model

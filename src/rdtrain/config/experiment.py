"""What the configurations of experiments that train no compression model have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rdtrain.config.schema import (
    Count,
    JoblibLauncher,
    LocalLauncher,
    Natural,
    Paths,
    RayLauncher,
    Section,
    SlurmLauncher,
    Sweep,
    Threads,
)

Transform = Literal["rfft", "rdft", "dct", "attenuated"]
Form = Literal["plain", Transform, "plain-as-rfft", "plain-as-attenuated"]
"""How a network's kernels are stored; `plain-as-...`: plain ones with the learning rate that the transform hides."""


class Machine(Section):
    """`engine.*` of an experiment."""

    device: Literal["auto", "cpu", "cuda"]
    threads: Threads | None
    malloc: Literal["tuned", "default"] = "tuned"


class Conv(Section):
    """`conv.*` of an experiment that trains a network."""

    type: Literal["plain", "spectral"]
    transform: Transform

    @property
    def form(self) -> Form:
        """How the kernels are stored."""
        return self.transform if self.type == "spectral" else "plain"


class Compare(Section):
    """`compare.*` of an experiment that trains a network."""

    forms: list[Form]
    seeds: Count


class Experiment(Section):
    """The keys that every experiment has."""

    engine: Machine
    paths: Paths
    launcher: Annotated[LocalLauncher | JoblibLauncher | SlurmLauncher | RayLauncher, Field(discriminator="name")]
    seed: Annotated[Natural, Field(le=2**31)]
    sweep: Sweep

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain containers, in the keys that a user types.

        Returns:
            Nested dicts, lists and scalars.
        """
        return self.model_dump(by_alias=True)

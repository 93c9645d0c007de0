"""What the configurations of experiments that train no compression model have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rdtrain.config.schema import (
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


class Machine(Section):
    """`engine.*` of an experiment."""

    device: Literal["auto", "cpu", "cuda"]
    threads: Threads | None


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

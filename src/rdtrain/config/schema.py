"""Types and ranges of the configuration keys that are ours.

The values and one line of meaning for each key stand in `conf/`; the arguments of other libraries' classes
(`optimizer.net.*`, `scheduler.net.*`, `callbacks.*`, `logger.*`) are checked against those classes in
`rdtrain.config.targets`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number, not true or false")
    return value


def _on_one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("should be text without control characters")
    return value


_Number = BeforeValidator(_no_bool)
_MOST = 10**9  # of anything that is counted; larger numbers do not fit into the libraries' integers
Count = Annotated[int, _Number, Field(ge=1, le=_MOST)]
Natural = Annotated[int, _Number, Field(ge=0, le=_MOST)]
Threads = Annotated[int, _Number, Field(ge=1, le=1024)]
Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_on_one_line)]
Positive = Annotated[float, _Number, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, _Number, Field(ge=0, le=1)]
Percent = Annotated[int, _Number, Field(ge=0, le=90)]
Target = dict[str, Any]  # a class of a library by `_target_`, and its arguments


# Sections and keys that what a run computes does not depend on.
INCIDENTAL = ("paths", "logger", "checkpoint", "sweep", "launcher", "model.coder", "engine.profile", "engine.malloc")
# Keys of `search` that say how long it goes on, not where it looks.
SEARCH_LENGTH = ("trials", "at_once", "tolerance")


class Section(BaseModel):
    """A mapping that takes no key but its own and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Model(Section):
    """`model.*`."""

    name: Text
    quality: Annotated[int, _Number, Field(ge=1, le=8)]
    checkpoint: Text | None
    quantizer: Literal["noise", "ste", "mixed"]
    stable_likelihood: bool
    coder: Literal["auto", "numba", "compressai"]


class Dct(Section):
    """`conv.dct.*`."""

    coefficients: Count | None
    order: Literal["zigzag", "square"]


class Attenuated(Section):
    """`conv.attenuated.*`."""

    floor: Annotated[float, _Number, Field(gt=0, le=1)]
    fraction: Share
    interleaved: bool


class Switch(Section):
    """`conv.switch.*`."""

    trigger: Literal["plateau", "epoch", "never"]
    at: Count | None
    lead: Natural
    on_drop: Literal["absorb", "apply"]
    moments: Literal["transfer", "shadow", "reset"]


class Conv(Section):
    """`conv.*`."""

    type: Literal["spectral", "plain"]
    transform: Literal["rfft", "rdft", "dct", "attenuated"]
    include: list[str]
    exclude: list[str]
    one_by_one: bool
    dct: Dct
    attenuated: Attenuated
    switch: Switch


class Criterion(Section):
    """`criterion.*`."""

    lmbda: Positive | None
    metric: Literal["mse", "ms-ssim"]
    form: Literal["rd", "dr"]
    reduction: Literal["mean", "per_sample_sq"]


class Optimizer(Section):
    """`optimizer.*`."""

    net: Target
    aux: Target
    lr_factor: Positive


class Scheduler(Section):
    """`scheduler.*`."""

    interval: Literal["epoch", "step"]
    net: Target | None
    aux: Target | None


class Dataset(Section):
    """`dataset.*`."""

    name: Text
    root: Text | None
    infer_name: Text | None
    infer_root: Text | None
    patch_size: Count
    batch_size: Count
    valid_batch_size: Count
    valid_crops: Count | None
    flips: bool
    small_images: Literal["refuse", "pad"]
    on_bad_image: Literal["skip", "error"]
    max_pixels: Count
    cache_mb: Natural
    workers: Annotated[int, _Number, Field(ge=0, le=1024)] | Literal["auto"]
    valid_percent: Percent
    infer_percent: Percent
    split_seed: Natural


class Engine(Section):
    """`engine.*`."""

    device: Literal["auto", "cpu", "cuda"]
    distributed: bool
    precision: Literal["fp32", "bf16"]
    compile: bool
    channels_last: bool
    deterministic: bool
    threads: Threads | None
    malloc: Literal["tuned", "default"] = "tuned"
    num_epochs: Count
    epoch_steps: Count | None
    accumulate: Count
    clip_grad_norm: Positive | None
    ema_decay: Annotated[float, _Number, Field(gt=0, lt=1)] | None
    profile: bool = False


class Infer(Section):
    """`infer.*`."""

    every_n_epochs: Count
    max_images: Count | None
    max_seconds: Positive | None
    real: Literal["auto", "always", "best"]


class Ledger(Section):
    """`ledger.*`."""

    mode: Literal["shared", "full"]
    every_n_steps: Count | None


class Checkpoint(Section):
    """`checkpoint.*`."""

    every_n_steps: Count | None
    every_minutes: Positive | None


class Health(Section):
    """`health.*`."""

    on_nan: Literal["rollback", "skip", "stop"]
    retries: Natural
    lr_factor: Annotated[float, _Number, Field(gt=0, le=1)]
    skips: Natural


class Runner(Section):
    """`runner.*`."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    target: Text = Field(alias="_target_")
    monitor: Text


class Sweep(Section):
    """`sweep.*`."""

    retry: bool
    on_code_change: Literal["warn", "refuse"]


class Paths(Section):
    """`paths.*`."""

    runs: Text


class LocalLauncher(Section):
    """`launcher=local`."""

    name: Literal["local"]


class JoblibLauncher(Section):
    """`launcher=joblib`."""

    name: Literal["joblib"]
    jobs: Count


class SlurmLauncher(Section):
    """`launcher=slurm`."""

    name: Literal["slurm"]
    partition: Text | None
    minutes: Count
    requeues: Natural
    grace_s: Count
    cpus: Count
    gpus: Count | None
    mem_gb: Count | None
    at_once: Count
    wait: bool
    sbatch: dict[Annotated[str, Field(pattern="^[a-z_-]+$")], bool | int | Text]

    @field_validator("grace_s")
    @classmethod
    def _leaves_time_to_train(cls, grace_s: int, info: ValidationInfo) -> int:
        minutes = info.data.get("minutes")
        if minutes is not None and grace_s >= 60 * minutes:
            raise ValueError(
                f"a job of launcher.minutes={minutes} would be stopped as it begins; type less, or more minutes"
            )
        return grace_s


class RayLauncher(Section):
    """`launcher=ray`."""

    name: Literal["ray"]
    address: Text
    cpus: Count
    gpus: Annotated[float, _Number, Field(ge=0, allow_inf_nan=False)]
    retries: Natural


def _is_pair(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("should be [SMALLEST, LARGEST]")
    return value


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError("should be [SMALLEST, LARGEST]")
    return value


Range = Annotated[tuple[Positive, Positive], BeforeValidator(_is_pair), AfterValidator(_rising)]


class LrSearch(Section):
    """`search=lr`."""

    name: Literal["lr"]
    trials: Count
    at_once: Count | None
    seed: Natural
    lr: Range
    aux_lr: Range | None


class TargetBppSearch(Section):
    """`search=target_bpp`."""

    name: Literal["target_bpp"]
    trials: Count
    at_once: Count | None
    target_bpp: Positive
    tolerance: Annotated[float, _Number, Field(ge=0, lt=1)]
    lmbda: Range


def _chosen(value: object) -> object:
    if isinstance(value, dict) and "name" not in value:
        raise ValueError("should be chosen first: type search=lr or search=target_bpp")
    return value


class Config(Section):
    """A whole configuration.

    Attributes:
        hp: arguments of the model's class by name, None for those that `model.quality` fills.
        callbacks: named nodes with `_target_` that change a training.
        logger: named nodes with `_target_` that look at it.
    """

    model: Model
    hp: dict[str, Any]
    conv: Conv
    criterion: Criterion
    optimizer: Optimizer
    scheduler: Scheduler
    dataset: Dataset
    engine: Engine
    infer: Infer
    checkpoint: Checkpoint
    health: Health
    runner: Runner
    callbacks: dict[str, Target | None]
    logger: dict[str, Target | None]
    paths: Paths
    launcher: Annotated[LocalLauncher | JoblibLauncher | SlurmLauncher | RayLauncher, Field(discriminator="name")]
    seed: Annotated[int, _Number, Field(ge=0, le=2**31)]
    ledger: Ledger
    sweep: Sweep
    search: Annotated[LrSearch | TargetBppSearch | None, Field(discriminator="name"), BeforeValidator(_chosen)]

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain containers, in the keys that a user types.

        Returns:
            Nested dicts, lists and scalars.
        """
        return self.model_dump(by_alias=True)

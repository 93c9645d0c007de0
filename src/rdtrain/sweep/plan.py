"""What a sweep is going to run, written down when it is submitted.

    <sweep>/plan.json          every point: id, run folder, overrides, hash of the code
    <sweep>/plan/<id>.yaml     its resolved configuration, which is what its job trains
    <sweep>/plan/<id>.error    why its last attempt failed

More points may come later: a plan only grows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rdtrain.config.tasks import TRAIN
from rdtrain.errors import UserError

FORMAT = 1
PATIENCE_S = 60.0  # with the lock of the folder plan/: for others that plan points of the same sweep, or look at them
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # several times as fast, where PyYAML was built with libyaml


@dataclass(frozen=True)
class Point:
    """One run of a sweep; a folder may hold those of several commands.

    Args:
        id: of the run.
        run: name of its folder within the sweep's.
        overrides: by which Hydra's sweeper makes it, in its spelling.
        code: hash of the code that it begins on.
        epochs: that it is to have; early stopping may end it before; 0: it does not count them.
        kind: `train`, the name of an experiment, or the search that chose it, as it was typed.
    """

    id: str
    run: str
    overrides: tuple[str, ...]
    code: str
    epochs: int = 0
    kind: str = TRAIN


def code_hash() -> str:
    """Hash what a run's numbers depend on besides its configuration.

    Returns:
        12 hexadecimal digits over all Python and YAML files of the installed package and the versions of torch and
        CompressAI.
    """
    from importlib.metadata import version

    import rdtrain
    import rdtrain.callbacks
    import rdtrain.conf
    import rdtrain.runners

    digest = hashlib.sha256(repr([version(name) for name in ("torch", "compressai")]).encode())
    for package in (rdtrain, rdtrain.callbacks, rdtrain.conf, rdtrain.runners):
        root = Path(package.__file__ or "").parent
        for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml")):
            digest.update(f"{package.__name__}/{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Plan:
    """The points of a sweep.

    Args:
        folder: of the sweep.
        points: in the order in which they were planned.
    """

    folder: Path
    points: tuple[Point, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read a plan.

        Args:
            folder: of the sweep.

        Returns:
            The plan, without points where nothing was planned yet.

        Raises:
            UserError: the file is damaged.
        """
        path = folder / "plan.json"
        if not path.is_file():
            return cls(folder)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if (written := content["format"]) != FORMAT:
                raise UserError(f"{path} has format {written} of another version of rdtrain; type another paths.runs")
            points = [Point(**{**point, "overrides": tuple(point["overrides"])}) for point in content["points"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no plan of a sweep ({error}); delete it, and the same command plans anew"
            ) from error
        return cls(folder, tuple(points))

    def grown(self, points: Sequence[Point]) -> Plan:
        """Add points, and take the newer of two with the same id, but the code that a run has begun on.

        Args:
            points: of the present command.

        Returns:
            A new plan.
        """
        known = {point.id: point for point in self.points}
        begun = {point.id: point.code for point in self.points if (self.folder / point.run).is_dir()}
        newer = {point.id: replace(point, code=begun.get(point.id, point.code)) for point in points}
        return replace(self, points=tuple((known | newer).values()))

    def point(self, point_id: str) -> Point:
        """Find a point.

        Args:
            point_id: its id.

        Returns:
            The point.

        Raises:
            UserError: it was not planned.
        """
        for point in self.points:
            if point.id == point_id:
                return point
        raise UserError(f"{self.folder} has no point {point_id} in its plan.json; issue the sweep again to plan it")

    def write(self, configs: Mapping[str, dict[str, Any]]) -> None:
        """Write the plan, and freeze configurations.

        Args:
            configs: resolved configuration by id, of the points that are new or newly planned.
        """
        from rdtrain.files import write_json, write_text

        (self.folder / "plan").mkdir(parents=True, exist_ok=True)
        for point_id, config in configs.items():
            write_text(self.config_of(point_id), yaml.dump(config, Dumper=_DUMPER, sort_keys=False))
        write_json(self.folder / "plan.json", {"format": FORMAT, "points": [asdict(point) for point in self.points]})

    def frozen(self, point_id: str) -> dict[str, Any]:
        """Read what a point's job trains.

        Args:
            point_id: its id.

        Returns:
            The configuration as plain containers.

        Raises:
            UserError: somebody has deleted or damaged it.
        """
        file = self.config_of(point_id)
        try:
            config: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{file} is gone; issue the sweep again to plan it anew") from error
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{file} is damaged; issue the sweep again to plan it anew") from error
        if not isinstance(config, dict):
            raise UserError(f"{file} is damaged; issue the sweep again to plan it anew")
        return config

    def config_of(self, point_id: str) -> Path:
        """The frozen configuration of a point.

        Args:
            point_id: its id.

        Returns:
            The file.
        """
        return self.folder / "plan" / f"{point_id}.yaml"

    def error_of(self, point_id: str) -> Path:
        """Why a point's last attempt failed.

        Args:
            point_id: its id.

        Returns:
            The file; there is none where it did not fail.
        """
        return self.folder / "plan" / f"{point_id}.error"

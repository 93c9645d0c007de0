"""Configurations and checkpoints that somebody else wrote: data, whatever is in them."""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from rdtrain import checkpoint, preflight
from rdtrain.cli import main
from rdtrain.config.schema import Config
from rdtrain.errors import UserError
from rdtrain.export import export_model
from rdtrain.files import write_tensors
from rdtrain.models import build_model, complete, load_weights, make_model, read_weights
from rdtrain.run_folder import RunFolder

EVIL = """
import os
from pathlib import Path
Path(os.environ["TOUCHED"]).touch()
import torch
from catalyst import dl
from hydra.experimental.callback import Callback
from rdtrain.runners import ImageCompressionRunner
class OfHydra(Callback): pass
class OfCatalyst(dl.Callback):
    def __init__(self): super().__init__(order=1)
class OfTorch(torch.optim.SGD): pass
class Runner(ImageCompressionRunner): pass
"""
TARGET = "{_target_: evil_module.%s}"
LOG = "{version: 1, handlers: {f: {class: logging.FileHandler, filename: TOUCHED}}, root: {handlers: [f]}}"


@pytest.fixture
def touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that a module touches when it is imported; training itself is left out."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "evil_module.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path / "code")
    path = tmp_path / "touched"
    monkeypatch.setenv("TOUCHED", str(path))

    def check_only(config: Config, overrides: object) -> None:
        if problems := preflight.problems(config.to_dict()):
            raise UserError(problems)
        if "EVIL" in os.environ or config.paths.runs == "secret":
            path.touch()

    monkeypatch.setattr("rdtrain.compression.train", check_only)
    before = logging.getLogger().handlers[:]
    yield path
    for handler in logging.getLogger().handlers[:]:
        if handler not in before:
            logging.getLogger().removeHandler(handler)
            handler.close()
    sys.modules.pop("evil_module", None)


@pytest.fixture
def run(tmp_path: Path, configure: Callable[..., Config]) -> Path:
    """A run folder with its resolved configuration."""
    folder = RunFolder(tmp_path / "run")
    folder.make(complete(configure("dataset.patch_size=64")), [], {})
    return folder.path


def _rdtrain(*words: str) -> int:
    before = sys.argv
    sys.argv = ["rdtrain", *words]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


WAYS = {
    "callback of the run": ({"callbacks": {"evil": TARGET % "OfCatalyst"}}, "callbacks.evil._target_=evil_module"),
    "logger": ({"logger": {"evil": TARGET % "OfCatalyst"}}, "logger.evil._target_=evil_module.OfCatalyst"),
    "optimizer": ({"optimizer": {"aux": TARGET % "OfTorch"}}, "optimizer.aux._target_=evil_module.OfTorch"),
    "runner": ({"runner": TARGET % "Runner"}, "runner._target_=evil_module.Runner"),
    "callback of Hydra": ({"hydra": {"callbacks": {"evil": TARGET % "OfHydra"}}}, "hydra.callbacks is set"),
    "logging": ({"hydra": {"job_logging": LOG}}, "hydra.job_logging.root is set"),
    "logging of Hydra": ({"hydra": {"hydra_logging": LOG}}, "hydra.hydra_logging.root is set"),
    "environment": ({"hydra": {"job": "{env_set: {EVIL: x}}"}}, "hydra.job.env_set is set"),
    "resolver": ({"paths": "{runs: '${oc.env:SECRET}'}"}, "paths.runs=${oc.env:SECRET} calls a resolver"),
    "resolver by name": (
        {"paths": "{runs: '${${paths.x}:SECRET}', x: oc.env}"},
        "paths.runs=${${paths.x}:SECRET} calls",
    ),
}


def _poisoned(config: Path, poison: dict, touched: Path) -> None:
    def merge(into: dict, what: dict) -> None:
        for key, value in what.items():
            if isinstance(value, dict):
                merge(into.setdefault(key, {}), value)
            else:
                text = yaml.safe_load(value.replace("TOUCHED", str(touched)))
                into[key] = {**into.get(key, {}), **text} if "_target_" in value or "runs" in value else text

    content = yaml.safe_load(config.read_text())
    merge(content, poison)
    config.write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.mark.parametrize("way", WAYS)
def test_a_folders_configuration_calls_nothing_unless_trusted(
    way: str, run: Path, touched: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "secret")
    poison, phrase = WAYS[way]
    _poisoned(run / "config.yaml", poison, touched)
    words = ["--config-dir", str(run), "--config-name", "config"]
    assert _rdtrain(*words) == 2
    said = capsys.readouterr().err
    assert phrase in said and "type --trust" in said
    assert not touched.exists()

    code = _rdtrain(*words, "--trust")
    if way != "resolver by name":  # whose second key the schema refuses
        assert code == 0, capsys.readouterr().err
        assert touched.exists()


@pytest.mark.slow
def test_options_of_groups_are_judged_wherever_a_sweep_brings_them_together(
    tmp_path: Path, touched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    for group in ("experiment", "recipe", "hydra/callbacks"):
        (folder / group).mkdir(parents=True)
    for name in ("a", "b"):
        (folder / "recipe" / f"{name}.yaml").write_text("# @package _global_\nseed: 3\n")
        (folder / "experiment" / f"{name}.yaml").write_text(
            "# @package _global_\ndefaults:\n  - override /hydra/callbacks: ${recipe}_" + name + "\n"
        )
    for name in ("a_a", "a_b", "b_a"):
        (folder / "hydra" / "callbacks" / f"{name}.yaml").write_text("{}\n")
    evil = folder / "hydra" / "callbacks" / "b_b.yaml"
    words = ["-m", "--config-dir", str(folder), "experiment=a,b", "recipe=a,b"]
    evil.write_text("{}\n")
    _rdtrain(*words)
    assert "--trust" not in capsys.readouterr().err
    evil.write_text("x:\n  _target_: evil_module.OfHydra\n")
    assert _rdtrain(*words) == 2
    assert "hydra.callbacks is set; if you trust whoever wrote it, type --trust" in capsys.readouterr().err
    assert not touched.exists()


def test_a_sweep_from_a_file_needs_trust(run: Path, touched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = "{mode: MULTIRUN, sweeper: {params: {optimizer.net._target_: evil_module.OfTorch}}}"
    _poisoned(run / "config.yaml", {"hydra": sweep}, touched)
    assert _rdtrain("--config-dir", str(run), "--config-name", "config") == 2
    assert "hydra.sweeper.params is set" in capsys.readouterr().err
    assert not touched.exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--config-dir", "RUN", "--config-name", "config"], "hydra.searchpath=['pkg://evil_module'] is not followed"),
        (["--config-dir", "RUN", "-cn", "config", "--trust"], "hydra.searchpath=['pkg://evil_module'] is not followed"),
        (["--config-dir", "RUN", "-cn", "config", "--help"], "is not followed"),
        (["--config-dir", "RUN", "-cn", "config", "--info", "all"], "is not followed"),
        (["hydra.searchpath=[pkg://evil_module]"], "is not followed: type --config-dir FOLDER"),
        (["--config-path", "RUN"], "--config-path: rdtrain's own configurations are needed; type --config-dir"),
        (["--experimental-rerun", "RUN/config.pickle"], "type --config-dir RUN --config-name config"),
        (["--experimental-rer", "RUN/config.pickle"], "does not exist: did you mean --experimental-rerun"),
        (["--config-d", "RUN"], "--config-d does not exist: did you mean --config-dir"),
        (["--config-dir", "/nowhere"], "there is no such folder"),
        (["--config-dir"], "--config-dir needs a value"),
    ],
)
def test_other_ways_to_files(
    words: list[str], sentence: str, run: Path, touched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _poisoned(run / "config.yaml", {"hydra": "{searchpath: ['pkg://evil_module']}"}, touched)
    assert _rdtrain(*(word.replace("RUN", str(run)) for word in words)) == 2
    assert sentence in capsys.readouterr().err
    assert not touched.exists()


def test_a_runs_own_configuration_and_what_is_typed_need_no_trust(
    run: Path, touched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config-dir", str(run), "--config-name", "config"]
    assert _rdtrain(*words) == 0, capsys.readouterr().err
    assert not touched.exists()
    assert _rdtrain(*words, "++optimizer.aux._target_=evil_module.OfTorch") == 0, capsys.readouterr().err
    assert touched.exists()


@pytest.mark.parametrize(
    "content", ["a: [", "\x00", "a: !!python/object/apply:os.system [x]", "&a [*a]", "- 1", "a: 1"]
)
def test_a_folder_with_no_configuration_is_told(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(content)
    assert _rdtrain("--config-dir", str(tmp_path), "--config-name", "config") == 2
    assert capsys.readouterr().err.startswith("rdtrain: ")


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def _zip_with(path: Path, edit: Callable[[str, bytes], bytes], how: int = zipfile.ZIP_STORED) -> None:
    buffer = io.BytesIO()
    torch.save({"g_a.0.weight": torch.zeros(300)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", how) as new:
        for record in old.infolist():
            new.writestr(record.filename, edit(record.filename, old.read(record)))


def _claim(name: str, data: bytes) -> bytes:
    return data.replace(b"M" + struct.pack("<H", 300), b"J" + struct.pack("<i", 10**9))


def _safetensors(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HOSTILE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "pickle": ("a.pth", lambda p: torch.save({"a": Evil(p.with_name("touched"))}, p), "nothing in it was run"),
    "old pickle": (
        "a.pth",
        lambda p: torch.save(Evil(p.with_name("touched")), p, _use_new_zipfile_serialization=False),
        "nothing in it was run",
    ),
    "empty": ("a.pth", lambda p: p.touch(), "no checkpoint of tensors"),
    "claimed size": ("a.pth", lambda p: _zip_with(p, _claim), "record size (1200 bytes) does not match"),
    "compressed": ("a.pth", lambda p: _zip_with(p, lambda n, d: d, zipfile.ZIP_DEFLATED), "compressed, as torch.save"),
    "expanded": ("a.pth", lambda p: torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, p), "claim 4000000000000"),
    "tiny tensors": ("a.pth", lambda p: torch.save(dict.fromkeys(map(str, range(10**6)), torch.ones(1)), p), "no mod"),
    "no tensors": ("a.pth", lambda p: torch.save({"a": "b"}, p), "no state dict of plain tensors: a is a str"),
    "a list": ("a.pth", lambda p: torch.save([1], p), "no state dict of tensors but a list"),
    "meta": ("a.pth", lambda p: torch.save({"a": torch.zeros(1, device="meta")}, p), "no state dict of plain tensors"),
    "format": ("a.pth", lambda p: torch.save({"format": 1, "conv": 3, "spectral": True}, p), "no checkpoint of rd"),
    "no ema": ("a.pth", lambda p: torch.save({"format": 1, "conv": {}, "spectral": False}, p), "rdtrain ('ema')"),
    "NaN": ("a.pth", lambda p: torch.save({"a": torch.tensor([1, float("nan")])}, p), "numbers that are not finite"),
    "header": ("a.safetensors", lambda p: p.write_bytes(struct.pack("<Q", 2**40)), "header claims 1099511627776 bytes"),
    "not covered": (
        "a.safetensors",
        lambda p: p.write_bytes(
            _safetensors({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}, b"0" * 99)
        ),
        "no checkpoint of tensors",
    ),
    "text": ("a.safetensors", lambda p: p.write_text("hello, world"), "no safetensors file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_of_weights_is_a_sentence(kind: str, tmp_path: Path) -> None:
    name, write, sentence = HOSTILE[kind]
    write(tmp_path / name)
    with pytest.raises(UserError) as told:
        read_weights(tmp_path / name)
    assert sentence in str(told.value) and str(tmp_path / name) in str(told.value)
    assert not (tmp_path / "touched").exists()


def test_a_hostile_file_is_a_sentence_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    from rdtrain.eval.cli import main as evaluate

    _, write, sentence = HOSTILE["pickle"]
    write(tmp_path / "a.pth")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "a.png")
    images = ["--dataset", "image_folder", "--root", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    assert evaluate([str(tmp_path / "a.pth"), "--model", "bmshj2018-factorized", *images]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "touched").exists()


def test_memory_stays_bounded(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**8)
        archive.writestr("archive/version", "3")
    before = _peak_kb()
    with pytest.raises(UserError, match="described in 100000000 bytes"):
        read_weights(bomb)
    assert _peak_kb() - before < 20_000


def _peak_kb() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("place", ["checkpoints/last.pt", "export/model.pth", "export/model.safetensors"])
@pytest.mark.parametrize("content", ["pickle", "other shapes", "missing keys", "no keys"])
def test_a_runs_files_are_not_trusted_either(
    place: str, content: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rdtrain.eval.models import load_subject

    path, touched = run / place, tmp_path / "touched"
    weights = build_model("bmshj2018-factorized", {"N": 5, "M": 6}, 1).state_dict()
    if content == "missing keys":
        weights = {"g_a.0.bias": torch.zeros(4)}
    state = {"format": checkpoint.FORMAT, "spectral": False, "conv": {}, "ema": None, "model": weights}
    if content == "pickle":
        torch.save({"format": 1, "model": Evil(touched)}, path)
    elif path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({} if content == "no keys" else weights, path)
    else:
        plain = weights if path.suffix == ".pth" else state
        torch.save({"format": checkpoint.FORMAT} if content == "no keys" else plain, path)
    with pytest.raises(UserError, match=path.name.replace(".", "[.]") + "|model.checkpoint"):
        load_subject(path, None)
    assert not touched.exists()


def test_a_malicious_configuration_is_data_for_evaluation_and_report(
    run: Path, touched: Path, tmp_path: Path, configure: Callable[..., Config]
) -> None:
    from rdtrain.eval.models import load_subject
    from rdtrain.report.runs import find_runs

    config = complete(configure("dataset.patch_size=64"))
    net = make_model(config, spectral=True)
    state = {
        "format": checkpoint.FORMAT,
        "spectral": True,
        "conv": config.conv.model_dump(),
        "ema": None,
        "model": net.state_dict(),
    }
    write_tensors(run / "checkpoints" / "best.pt", state)
    (run / "metrics.csv").write_text("epoch,step,loader,bpp/forward\n1,3,valid,0.5\n")
    for poison, _ in (WAYS["callback of the run"], WAYS["optimizer"], WAYS["runner"]):
        _poisoned(run / "config.yaml", poison, touched)
    assert load_subject(run, None).name == "bmshj2018-factorized"
    assert len(find_runs([run])[0]) == 1
    assert not touched.exists()


def test_exported_safetensors_equal_the_pth_and_say_what_they_are(
    run: Path, tmp_path: Path, configure: Callable[..., Config]
) -> None:
    from safetensors import safe_open

    from rdtrain.eval.models import identity, load_subject

    config = complete(configure("dataset.patch_size=64"))
    net = make_model(config, spectral=True)
    state = {
        "format": checkpoint.FORMAT,
        "spectral": True,
        "conv": config.conv.model_dump(),
        "ema": None,
        "model": net.state_dict(),
    }
    folder = RunFolder(run)
    write_tensors(folder.best, state)
    export_model(config, folder.best, folder.exported)
    safe = folder.exported.with_suffix(".safetensors")
    expected = torch.load(folder.exported, weights_only=True)
    found, transform = read_weights(safe)
    assert transform is None and found.keys() == expected.keys() and len(found) > 20
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in expected.items())
    with safe_open(safe, "pt") as file:
        said = file.metadata()
    assert said["model"] == "bmshj2018-factorized" and json.loads(said["hp"]) == {"N": 4, "M": 6}
    assert float(said["lmbda"]) == config.criterion.lmbda and said["rdtrain"]
    assert identity(load_subject(safe, None).model) == identity(load_subject(folder.exported, None).model)
    fresh = build_model("bmshj2018-factorized", {"N": 4, "M": 6}, 7)
    load_weights(fresh, found)
    assert torch.equal(fresh.g_a[0].bias, expected["g_a.0.bias"])

    damaged = bytearray(safe.read_bytes())
    damaged[20:40] = b"\xff" * 20
    safe.write_bytes(damaged)
    with pytest.raises(UserError, match="no checkpoint of tensors"):
        load_subject(safe, None)
    safe.write_bytes(safe.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"model\.safetensors: no checkpoint of tensors"):
        read_weights(safe)

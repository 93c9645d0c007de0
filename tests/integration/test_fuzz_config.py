"""Mutated command lines: never a traceback, never a file, always what to type instead."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rdtrain import preflight
from rdtrain.cli import check_overrides, flag_problems, report, split_arguments, trust_problems
from rdtrain.config.compose import composed, points
from rdtrain.config.nearest import known_keys
from rdtrain.config.schema import Dataset
from rdtrain.data.inventory import take_inventory

SECTIONS = ("hp", "optimizer.net", "optimizer.aux", "scheduler.net", "scheduler.aux", "callbacks", "logger")
# A key of a search is only judged where one is chosen, which the user is told first.
KEYS = [key for key in known_keys() if key not in SECTIONS and not key.startswith("search.")]
NUMBERS = [
    "seed", "model.quality", "criterion.lmbda", "engine.num_epochs", "engine.threads", "engine.ema_decay",
    "engine.clip_grad_norm", "dataset.patch_size", "dataset.batch_size", "dataset.cache_mb", "dataset.valid_percent",
    "conv.attenuated.floor", "conv.dct.coefficients", "infer.every_n_epochs", "ledger.every_n_steps", "hp.N", "hp.M",
    "optimizer.lr_factor", "optimizer.net.lr", "scheduler.net.patience", "scheduler.net.threshold",
    "callbacks.early_stopping.patience", "logger.tensorboard.every_n_steps",
]  # fmt: skip
WORDS = ["conv.type", "conv.switch.moments", "criterion.metric", "criterion.form", "dataset.on_bad_image"]
GROUPS = ["model", "conv", "criterion", "optimizer", "scheduler", "dataset", "engine", "callbacks", "recipe"]
TARGETS = ["optimizer.net", "optimizer.aux", "scheduler.net", "callbacks.early_stopping", "logger.csv", "callbacks.new"]
NO_NUMBER = [
    "nan",
    "-inf",
    "-1",
    "-1e999",
    "x",
    "'1'x",
    "''",
    "[1]",
    "{a:1}",
    "true",
    "???",
    "10000000000000000000000000",
]
NO_CLASS = [
    "os.system", "builtins.eval", "torch.load", "torch.optim", "torch.nn.Linear", "''", "null", "5", "[os.system]",
    "{a:b}", "..", "int", "torch.optim.lr_scheduler.LambdaLr", "rdtrain", "a" * 3000,
]  # fmt: skip
INTERPOLATIONS = [
    "${nope}", "${oc.env:RDTRAIN_NOT_SET}", "${nope:1}", "${", "${}", "${${seed}}", "${..seed}", "${dataset}",
    "${hydra:runtime.cwd}", "${now:%Y}", "${oc.decode:'['}", "${seed.x}", "${oc.env:}",
]  # fmt: skip
Mutation = tuple[str, str | None]  # an override, and what the answer to it alone contains


@st.composite
def _misspelled(draw: st.DrawFn) -> Mutation:
    key = draw(st.sampled_from(KEYS))
    where = draw(st.integers(key.rfind(".") + 2, len(key) - 1))
    edits = [key[:where] + key[where + 1 :], key[:where] + key[where] + key[where:], key[:where] + "q" + key[where:]]
    wrong = draw(st.sampled_from([edit for edit in edits if edit not in KEYS]))
    return f"{draw(st.sampled_from(['', '+', '++']))}{wrong}=1", key


def _set(keys: Sequence[str], values: Sequence[str]) -> st.SearchStrategy[str]:
    return st.builds("{}={}".format, st.sampled_from(keys), st.sampled_from(values))


def _pairs(keys: list[str], values: list[str], answer: str) -> st.SearchStrategy[Mutation]:
    plus = st.sampled_from(["", "++"])
    return st.builds(
        lambda p, k, v: (f"{p}{k}={v}", answer.format(key=k)), plus, st.sampled_from(keys), st.sampled_from(values)
    )


SPECIAL = st.text(st.sampled_from("=+~${}[]()'\"\\,:.@!#&|<>*?/ \t\n\r\x00\x1b\x7fé漢😀aN1-_%"), max_size=30)
ANY = st.one_of(
    SPECIAL,
    st.text(max_size=20),
    st.builds("{}={}".format, st.sampled_from(KEYS), SPECIAL),
    st.builds("{}='{}'".format, st.sampled_from(KEYS), st.text(max_size=10)),
    st.builds("~{}".format, st.sampled_from([*KEYS, *SECTIONS, *GROUPS, "callbacks.switch", "nope"])),
    _set(KEYS, INTERPOLATIONS),
    _set([*KEYS, "y" * 3000], ["y" * length for length in (1, 300, 5000, 100_000)]),
    _set(GROUPS, ["[]", "5", "null", "a/b"]),
    _set([f"{group}@other" for group in GROUPS], ["default"]),
    _set(SECTIONS, ["5", "[]", "null"]),
    _set(["hydra", "hydra.x", "hydra.mode", "hydra/launcher", "hydra.job.num", "~hydra", "hydra.run"], ["x"]),
    _set(["seed"], ["1,2,x", "range(1,3,0)", "range(1,9999999999)", "interval(0,1)", "glob(*)"]),
    st.sampled_from(["--trust", "--confg-dir", "--config-dir=/nowhere", "--", "-", "-x", "--config-name=nope", "-cd"]),
).map(lambda text: (text, None))
MUTATION = st.one_of(
    _misspelled(),
    _pairs(NUMBERS, NO_NUMBER, "{key}"),
    _pairs(WORDS, ["spectrol", "5", "null", "[]", "''", "é"], "{key}"),
    _pairs(TARGETS, ["x", "5"], "{key}"),
    _pairs([f"{target}._target_" for target in TARGETS], NO_CLASS, "{key}"),
    _set(GROUPS, ["x", "1a"]).map(lambda text: (text, f"{text}: there is no such option")),
    ANY,
)
LISTS = st.lists(MUTATION, min_size=1, max_size=3)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder, before = tmp_path_factory.mktemp("empty"), Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)
    assert list(folder.iterdir()) == []


def _answer(words: list[str]) -> list[str]:
    """What `rdtrain` asks before it makes anything: the command's checks, then those of `rdtrain.train.train`."""
    flags, overrides = split_arguments(words)
    if problems := flag_problems(flags) or trust_problems(overrides, flags) or check_overrides(overrides, flags):
        return problems
    raw, problems = composed(points(overrides)[0], flags.get("--config-name", "train"), flags.get("--config-dir"))
    assert raw is not None and problems == []
    return take_inventory(Dataset.model_validate(raw["dataset"]))[1] + preflight.problems(raw)


def _check(mutations: list[Mutation]) -> None:
    problems = _answer([text for text, _ in mutations])
    if len(mutations) == 1 and (wanted := mutations[0][1]) is not None:
        assert wanted in "\n".join(problems), problems
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        report(problems)
    lines = said.getvalue().splitlines()
    assert len(lines) == len(problems)
    for line in lines:
        assert line.startswith("rdtrain: ") and line.isprintable() and len(line) < 5000
        assert any(word in line for word in TELLS), line


TELLS = (
    "did you mean", "it is one of", "should", "type ", "give ", "see rdtrain", "rdtrain --cfg", "there is no",
    "is missing", "not ", "needs", "allowed", "Could not", "Error", "Invalid", "requires", "must", "looks like",
)  # fmt: skip
OPTIONS = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=40, **OPTIONS)
@given(LISTS)
@example([("callbacks.early_stopping=x", "callbacks.early_stopping=x")])
@example([("logger.csv=5", "logger.csv=5")])
@example([("dataset.infer_root=y", "dataset.infer_root=y holds no image files")])
@example([("dataset.infer_root=" + "y" * 3000, "holds no image files")])
@example([("model.checkpoint=" + "y" * 3000, "there is no such file")])
@example([("dataset.max_pixels=5", "dataset.max_pixels=5")])
def test_forty_mutated_command_lines(mutations: list[Mutation]) -> None:
    _check(mutations)


@pytest.mark.slow
@pytest.mark.long
@settings(max_examples=500, **OPTIONS)
@given(LISTS)
def test_five_hundred_mutated_command_lines(mutations: list[Mutation]) -> None:
    _check(mutations)


def _long(words: list[str], sentence: str) -> Any:
    return pytest.param(words, sentence, marks=pytest.mark.long)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["criterion.lmda=1"], "did you mean criterion.lmbda"),
        (["seed=1,2"], "To sweep over it, add --multirun"),
        _long(["-m", "seed=interval(0,1)"], "seed=interval(0,1)"),
        _long(["callbacks.early_stopping._target_=os.system"], "is no class of kind catalyst.dl.Callback"),
        _long(["runner._target_=torch.nn.ReLU"], "is no class of kind rdtrain.runners.ImageCompressionRunner"),
        (["paths.runs=/proc/nowhere"], "/proc/nowhere"),
        (["optimizer.net.capturable=true"], "optimizer.net: "),
        _long(["seed='\x1b[31m'"], "\\x1b[31m"),
        _long(["hp.N=100000"], "hp.N=100000: should be a whole number above 0 and at most 4096"),
    ],
)
def test_the_command_itself(words: list[str], sentence: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rdtrain", "hp.N=4", "hp.M=6", "dataset.patch_size=64", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []

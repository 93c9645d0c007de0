from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from rdtrain.config.check import check
from rdtrain.config.compose import composed, points
from rdtrain.config.nearest import known_keys
from rdtrain.errors import UserError

CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture(scope="module")
def raw() -> dict:
    config, problems = composed([])
    assert problems == [] and config is not None
    return config


def test_the_defaults_are_right(raw: dict) -> None:
    config, problems = check(raw)
    assert problems == []
    assert config is not None and config.to_dict() == raw


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("++criterion.lmda=0.1", "criterion.lmda does not exist: did you mean criterion.lmbda"),
        ("criterion.lmda=0.1", "criterion.lmda does not exist: did you mean criterion.lmbda"),
        ("++modle.name=x", "modle.name does not exist: did you mean model.name"),
        ("criterion.lmbda=-1", "criterion.lmbda=-1: should be greater than 0"),
        ("criterion.lmbda=nan", "criterion.lmbda=nan: should be greater than 0"),
        ("criterion.lmbda=much", "criterion.lmbda=much: should be a valid number"),
        ("criterion.metric=psnr", "criterion.metric=psnr: should be 'mse' or 'ms-ssim'"),
        ("seed=1.5", "seed=1.5: should be a valid integer"),
        ("engine.num_epochs=true", "engine.num_epochs=True: should be a number, not true or false"),
        ("model.quality=9", "model.quality=9: should be less than or equal to 8"),
        ("dataset.workers=many", "dataset.workers=many: should be a valid integer"),
        ("conv.switch.trigger=epoch", "conv.switch.at=N belong together"),
        ("conv.switch.lead=-1", "conv.switch.lead=-1: should be greater than or equal to 0"),
        ("conv.switch.trigger=sometimes", "conv.switch.trigger=sometimes: should be 'plateau', 'epoch' or 'never'"),
        ("++conv.switch={trigger: epoch, at: 0}", "conv.switch.at=0: should be greater than or equal to 1"),
        ("dataset=imagefolder", "dataset=imagefolder: there is no such option; did you mean image_folder"),
        ("experiment=quikstart", "did you mean quickstart"),
        ("lmbda 0.1", "is not understood"),
        ("experiment=null", "experiment=None: there is no such option; it is one of"),
        ("++experiment=quickstart", "type experiment=quickstart"),
        ("+experiment=quickstart", "this group has an option already; type experiment=OPTION"),
        ("~criterion.lmda", "did you mean criterion.lmbda"),
        ("criterion.lmbda=${criterion.lmda}", "criterion.lmbda: Interpolation key 'criterion.lmda' not found"),
        ("criterion.lmbda=${oc.env:RDTRAIN_NOT_SET}", "'RDTRAIN_NOT_SET' not found"),
        ("hydra.mode=FOO", "Error merging override hydra.mode=FOO: "),
        ("engine.threads=5000", "should be less than or equal to 1024"),
        ("engine.num_epochs=99999999999999999999", "should be less than or equal to 1000000000"),
        ("paths.runs='a\x00b'", "should be text without control characters"),
        ("=x", "is not understood"),
    ],
)
def test_a_mistake_is_named_with_what_to_type(override: str, sentence: str) -> None:
    config, problems = composed([override])
    problems += [] if config is None else check(config)[1]
    assert any(sentence in problem for problem in problems), problems


def test_all_mistakes_are_told_at_once() -> None:
    overrides = ["++criterion.lmda=1", "criterion.lmbda=-1", "dataset=nowhere", "++dataset.patch_size=0", "seed=x"]
    config, problems = composed(overrides)
    assert config is not None
    text = "\n".join(problems + check(config)[1])
    for key in ("criterion.lmda", "criterion.lmbda=-1", "dataset=nowhere", "dataset.patch_size=0", "seed=x"):
        assert key in text


def test_a_missing_key_is_named(raw: dict) -> None:
    less = copy.deepcopy(raw)
    del less["criterion"]["form"]
    assert check(less)[1] == ["criterion.form is missing: give criterion.form=..."]


def test_overrides_win_over_experiments_and_recipes() -> None:
    config, problems = composed(["experiment=quickstart", "recipe=zoo", "++scheduler.net.threshold=5e-4"])
    assert problems == [] and config is not None
    assert config["scheduler"]["net"]["factor"] == 0.5
    assert config["scheduler"]["net"]["threshold"] == 5e-4
    assert config["hp"] == {"N": 32, "M": 48}


def test_sweeps_are_checked_value_by_value() -> None:
    assert points(["criterion.lmbda=1,2,3", "seed=range(0,2)", "model.name=a"]) == [
        ["criterion.lmbda=1", "seed=0", "model.name=a"],
        ["criterion.lmbda=2", "seed=0", "model.name=a"],
        ["criterion.lmbda=3", "seed=0", "model.name=a"],
        ["criterion.lmbda=1", "seed=1", "model.name=a"],
    ]


def test_a_sweep_of_too_many_values_is_refused() -> None:
    with pytest.raises(UserError, match="more than 1000 values"):
        points(["seed=range(1,1000000000000)"])


def test_globs_of_groups_are_enumerated() -> None:
    assert points(["experiment=glob(quick*)"]) == [["experiment=quickstart"]]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lr", "x", "optimizer.net.lr=x: should be a finite number"),
        ("lr", float("inf"), "optimizer.net.lr=inf: should be a finite number"),
        ("amsgrad", 3, "optimizer.net.amsgrad=3: should be true or false"),
        ("_partial_", True, "optimizer.net._partial_ does not exist"),
        ("_target_", "torch.optim.Adamm", "is no class of kind torch.optim.Optimizer; did you mean torch.optim.Adam"),
        ("_target_", "torch.optim.LBFGS", "optimizer.net"),
    ],
)
def test_arguments_of_classes_are_judged_by_their_annotations(key: str, value: object, expected: str) -> None:
    from rdtrain.config.targets import optimization_problems

    node = {"_target_": "torch.optim.Adam", "lr": 1e-3}
    assert optimization_problems({"net": node}, {}) == []
    (problem,) = optimization_problems({"net": {**node, key: value}}, {})
    assert expected in problem


def _all_options() -> list[str]:
    return [
        f"{path.parent.relative_to(CONF)}={path.stem}" for path in sorted(CONF.glob("*/*.yaml")) if path.stem != "base"
    ]


def test_every_option_is_found() -> None:
    assert len(_all_options()) == 42


@pytest.mark.parametrize("option", _all_options())
def test_every_option_composes_and_its_objects_can_be_made(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rdtrain import build, preflight
    from rdtrain.models import complete

    if option == "launcher=ray":
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="hydra-ray-launcher is not installed")
    if option in ("engine=cuda", "engine=ddp"):  # whether this machine has what they need is not asked here
        monkeypatch.setattr(preflight, "device_problems", lambda engine: [])
    never = ["conv.switch.trigger=never"] if option.startswith("scheduler=") else []
    raw, problems = composed(["hp.N=4", "hp.M=6", option, *never])
    assert problems == [] and raw is not None
    config, problems = check(raw)
    assert problems == [] and config is not None
    assert preflight.problems(raw) == []
    config = complete(config)
    optimizers = build.optimizers(config, build.model(config, None))
    assert set(optimizers) == {"net", "aux"}
    wanted = {name for name in ("net", "aux") if getattr(config.scheduler, name) is not None}
    assert set(build.schedulers(config, optimizers, 10)) == wanted
    assert len(build.callbacks(config)) == 1 + sum(
        node is not None for node in (*config.callbacks.values(), *config.logger.values())
    )
    assert build.criterion(config).lmbda == config.criterion.lmbda


def test_the_smallest_side_for_ms_ssim_is_the_losss(raw: dict) -> None:
    from rdtrain.losses import MS_SSIM_MIN_SIDE

    for side, wrong in ((MS_SSIM_MIN_SIDE - 1, True), (MS_SSIM_MIN_SIDE, False)):
        changed = copy.deepcopy(raw)
        changed["criterion"]["metric"], changed["dataset"]["patch_size"] = "ms-ssim", side
        assert any("MS-SSIM" in problem for problem in check(changed)[1]) == wrong


def test_every_key_has_its_meaning_beside_it() -> None:
    for path in CONF.rglob("*.yaml"):
        if path.parent.name in ("recipe", "arm") or {"hydra", "experiment"} & set(path.parts):
            continue
        for line in path.read_text().split("\nhydra:")[0].splitlines():
            if line.strip() and not line.strip().startswith(("#", "- ", "defaults:")):
                chosen = path.stem != "base" and path.parent.name in ("conv", "dataset", "engine")  # said in base.yaml
                heads_others = line.endswith(":")
                assert "#" in line or "_target_" in line or chosen or heads_others, f"{path.name}: {line}"


def test_the_schema_and_the_yaml_have_the_same_keys(raw: dict) -> None:
    def keys(value: object, prefix: str = "") -> set[str]:
        if isinstance(value, dict):
            return {key for name, item in value.items() for key in keys(item, f"{prefix}{name}.")}
        return {prefix.rstrip(".")}

    free = ("hp", "optimizer.net", "optimizer.aux", "scheduler.net", "callbacks", "logger", "launcher", "search")
    ours = {key for key in keys(raw) if not key.startswith(free)}
    assert ours == {key for key in known_keys() if not key.startswith(free)}


def test_yaml_floats_are_floats() -> None:
    loaded = yaml.safe_load((CONF / "optimizer" / "adam.yaml").read_text())
    assert loaded["net"]["lr"] == "1e-4"  # plain YAML reads text here; Hydra's reader gives the number
    config, _ = composed([])
    assert config is not None and config["optimizer"]["net"]["lr"] == 1e-4

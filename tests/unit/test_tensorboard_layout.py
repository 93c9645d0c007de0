from __future__ import annotations

import re

from torch.utils.tensorboard.summary import custom_scalars as encoded

from rdtrain.metrics import METRICS, tag
from rdtrain.tensorboard_layout import charts, custom_scalars

WRITTEN = {tag(loader, name) for name, metric in METRICS.items() for loader in metric.loaders}


def test_every_curve_of_every_chart_is_one_that_runs_write() -> None:
    shown = [name for titles in charts().values() for tags in titles.values() for name in tags]
    assert len(shown) > 60
    assert set(shown) <= WRITTEN


def test_every_expression_matches_its_tag_and_no_other() -> None:
    # A name that only looks the same: the dot of an expression that is not escaped would match it.
    others = {*WRITTEN, *(f"{name}x" for name in WRITTEN), *(f"x{name}" for name in WRITTEN)}
    for category, titles in custom_scalars().items():
        for chart, (kind, expressions) in titles.items():
            assert kind == "Multiline"
            found = [[name for name in others if re.match(expression, name)] for expression in expressions]  # type: ignore[attr-defined]
            assert found == [[name] for name in charts()[category][chart]]


def test_the_comparisons_that_explain_a_difference_are_there() -> None:
    loss = charts()["Loss [1]"]
    assert list(loss) == [
        "forward: train, valid, infer",
        "infer: forward, real",
        "infer, real: unclamped, clamped, 8bit",
        "infer, forward: unclamped, clamped, 8bit",
        "train: noise, round, ste",
    ]
    assert loss["infer: forward, real"] == ["infer/loss/forward/clamped", "infer/loss/real/clamped"]
    assert all(len(tags) > 1 for titles in list(charts().values())[:-1] for tags in titles.values())


def test_tensorboards_own_writer_takes_it() -> None:
    (value,) = encoded(custom_scalars()).value
    assert value.tag == "custom_scalars__config__"
    assert rb"infer/loss/real/8bit" in value.tensor.string_val[0]

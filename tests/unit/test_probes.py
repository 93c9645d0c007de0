from __future__ import annotations

import copy
import itertools
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from compressai.models import FactorizedPrior
from tiny_codecs import CRITERION, images, spread_latents, tiny_model
from torch import Tensor, nn

from rdtrain.evaluation import evaluate_image, evaluation_copy
from rdtrain.probes import SYMBOL_LIMIT, LatentOverflow, Reuse, check_codable

pytestmark = pytest.mark.usefixtures("one_thread")


# Sharing


class CountCalls:
    def __init__(self, module: nn.Sequential) -> None:
        self.calls = 0
        module[0].register_forward_hook(self._count)  # the first layer: the module's own forward is replaced

    def _count(self, *args: Any) -> None:
        self.calls += 1


@pytest.mark.parametrize(("name", "synthesis"), [("bmshj2018-hyperprior", 1), ("mbt2018", 2)])
def test_sharing_computes_equal_inputs_once_and_only_those(name: str, synthesis: int) -> None:
    model = tiny_model(name)
    spread_latents(model, 8)
    model = evaluation_copy(model)
    analysis, decoder = CountCalls(model.g_a), CountCalls(model.g_s)
    x = images(1, 64, 64)
    evaluate_image(model, x, CRITERION, "shared")
    assert (analysis.calls, decoder.calls) == (1, synthesis)  # a context model decodes other latents
    evaluate_image(model, x, CRITERION, "shared")
    assert analysis.calls == 2  # nothing is kept for the next image
    evaluate_image(model, x, CRITERION, "full")
    assert analysis.calls == 4


def test_a_hyperprior_is_computed_once() -> None:
    model = tiny_model("bmshj2018-hyperprior")
    spread_latents(model, 8)
    model = evaluation_copy(model)
    h_a, h_s = CountCalls(model.h_a), CountCalls(model.h_s)
    x = images(1, 64, 64)
    shared = evaluate_image(model, x, CRITERION, "shared")
    assert (h_a.calls, h_s.calls) == (1, 1)
    full = evaluate_image(model, x, CRITERION, "full")
    assert (h_a.calls, h_s.calls) == (3, 4)
    assert shared.strings == full.strings


def test_a_reused_result_is_nobody_elses() -> None:
    reuse = Reuse(torch.device("cpu"))
    x = torch.rand(2, 3)
    for _ in range(3):
        out = reuse(torch.exp, x)
        assert torch.equal(out, x.exp())
        out.zero_()  # as decompress clamps in place
    kept = x.exp()
    x.add_(1)  # an input that was changed in place is another input
    assert torch.equal(reuse(torch.exp, x), x.exp())
    assert not torch.equal(x.exp(), kept)


def test_saved_time_is_counted_as_spent(factorized: Any) -> None:
    slow = copy.deepcopy(factorized)
    slow.g_a[0].register_forward_hook(lambda *args: time.sleep(0.05))
    slow.g_s[0].register_forward_hook(lambda *args: time.sleep(0.08))
    for mode in ("shared", "full"):
        metrics = evaluate_image(slow, images(1, 64, 64), CRITERION, mode).metrics
        assert 50 <= metrics["time/encode_net_ms"] < 80
        assert 80 <= metrics["time/decode_net_ms"] < 110
        assert 0 < metrics["time/encode_coder_ms"] < 50


def test_the_copy_is_left_as_it_was(factorized: Any) -> None:
    before = {name: set(vars(module)) for name, module in factorized.named_modules()}
    hooks = {name: len(module._forward_hooks) for name, module in factorized.named_modules()}
    coder = set(vars(factorized.entropy_bottleneck.entropy_coder))
    evaluate_image(factorized, images(1, 64, 64), CRITERION)
    with pytest.raises(LatentOverflow):
        evaluate_image(factorized, torch.full((1, 3, 64, 64), math.nan), CRITERION)
    assert {name: set(vars(module)) for name, module in factorized.named_modules()} == before
    assert {name: len(module._forward_hooks) for name, module in factorized.named_modules()} == hooks
    assert set(vars(factorized.entropy_bottleneck.entropy_coder)) == coder


# What CompressAI's coder would hang on; it cannot be interrupted, so it runs in a process of its own

PROGRAM = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from rdtrain.evaluation import evaluate_image, evaluation_copy
from rdtrain.losses import RateDistortionLoss
sys.path.insert(0, {tests!r})
from tiny_codecs import images, tiny_model

class Bad(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x):
        y = self.inner(x).clone()
        y[0, -1, -1, -1] = self.value
        return y

places = {{
    "bmshj2018-factorized": ["g_a"],
    "mbt2018-mean": ["g_a", "h_a", "h_s"],
    "mbt2018": ["g_a", "h_s"],
    "mbt2018-vbr": ["g_a", "h_s"],
    "elic2022-official": ["g_a"],
}}
for name, part in [(name, part) for name, parts in places.items() for part in parts]:
    model = evaluation_copy(tiny_model(name))
    bad = Bad(getattr(model, part))
    setattr(model, part, bad)
    for bad.value in (float("nan"), -float("inf"), 2.0**27, 1e30):
        if part == "h_s":
            bad.value = float("nan")  # of the means; a scale may be as large as it likes
        try:
            evaluate_image(model, images(1, 64, 64), RateDistortionLoss(0.01))
            print("coded", name, part, bad.value)
        except ValueError as error:
            print(type(error).__name__, name, part, bad.value)
print("now without the guard", flush=True)
model = evaluation_copy(tiny_model("bmshj2018-factorized"))
model.compress(torch.full((1, 3, 64, 64), float("nan")))
print("returned")
"""


@pytest.mark.slow
def test_latents_that_hang_the_coder_are_refused() -> None:
    command = [sys.executable, "-c", PROGRAM.format(tests=str(Path(__file__).parent))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(120, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            lines = list(itertools.takewhile(lambda line: not line.startswith("now"), process.stdout))
            assert len(lines) == 9 * 4
            assert {line.split()[0] for line in lines} == {"LatentOverflow"}
            with pytest.raises(subprocess.TimeoutExpired):  # the guard is needed
                process.wait(timeout=4)
        finally:
            killer.cancel()
            process.kill()


def test_the_limit_of_what_can_be_coded() -> None:
    check_codable(torch.tensor([SYMBOL_LIMIT - 8.0, 8.0 - SYMBOL_LIMIT]))
    for value in (SYMBOL_LIMIT, -SYMBOL_LIMIT, math.nan, math.inf):
        with pytest.raises(LatentOverflow, match="this model has diverged"):
            check_codable(torch.tensor([0.0, value]))


def test_the_largest_latents_allowed_are_coded_and_decoded(factorized: Any) -> None:
    model = copy.deepcopy(factorized)
    largest = float(SYMBOL_LIMIT - 4096)

    class Large(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x).clone()
            y[0, :2, 1, 1] = torch.tensor([largest, -largest])
            return y

    model.g_a = Large(model.g_a)
    row = evaluate_image(model, images(1, 64, 64), CRITERION)
    assert row.metrics["latents/mismatched"] == 0
    assert abs(row.metrics["rate_gap/total"]) < math.inf


def test_latents_too_few_for_the_coder_are_refused() -> None:
    model = evaluation_copy(FactorizedPrior(4, 2))
    with pytest.raises(ValueError, match="2 latents: CompressAI's coder needs at least 3"):
        evaluate_image(model, torch.rand(1, 3, 16, 16), CRITERION)
    assert evaluate_image(model, torch.rand(1, 3, 16, 32), CRITERION).metrics["bpp/real"] > 0

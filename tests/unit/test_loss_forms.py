"""When `criterion.form=rd` and `dr` are the same training, and when not: the table of docs/loss_forms.md."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compressai.registry import MODELS
from tiny_codecs import images
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rdtrain.losses import RateDistortionLoss

pytestmark = pytest.mark.usefixtures("one_thread")

LAMBDA = 0.0067
FACTOR = LAMBDA * 255**2  # of the rd loss over the dr loss, 435.7
DR_LAMBDA = 1 / FACTOR
DOC = Path(__file__).parents[2] / "docs" / "loss_forms.md"

Make = Callable[[list[nn.Parameter], float], Optimizer]  # the second argument is the form's scale: 1, or 1 / FACTOR
# label in the document: (optimizer, clip_grad_norm)
TRAININGS: dict[str, tuple[Make, float | None]] = {
    "Adam, eps 1e-16, no clipping": (lambda p, scale: Adam(p, 1e-3, eps=1e-16), None),
    "Adam, eps 1e-8 (torch's), no clipping": (lambda p, scale: Adam(p, 1e-3), None),
    "Adam, eps 1e-16, clipping at 1": (lambda p, scale: Adam(p, 1e-3, eps=1e-16), 1.0),
    "Adam, eps 1e-16, weight decay 1e-2": (lambda p, scale: Adam(p, 1e-3, eps=1e-16, weight_decay=1e-2), None),
    "AdamW, eps 1e-16, weight decay 1e-2": (lambda p, scale: AdamW(p, 1e-3, eps=1e-16, weight_decay=1e-2), None),
    "SGD, one learning rate": (lambda p, scale: SGD(p, 1e-6), None),
    "SGD, learning rate of dr 435.7 times that of rd": (lambda p, scale: SGD(p, 1e-6 / scale), None),
}
SAME = {
    "Adam, eps 1e-16, no clipping",
    "AdamW, eps 1e-16, weight decay 1e-2",
    "SGD, learning rate of dr 435.7 times that of rd",
}


def train(form: str, make: Make, clip: float | None, steps: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = MODELS["bmshj2018-factorized"](N=8, M=12).train()
    parameters = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    criterion = RateDistortionLoss(LAMBDA if form == "rd" else DR_LAMBDA, form=form)
    optimizer = make(parameters, 1 if form == "rd" else 1 / FACTOR)
    start = nn.utils.parameters_to_vector(parameters).detach().clone()
    x = images(4, 64, 64)
    for step in range(steps):
        torch.manual_seed(step)  # the same noise for both forms
        optimizer.zero_grad()
        batch = x[2 * (step % 2) :][:2] * (0.1 if step % 2 else 1)  # gradients of different norms
        criterion(model(batch), batch)["loss"].backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
    return start, nn.utils.parameters_to_vector(parameters).detach()


@functools.cache
def both(label: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The weights before, and after training by rd and by dr."""
    (start, rd), (_, dr) = (train(form, *TRAININGS[label]) for form in ("rd", "dr"))
    return start, rd, dr


def difference(label: str) -> float:
    """Distance between the weights that both forms end with, over the way that the rd form went."""
    start, rd, dr = both(label)
    return float((rd - dr).norm() / (rd - start).norm())


@pytest.mark.parametrize("label", TRAININGS)
def test_which_trainings_are_the_same(label: str) -> None:
    _, rd, dr = both(label)
    if label in SAME:
        assert (rd - dr).norm() < 1e-4 * rd.norm()
        assert difference(label) < 1e-3
    else:
        assert difference(label) > 0.03


def test_the_document_has_these_numbers() -> None:
    text = DOC.read_text()
    for label in TRAININGS:
        found = re.search(rf"^\| {re.escape(label)} \| ([\d.e-]+) \|", text, re.MULTILINE)
        assert found is not None, label
        stated, measured = float(found[1]), difference(label)
        assert max(stated, 1e-5) / 1.5 < max(measured, 1e-5) < max(stated, 1e-5) * 1.5, f"{label}: {measured:.2g}"


def test_the_factor_and_the_other_lambda_are_those_of_the_document() -> None:
    text = DOC.read_text()
    assert f"{FACTOR:.1f}" in text and f"{DR_LAMBDA:.7f}" in text


@pytest.mark.parametrize(("mode", "same"), [("rel", True), ("abs", False)])
def test_a_plateau_is_the_same_where_its_threshold_is_relative(mode: str, same: bool) -> None:
    losses = [3.0, 2.0, 1.9, 1.895, 1.8945, 1.89, 1.8899, 1.8898, 1.8, 1.7999]

    def drops(scale: float) -> list[float]:
        optimizer = SGD([nn.Parameter(torch.zeros(1))], 1.0)
        scheduler = ReduceLROnPlateau(optimizer, patience=1, threshold=1e-3, threshold_mode=mode)  # type: ignore[arg-type]
        rates = []
        for loss in losses:
            scheduler.step(loss * scale)
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    assert drops(1)[-1] < 1
    assert (drops(1) == drops(1 / FACTOR)) == same

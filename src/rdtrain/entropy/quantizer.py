"""How latents are quantised in training: noise, straight-through rounding, or each where it does better.

CompressAI trains with uniform noise (Ballé et al. 2017, section 3). Straight-through rounding (Theis et al. 2017) shows
the decoder what it will get. Minnen & Singh (2020, section 3.3) take the rate from noisy and the image from rounded
latents. Evaluation and coding always round; nothing here touches them.
"""

from __future__ import annotations

from typing import Any

import torch
from compressai.entropy_models import EntropyModel
from torch import Tensor, nn

from rdtrain.losses import RateDistortionLoss
from rdtrain.mixing import mix_in


class _Quantized:
    """Mixed into an entropy model's class, whose forward pass quantises and then takes likelihoods of the result."""

    quantizer = "noise"
    _noisy: Tensor | None = None

    def quantize(self, inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        self._noisy = None
        kept: Any = super()
        if mode != "noise" or self.quantizer == "noise":
            return kept.quantize(inputs, mode, means)
        if self.quantizer == "mixed":
            self._noisy = kept.quantize(inputs, mode, means)
        rounded = kept.quantize(inputs.detach(), "dequantize", None if means is None else means.detach())
        return rounded + (inputs - inputs.detach())  # exactly the rounded value, with the gradient of the inputs

    def _likelihood(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        noisy, self._noisy = self._noisy, None
        kept: Any = super()
        return kept._likelihood(inputs if noisy is None else noisy, *args, **kwargs)


def use_quantizer(model: nn.Module, quantizer: str) -> list[str]:
    """Choose how a model quantises in training.

    Args:
        model: a compression model, changed in place; a deep copy keeps the change, a state dict knows nothing of it.
        quantizer: `noise` leaves all as CompressAI does it; `ste` rounds for image and rate, with the gradient of the
            latents themselves; `mixed` rounds for the image and takes the rate from noisy latents.

    Returns:
        Names of the entropy models that were changed.

    Raises:
        ValueError: there is nothing to change.
    """
    if quantizer == "noise":
        return []
    found = {name: module for name, module in model.named_modules() if isinstance(module, EntropyModel)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no entropy model that could quantise by {quantizer}")
    for module in found.values():
        mix_in(_Quantized, module)
        module.quantizer = quantizer
    return list(found)


@torch.no_grad()
def noise_terms(criterion: RateDistortionLoss, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Compute what a batch would have cost under noise, whatever the model is trained with.

    Args:
        criterion: the loss.
        model: in training, without a wrapper; it and the random state are left as they were.
        x: the batch, (B, 3, H, W).

    Returns:
        The criterion's terms.
    """
    changed = [module for module in model.modules() if isinstance(module, _Quantized)]
    before = [module.quantizer for module in changed]
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        try:
            for module in changed:
                module.quantizer = "noise"
            return criterion(model(x), x)
        finally:
            for module, quantizer in zip(changed, before, strict=True):
                module.quantizer = quantizer

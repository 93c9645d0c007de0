"""Entropy bottlenecks that train faster and compile to one graph."""

from __future__ import annotations

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor, nn

from rdtrain.mixing import put_behind


class _Mended(EntropyBottleneck):
    """Behind the class of an entropy bottleneck: CompressAI 1.2.8's methods without what slows training down.

    It permutes by tensors of axes. Each axis is a number that the host waits for on a GPU, and that torch.compile
    cannot know, so that it breaks the graph (CompressAI's pull request 344). And both ends of a likelihood's interval
    go through the network of the density one after the other.
    """

    def forward(self, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        mode = "noise" if (self.training if training is None else training) else "dequantize"
        by_channel = x.transpose(0, 1).contiguous()  # (C, B, ...)
        values = self.quantize(by_channel.reshape(len(by_channel), 1, -1), mode, self._get_medians())
        likelihood, _, _ = self._likelihood(values)
        if self.use_likelihood_bound:
            likelihood = self.likelihood_lower_bound(likelihood)
        x_hat, likelihood = (
            value.reshape(by_channel.shape).transpose(0, 1).contiguous() for value in (values, likelihood)
        )
        return x_hat, likelihood

    def _likelihood(self, inputs: Tensor, stop_gradient: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        if not torch.is_grad_enabled():  # evaluations and coder tables keep CompressAI's bits
            return super()._likelihood(inputs, stop_gradient)
        ends = torch.cat((inputs - 0.5, inputs + 0.5), -1)
        lower, upper = self._logits_cumulative(ends, stop_gradient).chunk(2, -1)
        return torch.sigmoid(upper) - torch.sigmoid(lower), lower, upper


def mend_bottlenecks(model: nn.Module) -> list[str]:
    """Let torch.compile make one graph of a model, and no entropy bottleneck wait for the GPU.

    Without gradients the numbers are CompressAI's to the last bit, with them to float32's rounding.

    Args:
        model: changed in place; a deep copy keeps the change, a state dict knows nothing of it.

    Returns:
        Names of the entropy bottlenecks.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, EntropyBottleneck)}
    for module in found.values():
        if not isinstance(module, _Mended):
            module.__class__ = put_behind(_Mended, type(module))
    return list(found)

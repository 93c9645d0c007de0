"""The way of one batch of a classifier: images -> logits -> cross entropy -> step.

Shapes: x (B, C, H, W) or coefficients (B, C, Y, X, 64); labels (B,).
"""

from __future__ import annotations

import torch.nn.functional as F
from rdtrain.runners.measuring import MeasuringRunner
from torch import Tensor


class ClassificationRunner(MeasuringRunner):
    """Trains a classifier; loaders `train` and `valid`."""

    def measure(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Classify a batch.

        Args:
            batch: `x` and `label`.

        Returns:
            Cross entropy `loss` and `accuracy`, 0 or 1, of each image, (B,).
        """
        logits, labels = self.model(batch["x"]), batch["label"]
        losses = F.cross_entropy(logits, labels, reduction="none")
        return {"loss": losses, "accuracy": (logits.argmax(1) == labels).to(losses.dtype)}

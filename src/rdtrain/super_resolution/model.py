"""What halves images, and the network that doubles them again.

Shapes: images (B, 3, H, W) in [0, 1], H and W even; halves (B, 3, H/2, W/2).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rdtrain.metrics import to_8bit

SCALE = 2


def halved(x: Tensor) -> Tensor:
    """Halve images by bicubic interpolation with a low-pass filter, and round to 8 bits as a file would.

    Args:
        x: (B, 3, H, W).

    Returns:
        (B, 3, H/2, W/2).
    """
    return to_8bit(F.interpolate(x, scale_factor=1 / SCALE, mode="bicubic", antialias=True))


def bicubic(x: Tensor) -> Tensor:
    """Double images by bicubic interpolation, what the network has to beat.

    Args:
        x: halves.

    Returns:
        (B, 3, H, W).
    """
    return F.interpolate(x, scale_factor=SCALE, mode="bicubic")


class SmallSuperResolution(nn.Module):
    """Adds to the bicubic interpolation what three convolutions at the small size make of it.

    Source: the sub-pixel convolution of Shi et al., "Real-Time Single Image and Video Super-Resolution Using an
    Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016, with the residual of Kim, Lee and Lee, "Accurate Image
    Super-Resolution Using Very Deep Convolutional Networks", CVPR 2016. The kernels are 5x5 as in a codec.

    Args:
        width: channels between the convolutions.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, 3 * SCALE**2, 5, padding=2),
            nn.PixelShuffle(SCALE),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Double images.

        Args:
            x: halves.

        Returns:
            (B, 3, H, W), not clamped.
        """
        return bicubic(x) + self.body(x)

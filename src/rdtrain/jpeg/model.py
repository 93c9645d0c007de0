"""The small residual network of the experiment, on pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut.

    The shortcut is a 1x1 convolution where the block halves the image or changes several channels into others. From one
    channel it adds that channel to every channel of the result, as the source has it.

    Args:
        before: channels in.
        after: channels out.
        stride: 1 or 2.
        relu: makes the nonlinearity.
    """

    def __init__(self, before: int, after: int, stride: int, relu: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(after), relu()
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(after), relu()
        broadcasts = stride == 1 and before in (1, after)
        self.shortcut = nn.Identity() if broadcasts else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Args:
            x: (B, before, H, W), or its coefficients.

        Returns:
            (B, after, H / stride, W / stride), or its coefficients.
        """
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """Three residual blocks, the last two at half the size, and a linear layer: 75,226 parameters as published.

    Args:
        in_channels: of the images.
        widths: channels of the three blocks.
        classes: of the answer.
        relu: makes a nonlinearity, `nn.ReLU` or such as `rdtrain.jpeg.relu.BlockReLU`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (16, 32, 64),
        classes: int = 10,
        relu: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.block1 = ResidualBlock(in_channels, first, 1, relu)
        self.block2 = ResidualBlock(first, second, 2, relu)
        self.block3 = ResidualBlock(second, third, 2, relu)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: (B, in_channels, H, W), H and W multiples of 32, or its coefficients.

        Returns:
            Logits, (B, classes).
        """
        return self.fc(self.pool(self.block3(self.block2(self.block1(x)))).flatten(1))

"""ReLU of JPEG coefficients: the sign of each pixel is seen through its block's low frequencies only.

Shapes: F (..., 64) coefficients, p pixel of a block. `n_freqs` is the largest alpha + beta that is looked at, 0 to 14:
14 keeps all 64 coefficients ("15 spatial frequencies" in the paper), 10 keeps 54, 0 the block's mean.

Source: Ehrlich and Davis, ICCV 2019, section 4.2: approximated spatial masking (ASM) applies the approximate mask to
the exact block; the alternative that it beats applies ReLU to the approximate block (APX).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rdtrain.jpeg.codec import ALL_FREQUENCIES, BLOCK, COEFFICIENTS, RANK, Codec, from_blocks, kept, to_blocks

_AT_ONCE = 4096  # blocks that are mixed at a time; each makes a 64 x 64 matrix


def seen_pixels(n_freqs: int, codec: Codec) -> Tensor:
    """The map from a block's coefficients to the pixels that its low frequencies give.

    Args:
        n_freqs: largest alpha + beta, 0 to 14.
        codec: with one table.

    Returns:
        (64 coefficients, 64 pixels).
    """
    low = torch.from_numpy(kept(n_freqs)).to(codec.q.device)
    return torch.where(low[:, None], codec.scale[:, None] * codec.basis, 0.0)


def mixing_tensor(codec: Codec) -> Tensor:
    """The harmonic mixing tensor: masking of pixels, written for coefficients.

    Args:
        codec: with one table.

    Returns:
        (64 pixels, 64, 64), 262,144 numbers: `F'[l] = sum_pk F[k] H[p,k,l] mask[p]`.
    """
    decode, encode = codec.scale[:, None] * codec.basis, codec.basis / codec.scale[:, None]
    return torch.einsum("kp,lp->pkl", decode, encode)


class JpegReLU(nn.Module):
    """Approximate ReLU of coefficients; exact at `n_freqs=14` up to rounding.

    Args:
        codec: of the coefficients, with one table; its tensors are copied.
        n_freqs: largest alpha + beta that the mask is computed from.
        mixing: mask by the harmonic mixing tensor instead of decode, mask, encode; the result is the same.
    """

    seen: Tensor
    decode: Tensor
    encode: Tensor

    def __init__(self, codec: Codec, n_freqs: int = ALL_FREQUENCIES, mixing: bool = False) -> None:
        super().__init__()
        self.n_freqs, self.mixing = n_freqs, mixing
        self.register_buffer("seen", seen_pixels(n_freqs, codec))
        if mixing:
            self.register_buffer("mix", mixing_tensor(codec))
        else:
            self.register_buffer("decode", codec.scale[:, None] * codec.basis)
            self.register_buffer("encode", (codec.basis / codec.scale[:, None]).T.contiguous())

    def forward(self, coefficients: Tensor) -> Tensor:
        """Mask.

        Args:
            coefficients: (B, C, Y, X, 64); after the pooling, where there are no blocks any more, of another rank.

        Returns:
            Same shape.
        """
        if coefficients.ndim != RANK:
            return coefficients.relu()
        if self.mixing:
            blocks = coefficients.reshape(-1, COEFFICIENTS).split(_AT_ONCE)
            return torch.cat([self._mix(some) for some in blocks]).view(coefficients.shape)
        return (coefficients @ self.decode * (coefficients @ self.seen >= 0)) @ self.encode

    def _mix(self, blocks: Tensor) -> Tensor:
        mask = (blocks @ self.seen >= 0).to(blocks.dtype)
        mixed = (mask @ self.get_buffer("mix").flatten(1)).view(-1, COEFFICIENTS, COEFFICIENTS)
        return (blocks[:, None] @ mixed)[:, 0]

    def extra_repr(self) -> str:
        """What is approximated."""  # noqa: DOC201 - what nn.Module prints
        return f"n_freqs={self.n_freqs}, mixing={self.mixing}"


class BlockReLU(nn.Module):
    """The same function of pixels: a network trained with it is one trained on coefficients.

    Every other layer of a network on coefficients is the exact image of its layer on pixels, so their gradients with
    respect to the weights are equal too, and training on pixels is cheaper.

    Args:
        n_freqs: largest alpha + beta that the mask is computed from.
    """

    project: Tensor

    def __init__(self, n_freqs: int) -> None:
        super().__init__()
        self.n_freqs = n_freqs
        low = Codec().basis[torch.from_numpy(kept(n_freqs))]
        self.register_buffer("project", low.T @ low)

    def forward(self, x: Tensor) -> Tensor:
        """Mask.

        Args:
            x: (B, C, H, W), H and W multiples of 8.

        Returns:
            Same shape.
        """
        with torch.no_grad():
            mask = from_blocks(to_blocks(x) @ self.project >= 0)
        return x * mask


def approximation_errors(blocks: int, seed: int) -> list[dict[str, float]]:
    """Compare both approximations of ReLU, as in the paper's figure.

    Args:
        blocks: random 4x4 blocks, uniform in [-1, 1], each pixel doubled to 8x8.
        seed: of the blocks.

    Returns:
        For `n_freqs` 0 to 14: `coefficients` kept, root mean squared error over all pixels of `asm` and of `apx`.
    """
    codec, exact = Codec(torch.ones(COEFFICIENTS).double().numpy()), nn.functional.relu
    small = torch.rand(blocks, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    pixels = small.repeat_interleave(2, -1).repeat_interleave(2, -2).view(blocks, BLOCK * BLOCK)
    coefficients = pixels @ codec.basis.T
    rows = []
    for n_freqs in range(ALL_FREQUENCIES + 1):
        seen = coefficients @ seen_pixels(n_freqs, codec)
        errors = {"asm": pixels * (seen >= 0) - exact(pixels), "apx": exact(seen) - exact(pixels)}
        rms = {name: float(error.square().mean().sqrt()) for name, error in errors.items()}
        rows.append({"n_freqs": n_freqs, "coefficients": int(kept(n_freqs).sum()), **rms})
    return rows

"""The rate-distortion plane: bits per pixel along x, quality in dB along y, and the loss as a function of both.

Quality is PSNR, or MS-SSIM in dB (-10 log10(1 - MS-SSIM)). Both make the distortion D = 10^(-quality / 10), so that one
formula L = R + lmbda * scale * D holds for both losses of CompressAI: scale is 255^2 for MSE (its lambdas are made for
pixel values up to 255) and 1 for MS-SSIM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdtrain.errors import UserError

METRICS = ("psnr", "ms-ssim")
QUALITY_LABEL = {"psnr": "PSNR (RGB), mean over images [dB]", "ms-ssim": "MS-SSIM (RGB) [dB]"}
OF_MEAN_LABEL = {**QUALITY_LABEL, "psnr": "PSNR (RGB) of the mean MSE [dB]"}
LOSS_LABEL = {"psnr": "L = R + λ·255²·MSE", "ms-ssim": "L = R + λ·(1 - MS-SSIM)"}
NAN = float("nan")


@dataclass(frozen=True)
class RDPoint:
    """One measured point: a model, one way through it and one treatment of the reconstruction, averaged over images.

    Args:
        path: `forward` (the model's forward pass, estimated rate) or `real` (compress, then decompress).
        variant: `unclamped`, `clamped` or `8bit` reconstruction; empty when the source does not say.
        bpp: bits per pixel.
        psnr: mean of the images' PSNR, dB.
        psnr_of_mean_mse: PSNR of the images' mean MSE, dB; on the plane this one gives the logged loss exactly.
        ms_ssim: mean of the images' MS-SSIM, linear.
    """

    path: str
    variant: str
    bpp: float
    psnr: float = NAN
    psnr_of_mean_mse: float = NAN
    ms_ssim: float = NAN

    def quality(self, metric: str, of_mean: bool = False) -> float:
        """Where the point lies along y.

        Args:
            metric: `psnr` or `ms-ssim`.
            of_mean: take the PSNR of the mean MSE, where it was measured, instead of the mean PSNR.

        Returns:
            dB; MS-SSIM is always the dB of the mean, as in the published figures. NaN when not measured.
        """
        if metric == "ms-ssim":
            return float(ms_ssim_db(self.ms_ssim))
        return self.psnr_of_mean_mse if of_mean and np.isfinite(self.psnr_of_mean_mse) else self.psnr

    def loss(self, metric: str, lmbda: float) -> float:
        """The loss of the point.

        Args:
            metric: `psnr` or `ms-ssim`.
            lmbda: weight of the distortion.

        Returns:
            R + lmbda * scale * D, with D from the mean MSE where it was measured.
        """
        return float(loss_at(self.bpp, self.quality(metric, of_mean=True), lmbda, metric))


def rd_lmbda(lmbda: float, form: str, metric: str) -> float:
    """The lambda of R + lmbda * scale * D.

    Args:
        lmbda: of the training.
        form: of the training's loss, `rd`, or `dr` for D + lmbda * R.
        metric: `psnr` or `ms-ssim`.

    Returns:
        The same lambda for `rd`, 1 / (lmbda * scale) for `dr`.
    """
    return 1 / (lmbda * scale(metric)) if form == "dr" else lmbda


def ms_ssim_db(ms_ssim: ArrayLike) -> NDArray[np.float64]:
    """MS-SSIM in dB.

    Args:
        ms_ssim: linear, up to 1.

    Returns:
        -10 log10(1 - ms_ssim), infinite for 1.
    """
    with np.errstate(divide="ignore"):
        return -10 * np.log10(1 - np.asarray(ms_ssim, dtype=np.float64))


def scale(metric: str) -> float:
    """What the distortion is multiplied with beside lmbda.

    Args:
        metric: `psnr` or `ms-ssim`.

    Returns:
        255^2 for psnr, 1 for ms-ssim.

    Raises:
        UserError: for any other metric.
    """
    if metric not in METRICS:
        raise UserError(f"{metric!r} is no quality of the plane; type one of {', '.join(METRICS)}.")
    return 255.0**2 if metric == "psnr" else 1.0


def loss_at(bpp: ArrayLike, quality: ArrayLike, lmbda: float, metric: str) -> NDArray[np.float64]:
    """The loss at points of the plane.

    Args:
        bpp: rates, any shape.
        quality: dB, broadcasts against bpp.
        lmbda: weight of the distortion.
        metric: `psnr` or `ms-ssim`.

    Returns:
        R + lmbda * scale * 10^(-quality / 10).
    """
    distortion = 10 ** (-np.asarray(quality, dtype=np.float64) / 10)
    return np.asarray(bpp, dtype=np.float64) + lmbda * scale(metric) * distortion


def contour_quality(bpp: ArrayLike, loss: float, lmbda: float, metric: str) -> NDArray[np.float64]:
    """The contour of equal loss as quality over rate.

    Args:
        bpp: rates.
        loss: the contour's loss.
        lmbda: weight of the distortion.
        metric: `psnr` or `ms-ssim`.

    Returns:
        dB at each rate; NaN from the rate on that uses up the whole loss.
    """
    distortion = (loss - np.asarray(bpp, dtype=np.float64)) / (lmbda * scale(metric))
    return -10 * np.log10(np.where(distortion > 0, distortion, np.nan))


def contour_slope(quality: ArrayLike, lmbda: float, metric: str) -> NDArray[np.float64]:
    """How steep the contour through a point is: dB that one more bit per pixel must buy for the loss to stay equal.

    Args:
        quality: dB.
        lmbda: weight of the distortion.
        metric: `psnr` or `ms-ssim`.

    Returns:
        dQ/dR = 10 / (ln 10 * lmbda * scale * D), dB per bit per pixel.
    """
    distortion = 10 ** (-np.asarray(quality, dtype=np.float64) / 10)
    return 10 / (np.log(10) * lmbda * scale(metric) * distortion)

"""The table of Bjontegaard differences between the report's curves and their anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rdtrain.report.bd import BD, DRAWS, Array, PerImage, difference, interval
from rdtrain.report.figures import slug
from rdtrain.report.measurements import of_images
from rdtrain.report.rd import RDCurve
from rdtrain.report.references import Reference
from rdtrain.report.tables import NOT_MEASURED, Table

_QUANTITY = {"psnr": "psnr", "ms-ssim": "ms_ssim"}
_UNIT = {"psnr": "BD-PSNR [dB]", "ms-ssim": "BD-MS-SSIM [dB]"}
MIN_POINTS = 4
"""Bjontegaard's method is made for curves of four; through fewer, what lies between the points is a guess."""
MIN_OVERLAP = 0.2
"""Least common share of the quality; less compares the end of one curve with the beginning of another."""
_NOTE = (
    f"Interval: 95 % bootstrap over images, {DRAWS} draws; paired where both curves were measured image by image, "
    "else with the anchor fixed, which makes it too wide."
)


def per_image(curve: RDCurve, metric: str) -> PerImage | None:
    """A curve before averaging over images, its seeds averaged.

    Args:
        curve: the curve.
        metric: `psnr` or `ms-ssim`.

    Returns:
        The values of all images at all points; None when a point was not measured image by image on the same images.
    """
    rows = [[of_images(one, curve.path, _QUANTITY[metric]) for one in members] for members in curve.members]
    if any(found is None for row in rows for found in row):
        return None
    names = {tuple(one.images["image"]) for members in curve.members for one in members}
    if len(names) != 1:
        return None
    bpp, quality = (np.array([np.mean([found[i] for found in row if found], axis=0) for row in rows]) for i in (0, 1))
    return PerImage(names.pop(), bpp, quality)


def bd_table(
    curves: Sequence[RDCurve], anchors: Sequence[RDCurve | Reference], metric: str, dataset: str
) -> Table | None:
    """Compare every curve with every anchor.

    Args:
        curves: the report's curves on one data set and path.
        anchors: published curves, or one of the report's; a curve is not compared with itself.
        metric: `psnr` or `ms-ssim`.
        dataset: name of the images.

    Returns:
        One row a pair, with the reason where no difference can be computed; None without a pair.
    """
    rows = [_row(curve, anchor, metric) for curve in curves for anchor in anchors if curve is not anchor]
    header = ["curve", "anchor", "points", "BD-rate [%]", "95 % interval [%]", _UNIT[metric]]
    header += ["common quality [dB]", "overlap [%]", "common rate [bit/pixel]"]
    title = f"Bjontegaard differences on {dataset}, {curves[0].path} path, {metric}" if curves else ""
    return Table(slug(f"bd-{metric}-{dataset}"), title, header, rows, _NOTE) if rows else None


def _row(curve: RDCurve, anchor: RDCurve | Reference, metric: str) -> list[str]:
    points = f"{curve.bpp.shape[0]} and {anchor.bpp.shape[0]}"
    names = [curve.name, _anchor_name(anchor), points]
    try:
        found = _difference(_means(anchor, metric), _means(curve, metric))
    except ValueError as reason:
        return [*names, f"none: {reason}", *[NOT_MEASURED] * 5]
    low, high = found.quality_range
    left, right = found.rate_range
    shares = [f"{low:.2f} to {high:.2f}", f"{100 * found.overlap:.0f}", f"{left:.4f} to {right:.4f}"]
    return [*names, f"{found.rate:+.2f}", _interval(curve, anchor, metric), f"{found.quality:+.3f}", *shares]


def _difference(anchor: tuple[Array, Array], test: tuple[Array, Array]) -> BD:
    found = difference(anchor, test)
    if found.overlap < MIN_OVERLAP:
        raise ValueError(f"the curves share only {100 * found.overlap:.0f} % of their quality")
    if min(anchor[0].size, test[0].size) < MIN_POINTS:
        raise ValueError(f"a curve has fewer than {MIN_POINTS} points")
    return found


def _means(curve: RDCurve | Reference, metric: str) -> tuple[Array, Array]:
    if isinstance(curve, Reference):
        return curve.bpp, curve.quality(metric)
    return curve.bpp[:, 1], curve.quality[:, 1]


def _anchor_name(anchor: RDCurve | Reference) -> str:
    if isinstance(anchor, RDCurve):
        return anchor.name
    return f"{anchor.curve} ({', '.join(filter(None, ['published', anchor.tag]))})"


def _interval(curve: RDCurve, anchor: RDCurve | Reference, metric: str) -> str:
    test = per_image(curve, metric)
    if test is None:
        return NOT_MEASURED
    own = per_image(anchor, metric) if isinstance(anchor, RDCurve) else None
    paired = own is not None and own.names == test.names
    low, high = interval(own if own is not None and paired else _means(anchor, metric), test, metric)
    if math.isnan(low):
        return "too few draws overlap"
    return f"{low:+.2f} to {high:+.2f}, {'paired' if paired else 'anchor fixed'}"

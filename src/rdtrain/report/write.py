"""Put a report on disk: the page, the figures, the tables, and the curves in CompressAI's format."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from rdtrain.errors import UserError
from rdtrain.report.evaluations import REPORT
from rdtrain.report.figures import slug
from rdtrain.report.html import Section, page
from rdtrain.report.measurements import Measurement, mean_of
from rdtrain.report.rd import RDCurve, rd_curves


def write(out: Path, notes: Sequence[str], sections: Sequence[Section], measurements: Sequence[Measurement]) -> None:
    """Write everything and print the tables and what was written.

    Args:
        out: the folder, made when missing; files of the same names are replaced.
        notes: sentences for the top of the page.
        sections: of `build.sections`.
        measurements: for the curves.

    Raises:
        UserError: when the folder cannot be written.
    """
    try:
        for folder in (out / "figures", out / "tables", out / "curves"):
            folder.mkdir(parents=True, exist_ok=True)
        for section in sections:
            for table in section.tables:
                table.save(out / "tables")
                print(table.text(), end="\n\n")
            for plot in section.plots:
                plot.save(out / "figures")
        curves = write_curves(measurements, out / "curves")
        (out / "report.html").write_text(page("rdtrain report", notes, sections), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}); type another --out.") from error
    figures = sum(len(section.plots) for section in sections)
    tables = sum(len(section.tables) for section in sections)
    print(f"{out / 'report.html'}: {figures} figures (PNG, SVG), {tables} tables (CSV), {curves} curves (JSON)")


def write_curves(measurements: Sequence[Measurement], folder: Path) -> int:
    """Write each curve of real bitstreams as CompressAI's plot tool reads it.

    Args:
        measurements: all.
        folder: where to, must exist.

    Returns:
        The number of files.
    """
    written = 0
    for dataset in dict.fromkeys(one.dataset for one in measurements):
        ours = [one for one in measurements if one.dataset == dataset]
        for curve in rd_curves(ours, "psnr", "real") or rd_curves(ours, "ms-ssim", "real"):
            name = slug(f"{curve.name}-{dataset}")
            (folder / f"{name}.json").write_text(json.dumps(compressai_results(curve, dataset), indent=2) + "\n")
            written += 1
    return written


def compressai_results(curve: RDCurve, dataset: str) -> dict[str, object]:
    """A curve in the format of CompressAI's results folder.

    Args:
        curve: the curve; points of several seeds are means. As 8-bit files, which is what the metrics' names mean in
            CompressAI and in `rdtrain-eval`, where all points were measured so.
        dataset: name of the images.

    Returns:
        name, description, meta with the variant of the reconstructions, and results with bpp, and psnr-rgb, ms-ssim-rgb
        and lmbda where all points have them.
    """
    means = [mean_of(members) for members in curve.members]
    points = [point for one in means if (point := one.point(curve.path, "8bit"))]
    if len(points) < len(means) or any(point.variant != "8bit" for point in points):
        points = [point for one in means if (point := one.point(curve.path))]
    variant = "/".join(sorted({point.variant or "unknown" for point in points}))
    results = {
        "bpp": [point.bpp for point in points],
        "psnr-rgb": [point.psnr for point in points],
        "ms-ssim-rgb": [point.ms_ssim for point in points],
        "lmbda": curve.lmbda.tolist(),
    }
    known = {name: values for name, values in results.items() if all(map(math.isfinite, values))}
    meta = {"dataset": dataset, "type": "image", "made_by": REPORT, "variant": variant}
    description = f"mean over the images, real bitstreams, {variant} reconstructions"
    return {"name": curve.name, "description": description, "meta": meta, "results": known}

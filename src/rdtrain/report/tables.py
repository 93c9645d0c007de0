"""Tables of the report: runs, forward against real, two models side by side, Bjontegaard differences, speed."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rdtrain.report.columns import number
from rdtrain.report.curves import LOSS, band, by_configuration, first_drop, first_reached, switch_at
from rdtrain.report.figures import slug
from rdtrain.report.measurements import PATHS, SHOWN, Measurement
from rdtrain.report.plane import QUALITY_LABEL, RDPoint
from rdtrain.report.runs import Run

NOT_MEASURED = ""
_LOSS_NOTE = {
    "psnr": "L is made of the mean MSE where it was measured, else of the mean PSNR.",
    "ms-ssim": "L is made of the mean MS-SSIM.",
}


@dataclass(frozen=True)
class Table:
    """Text in rows and columns.

    Args:
        name: file name without ending.
        title: a heading.
        header: names of the columns, with units.
        rows: as many texts each.
        note: a sentence below, often empty.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def text(self) -> str:
        """The table for a terminal.

        Returns:
            Lines with aligned columns.
        """
        lines = [list(self.header), *map(list, self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        aligned = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        rule = "  ".join("-" * width for width in widths)
        body = [aligned[0], rule, *aligned[1:]]
        return "\n".join([self.title, *(line.rstrip() for line in body), *([self.note] if self.note else [])])

    def save(self, folder: Path) -> Path:
        """Write the table as CSV.

        Args:
            folder: where to, must exist.

        Returns:
            The file.
        """
        file = folder / f"{self.name}.csv"
        with file.open("w", newline="", encoding="utf-8") as opened:
            csv.writer(opened).writerows([self.header, *self.rows])
        return file


def fixed(value: float, digits: int = 4) -> str:
    """Write a number.

    Args:
        value: any float.
        digits: after the point.

    Returns:
        Its decimal form, without a sign where that is 0; empty for NaN.
    """
    return NOT_MEASURED if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def runs_table(runs: Sequence[Run], names: dict[Path, str]) -> Table:
    """List the runs.

    Args:
        runs: the runs.
        names: of their curves.

    Returns:
        One row a run: what it was, how far it came, when its learning rate dropped and its convolutions changed.
    """
    header = ["run", "curve", "λ", "seed", "status", "epochs", "steps", "seconds"]
    header += ["first lr drop [epoch]", "switch [epoch]", "best valid loss", "last valid loss"]
    rows = []
    for run in runs:
        _, loss = run.series("valid", LOSS)
        steps = max(columns["step"].max() for columns in run.columns.values())
        best, last = (float(loss.min()), float(loss[-1])) if loss.size else (math.nan, math.nan)
        cells = [run.name.split("-", 1)[0], names[run.folder], f"{run.lmbda:g}", str(run.setting("seed", ""))]
        cells += [run.status, str(run.epochs), f"{steps:.0f}", fixed(_seconds(run), 0)]
        cells += [fixed(first_drop(run), 0), fixed(switch_at(run, "epoch"), 0), fixed(best), fixed(last)]
        rows.append(cells)
    return Table("runs", "Runs", header, rows)


def _seconds(run: Run) -> float:
    logged = [x for loader in run.columns for x in run.series(loader, "step", "time/elapsed_s")[0]]
    seconds = number(run.summary.get("seconds"))
    return max(logged, default=math.nan) if math.isnan(seconds) else seconds


def clamp_gain(one: Measurement, of_mean: bool = False) -> float:
    """What clamping the reconstruction to [0, 1] gains.

    Args:
        one: a measurement.
        of_mean: compare PSNR of the mean MSE instead of mean PSNR.

    Returns:
        dB from the unclamped forward pass to the clamped one, or to the real reconstruction where the clamped forward
        pass was not measured; NaN when either is missing.
    """
    before = one.point("forward", "unclamped")
    after = next((p for p in one.points if (p.path, p.variant) == ("forward", "clamped")), one.point("real"))
    if before is None or after is None:
        return math.nan
    if of_mean:
        return after.psnr_of_mean_mse - before.psnr_of_mean_mse
    return after.psnr - before.psnr


def ledger_table(measurements: Sequence[Measurement], metric: str, lmbda: float | None = None) -> Table:
    """Forward pass and real bitstreams of every model.

    Args:
        measurements: what was measured.
        metric: `psnr` or `ms-ssim`.
        lmbda: for the losses; None for each model's own.

    Returns:
        One row a model: rate, quality and loss on both paths, how they differ, and what clamping gains.
    """
    quality = "PSNR [dB]" if metric == "psnr" else "MS-SSIM [dB]"
    header = ["model", "images", "λ", *(f"{path} {what}" for path in PATHS for what in ("bpp", quality, "L"))]
    header += ["real/forward bpp [%]"]
    header += ["clamp gain [dB]", "clamp gain of mean MSE [dB]"] if metric == "psnr" else []
    rows = []
    for one in measurements:
        if not any(math.isfinite(point.quality(metric)) for point in one.points):
            continue
        weight = one.weight(metric) if lmbda is None else lmbda
        forward, real = one.point("forward"), one.point("real")
        ratio = 100 * (real.bpp / forward.bpp - 1) if forward and real else math.nan
        cells = [one.label, one.dataset, fixed(weight) if math.isnan(weight) else f"{weight:g}"]
        cells += [cell for point in (forward, real) for cell in _cells(point, metric, weight)]
        gains = [clamp_gain(one), clamp_gain(one, of_mean=True)] if metric == "psnr" else []
        rows.append([*cells, f"{ratio:+.3f}" if forward and real else NOT_MEASURED, *map(fixed, gains)])
    shown = ", ".join(f"{path} {variant}" for path, variant in SHOWN.items())
    lossless = [i for i, name in enumerate(header) if name in ("λ", *(f"{path} L" for path in PATHS))]
    none = all(row[i] == NOT_MEASURED for row in rows for i in lossless)
    if rows and none:  # all models were trained for another quality
        header, *rows = [[cell for i, cell in enumerate(row) if i not in lossless] for row in (header, *rows)]
    note = f"Reconstructions: {shown}.{'' if none else f' {_LOSS_NOTE[metric]}'}"
    datasets = " ".join(dict.fromkeys(one.dataset for one in measurements))
    return Table(slug(f"ledger-{metric}-{datasets}"), "Forward pass against real bitstreams", header, rows, note)


def _cells(point: RDPoint | None, metric: str, lmbda: float) -> list[str]:
    if point is None:
        return [NOT_MEASURED] * 3
    return [fixed(point.bpp, 6), fixed(point.quality(metric)), fixed(point.loss(metric, lmbda))]


def pair_table(a: Measurement, b: Measurement, metric: str, lmbda: float) -> Table:
    """Two models on both paths, and whether the paths agree on which is better.

    Args:
        a: one model.
        b: the other.
        metric: `psnr` or `ms-ssim`.
        lmbda: weight of the distortion, for both.

    Returns:
        A row for each path, a column for each model; the note says which model has the lower loss where.
    """
    rows, verdicts, winners = [], [], []
    for path in reversed(PATHS):
        points = [one.point(path) for one in (a, b)]
        cells = [_cells(point, metric, lmbda) for point in points]
        rows.append([f"{path}, {SHOWN[path]}", *(" / ".join(cell) if any(cell) else NOT_MEASURED for cell in cells)])
        losses = [point.loss(metric, lmbda) if point else math.nan for point in points]
        if not any(map(math.isnan, losses)):
            winner, other = (0, 1) if losses[0] <= losses[1] else (1, 0)
            winners.append(winner)
            verdicts.append(
                f"{path}: {(a, b)[winner].label} has the lower loss, by {losses[other] - losses[winner]:.4f}"
            )
    agreement = "Both paths agree." if len(set(winners)) == 1 else "The two paths disagree."
    agreement = agreement if len(winners) == len(PATHS) else ""
    gains = [f"{one.label} {fixed(clamp_gain(one))} dB" for one in (a, b) if not math.isnan(clamp_gain(one))]
    clamping = f"Clamping gains: {', '.join(gains)}." if gains and metric == "psnr" else ""
    note = " ".join(
        filter(None, ["; ".join(verdicts) + "." if verdicts else "", agreement, clamping, _LOSS_NOTE[metric]])
    )
    header = ["path, reconstruction", *(f"{one.label}: bpp / {QUALITY_LABEL[metric]} / L" for one in (a, b))]
    title = f"{a.label} and {b.label} on {a.dataset}, λ = {lmbda:g}"
    return Table(slug(f"pair-{metric}-{a.dataset}-{lmbda:g}-{b.curve}"), title, header, rows, note)


def speed_table(runs: Sequence[Run], names: dict[Path, str], baseline: str) -> Table:
    """Steps and seconds until the baseline's last validation loss was reached.

    Args:
        runs: the runs.
        names: of their curves.
        baseline: the curve whose last loss is the target, for each lambda; loss curves are means over seeds.

    Returns:
        One row for each curve and lambda that the baseline and another curve were trained with.
    """
    groups = by_configuration(runs, names)
    rows = []
    for (name, lmbda), members in groups.items():
        base = groups.get((baseline, lmbda))
        alone = not any(other != baseline and at == lmbda for other, at in groups)
        if base is None or alone or (target := band(base, "valid", LOSS, "step")) is None:
            continue
        cells = [name, f"{lmbda:g}", fixed(target.mean[-1])]
        for against in ("step", "time/elapsed_s"):
            took, reference = (_time_to(group, float(target.mean[-1]), against) for group in (members, base))
            cells += [_time(took), fixed(reference / took, 2) if 0 < took < math.inf else NOT_MEASURED]
        rows.append(cells)
    header = ["curve", "λ", "loss to reach", "steps", "times faster", "seconds", "times faster"]
    return Table("speed", f"Until the last validation loss of {baseline} was reached", header, rows)


def _time_to(runs: Sequence[Run], target: float, against: str) -> float:
    one = band(runs, "valid", LOSS, against)
    return first_reached(one.x, one.mean, target) if one else math.nan


def _time(value: float) -> str:
    return "not reached" if math.isinf(value) else fixed(value, 0)

"""The spine of a report: what was read becomes sections of tables and figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdtrain.errors import UserError
from rdtrain.report import references as published
from rdtrain.report.bd_table import bd_table
from rdtrain.report.contours import contour_figure, lambdas_figure
from rdtrain.report.curve_figures import loss_figures, lr_figure
from rdtrain.report.figures import Plot
from rdtrain.report.html import Section
from rdtrain.report.measurements import Measurement, mean_of
from rdtrain.report.naming import conv_name, curve_names, model_title, settings_table
from rdtrain.report.plane import METRICS
from rdtrain.report.rd import RDCurve, rd_curves, rd_figure
from rdtrain.report.references import Reference
from rdtrain.report.runs import Run
from rdtrain.report.scatter import scatter_figures
from rdtrain.report.tables import Table, ledger_table, pair_table, runs_table, speed_table

_DEFAULT_MODEL = "bmshj2018-factorized"  # what given points are shown beside when no run names a model


@dataclass(frozen=True)
class Options:
    """What the user may choose.

    Args:
        metric: `psnr` or `ms-ssim`; None for all that were measured.
        references: names of published curves; None for the usual ones.
        lmbdas: for the contours and losses of all points, belonging to `metric` (or psnr); none: each model's own.
        baseline: the curve that others are compared with; None for the first one with plain convolutions.
    """

    metric: str | None = None
    references: Sequence[str] | None = None
    lmbdas: Sequence[float] = ()
    baseline: str | None = None


def sections(runs: Sequence[Run], measurements: Sequence[Measurement], options: Options) -> list[Section]:
    """Make the report's parts.

    Args:
        runs: the runs.
        measurements: of `measure` and of given points.
        options: what the user chose.

    Returns:
        Runs and how they learned, then one section for each set of images and quality.

    Raises:
        UserError: when the baseline is no curve.
    """
    names = curve_names(runs)
    curves = list(dict.fromkeys([*names.values(), *(one.curve for one in measurements)]))
    baseline = options.baseline or _plain(runs, names) or (curves[0] if curves else "")
    if options.baseline and options.baseline not in curves:
        raise UserError(f"--baseline {options.baseline!r} is no curve; type one of {', '.join(map(repr, curves))}.")
    made = [_runs_section(runs, names), _training_section(runs, names, baseline)] if runs else []
    for dataset in dict.fromkeys(one.dataset for one in measurements):
        ours = [one for one in measurements if one.dataset == dataset]
        for metric in [options.metric] if options.metric else METRICS:
            if any(math.isfinite(point.quality(metric)) for one in ours for point in one.points):
                lines, remark = _references(ours, runs, dataset, metric, options)
                lmbdas = options.lmbdas if metric == (options.metric or "psnr") else ()
                plane = _Plane(ours, lines, remark, dataset, metric, model_title(runs), baseline, lmbdas)
                made.append(plane.section())
    return made


def _plain(runs: Sequence[Run], names: dict[Path, str]) -> str | None:
    return next((names[run.folder] for run in runs if conv_name(run) == "plain"), None)


def _runs_section(runs: Sequence[Run], names: dict[Path, str]) -> Section:
    header, rows = settings_table(runs, names)
    differ = [Table("settings", "Settings that differ between the curves", header, rows)] if rows else []
    return Section("Runs", [runs_table(runs, names), *differ])


def _training_section(runs: Sequence[Run], names: dict[Path, str], baseline: str) -> Section:
    speed = speed_table(runs, names, baseline)
    plots = [*loss_figures(runs, names, "step"), *loss_figures(runs, names, "time/elapsed_s"), lr_figure(runs, names)]
    return Section("Training", [speed] if speed.rows else [], [plot for plot in plots if plot])


@dataclass(frozen=True)
class _Plane:
    # All that is drawn of one set of images and one quality.
    ours: Sequence[Measurement]
    references: Sequence[Reference]
    remark: str  # why the references cannot be compared, else empty
    dataset: str
    metric: str
    title: str
    baseline: str
    lmbdas: Sequence[float]

    def section(self) -> Section:
        tables = [ledger_table(self.ours, self.metric, self.lmbdas[0] if len(self.lmbdas) == 1 else None)]
        plots = [rd_figure(self.ours, self.references, self.dataset, self.metric, self.title, self.remark)]
        plots += self.contours()
        plots += scatter_figures(self.ours, self.dataset) if self.metric == "psnr" else []
        title = f"Rate and distortion on {self.dataset}: {'PSNR' if self.metric == 'psnr' else 'MS-SSIM'}"
        return Section(title, [*tables, *self.differences(), *self.pairs()], [plot for plot in plots if plot])

    def differences(self) -> Iterator[Table]:
        curves = rd_curves(self.ours, self.metric, "real") or rd_curves(self.ours, self.metric, "forward")
        curves = [curve for curve in curves if curve.bpp.shape[0] > 1]
        anchors: list[RDCurve | Reference] = [curve for curve in curves if curve.name == self.baseline]
        table = bd_table(curves, [*anchors, *([] if self.remark else self.references)], self.metric, self.dataset)
        if table:
            yield table

    def groups(self) -> Iterator[tuple[float, list[Measurement]]]:
        if self.lmbdas:
            yield from ((lmbda, list(self.ours)) for lmbda in self.lmbdas)
            return
        own = [one.weight(self.metric) for one in self.ours]
        for lmbda in sorted({weight for weight in own if math.isfinite(weight)}):
            yield lmbda, [one for one, weight in zip(self.ours, own, strict=True) if weight == lmbda]

    def pairs(self) -> Iterator[Table]:
        for lmbda, members in self.groups():
            seeds: dict[tuple[str, float], list[Measurement]] = {}
            for one in members:
                seeds.setdefault((one.curve, one.lmbda), []).append(one)
            means = [mean_of(group) for group in seeds.values()]
            means = [one for one in means if one.point("forward") and one.point("real")]
            base = next((one for one in means if one.curve == self.baseline), next(iter(means), None))
            yield from (pair_table(base, one, self.metric, lmbda) for one in means if base and one is not base)

    def contours(self) -> Iterator[Plot | None]:
        for lmbda, members in self.groups():
            yield contour_figure(members, self.references, lmbda, self.metric, self.dataset, self.title)
        yield lambdas_figure(self.references, self.metric)


def _references(
    ours: Sequence[Measurement], runs: Sequence[Run], dataset: str, metric: str, options: Options
) -> tuple[list[Reference], str]:
    if options.references is None:
        models = [str(run.setting("model.name")) for run in runs] or [_DEFAULT_MODEL]
        return published.usual(models, [one.metric for one in ours], dataset, metric), ""
    there = dataset in published.datasets()
    where = dataset if there else published.datasets()[0]
    remark = "" if there else f"The published curves are of {where}, not of {dataset}: levels cannot be compared."
    return published.select(options.references, where, metric), remark

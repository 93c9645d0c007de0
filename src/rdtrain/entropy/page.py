"""A study as a folder: one HTML page in the manner of the report, its figures, and its tables as CSV."""

from __future__ import annotations

from pathlib import Path

from rdtrain.entropy.figures import model_figures, parts_figure
from rdtrain.entropy.study import Study
from rdtrain.entropy.tables import channels_table, models_table, parts_table, save_image_channels, scales_table
from rdtrain.errors import UserError
from rdtrain.report.html import Section, page

PAGE = "entropy.html"
SHOWN = 16
"""Channels, those with the highest rate, that a page and its figures show one by one."""


def sections(study: Study, channels: int = SHOWN) -> list[Section]:
    """Lay a study out.

    Args:
        study: the measurements.
        channels: shown one by one.

    Returns:
        The whole first, then a section for each entropy model.
    """
    made = [Section("What a file is made of", [parts_table(study), models_table(study)], [parts_figure(study)])]
    for name, tally in study.tallies.items():
        tables = [channels_table(study, name, channels)]
        tables += [] if tally.is_bottleneck else [scales_table(study, name)]
        made.append(Section(name, tables, model_figures(study, name, channels)))
    return made


def write(out: Path, study: Study) -> None:
    """Write everything and print what the files are made of.

    Args:
        out: the folder, made when missing; files of the same names are replaced.
        study: the measurements.

    Raises:
        UserError: when the folder cannot be written.
    """
    made = sections(study)
    whole = [channels_table(study, name) for name in study.tallies]
    try:
        for folder in (out / "figures", out / "tables"):
            folder.mkdir(parents=True, exist_ok=True)
        for table in [*(table for section in made for table in section.tables), *whole]:
            table.save(out / "tables")
        save_image_channels(study.images, out / "tables")
        plots = [plot for section in made for plot in section.plots]
        for plot in plots:
            plot.save(out / "figures")
        (out / PAGE).write_text(page(f"Entropy coding: {study.about}", [], made), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}); type another --out.") from error
    for table in made[0].tables:
        print(table.text(), end="\n\n")
    print(f"{out / PAGE}: {len(plots)} figures (PNG, SVG), {len(list((out / 'tables').glob('*.csv')))} tables (CSV)")

"""A study as tables, for the page, the terminal and CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdtrain.entropy.stable import lost_from
from rdtrain.entropy.study import ImageParts, Study
from rdtrain.entropy.tally import PARTS, Tally
from rdtrain.latents import highest
from rdtrain.report.figures import slug
from rdtrain.report.tables import Table, fixed

Array = NDArray[np.float64]
_COSTS = ("ideal", "context", "tables", "tails", "flush", "unsplit", "header")
_LOST_NOTE = (
    "Lost: float32 likelihoods off by more than 1 % (CompressAI's upper tail); their bits: what they say beyond the "
    "exact ones."
)


def parts_table(study: Study) -> Table:
    """What the files are made of.

    Args:
        study: the measurements.

    Returns:
        One row an image, and their mean.
    """
    header = ["image", "pixels", "file [bit/pixel]", "file [bit]", *(f"{name} [bit]" for name in _COSTS)]
    rows = [_parts_row(one) for one in study.images]
    if len(rows) > 1:
        pixels = float(np.mean([one.pixels for one in study.images]))
        means = [float(np.mean([getattr(one, name) for one in study.images])) for name in ("total", *_COSTS)]
        rows.append(["mean", f"{pixels:.0f}", fixed(means[0] / pixels), *(fixed(value, 1) for value in means)])
    padding = ", ".join(f"{one.name} {one.padding:.0f}" for one in study.images if one.padding)
    note = "ideal: -log2 of the forward pass's likelihoods. context: that of models with context rounds other values."
    note += " unsplit: strings whose symbols are not known one by one, beyond their ideal bits."
    note += f" Of the ideal bits code nothing but padding: {padding}." if padding else ""
    return Table("parts", "What a file is made of", header, rows, note)


def _parts_row(one: ImageParts) -> list[str]:
    values = [getattr(one, name) for name in ("total", *_COSTS)]
    return [one.name, str(one.pixels), fixed(one.total / one.pixels), *(fixed(value, 1) for value in values)]


def models_table(study: Study) -> Table:
    """The entropy models side by side.

    Args:
        study: the measurements.

    Returns:
        One row a model.
    """
    header = ["entropy model", "channels", "dead", "latents", "ideal [bit/pixel]", "ideal [bit]", "coded [bit]"]
    header += ["least with fixed tables [bit]", "escapes", "lost latents", "lost [bit]", "aux quantiles off by"]
    rows = []
    for name, tally in study.tallies.items():
        ideal, escapes = tally.parts["ideal"].sum(), tally.parts["escapes"].sum()
        cells = [name, str(tally.dead.size), str(tally.dead.sum()), str(tally.count * tally.dead.size)]
        cells += [fixed(ideal / tally.pixels), fixed(ideal, 1), fixed(tally.coded.sum(), 1)]
        cells += [fixed(tally.empirical.sum() * tally.count, 1) if tally.is_bottleneck else "", fixed(escapes, 0)]
        cells += [str(tally.lost.sum()), fixed(tally.lost_bits.sum(), 1)] if tally.is_bottleneck else ["", ""]
        cells += [_quantile_error(study, name)]
        rows.append(cells)
    note = f"{_LOST_NOTE} Fixed tables could not cost less than the entropy of the symbols that came in each channel."
    return Table("models", "Entropy models", header, rows, note)


def _quantile_error(study: Study, name: str) -> str:
    if name not in study.learned:
        return ""
    return fixed(float(np.abs(study.trained_quantiles[name] - study.learned[name].quantiles).max()), 2)


def channels_table(study: Study, name: str, most: int | None = None) -> Table:
    """The channels of one entropy model, those with the highest rate first.

    Args:
        study: the measurements.
        name: of the entropy model.
        most: at most so many; None for all.

    Returns:
        One row a channel.
    """
    tally = study.tallies[name]
    columns = _rate_columns(tally) | (_density_columns(study, name) if tally.is_bottleneck else {})
    order = highest(tally.parts["ideal"], tally.dead.size)[:most]
    rows = [[str(channel), *(_cell(values[channel]) for values in columns.values())] for channel in order]
    note = f"{_LOST_NOTE} A dead channel has less than 1 % of the mean channel's bits."
    left_out = tally.dead.size - len(rows)
    note += f" {left_out} channels with lower rates are in the CSV file only." if left_out else ""
    return Table(slug(f"channels-{name}"), f"Channels of {name}", ["channel", *columns], rows, note)


def _rate_columns(tally: Tally) -> dict[str, Array]:
    return {
        "ideal [bit/pixel]": tally.parts["ideal"] / tally.pixels,
        "ideal [bit/latent]": tally.parts["ideal"] / tally.count,
        "coded [bit/latent]": tally.coded / tally.count,
        "entropy of symbols [bit]": tally.empirical,
        "escapes": tally.parts["escapes"],
        "dead": tally.dead,
    }


def _density_columns(study: Study, name: str) -> dict[str, Array]:
    tally, one, trained = study.tallies[name], study.learned[name], study.trained_quantiles[name]
    places = ("lower tail", "median", "upper tail")
    return {
        "entropy of density [bit]": one.entropy,
        **{place: one.quantiles[:, i] for i, place in enumerate(places)},
        **{f"{place} (aux loss)": trained[:, i] for i, place in enumerate(places)},
        "symbols in table": one.widths,
        "mass outside table": one.tail_mass,
        "escape code": one.escape,
        "lost from median +": lost_from(tally.model),
        "lost latents": tally.lost,
        "lost [bit]": tally.lost_bits,
    }


def _cell(value: Any) -> str:
    number = float(value)
    if np.isnan(number):
        return ""
    return f"{number:.0f}" if number == round(number) else f"{number:.4g}"


def scales_table(study: Study, name: str) -> Table:
    """The scale table of one Gaussian conditional.

    Args:
        study: the measurements.
        name: of the entropy model.

    Returns:
        One row an entry that was used.
    """
    tally = study.tallies[name]
    table = tally.model.scale_table.double().cpu().numpy()
    widths = tally.model.cdf_length.cpu().numpy() - 2
    sums = tally.by_scale
    with np.errstate(invalid="ignore"):  # entries that one of the two does not use
        columns = {
            "latents": sums["count"],
            "ideal [bit/latent]": sums["ideal"] / sums["count"],
            "rms of normalised residual": np.sqrt(sums["square"] / sums["count"]),
            "latents coded": sums["coded_count"],
            "coded [bit/latent]": sums["coded"] / sums["coded_count"],
            "escapes": sums["escapes"],
        }
    used = np.flatnonzero((sums["count"] > 0) | (sums["coded_count"] > 0))
    rows = [[str(i), _cell(table[i]), str(widths[i]), *(_cell(of[i]) for of in columns.values())] for i in used]
    note = "Normalised residual: (y - mean) / scale; its root mean square is 1 where the scales are right."
    note += " Models with context code some latents with other scales than those of the forward pass."
    title = f"Scale table of {name}"
    return Table(slug(f"scales-{name}"), title, ["entry", "scale", "symbols in table", *columns], rows, note)


def save_image_channels(images: Sequence[ImageParts], folder: Path) -> Path:
    """Write the parts of every image's channels.

    Args:
        images: of a study.
        folder: where to, must exist.

    Returns:
        The CSV file: a row for each image, entropy model and channel, in bits.
    """
    file = folder / "image-channels.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["image", "entropy model", "channel", *PARTS])
        for one in images:
            writer.writerows(_channel_rows(one))
    return file


def _channel_rows(one: ImageParts) -> Iterable[list[str]]:
    for model, parts in one.channels.items():
        for channel in range(len(parts["ideal"])):
            yield [one.name, model, str(channel), *(_cell(parts[part][channel]) for part in PARTS)]

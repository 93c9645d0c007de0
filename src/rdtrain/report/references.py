"""Published rate-distortion figures, to draw and to compare with.

`published.csv` holds numbers that InterDigital published with CompressAI (results/image, Copyright (c) 2021-2024,
InterDigital Communications, Inc, BSD-3-Clause-Clear), among them figures taken from papers; each row names its source.
What was left out or labelled, and why:

- One curve a model: results on cpu and cuda differ by less than 2e-4 relative, the cuda ones are here.
- CompressAI's `8bit-decoded/*ms-ssim*` files hold the MSE models' numbers and are not here.
- `bit_depth` says what the decoded image was when it was measured: float for the models, 8bit for the classic codecs
  and the variable-rate models, empty where a paper does not say. 8-bit PSNR of a model is 0.003 to 0.06 dB lower.
- MS-SSIM is linear where the source has it linear, and in dB where only dB was published.
- `lmbda` is what CompressAI trained a point with (its docs/source/zoo.rst), empty where it is not published.
- `remark` begins with the tag that is shown beside the curve. The VTM curve is disputed. Figures of the checkerboard
  and ELIC papers were digitised, that is read off pictures; three of those labelled ms-ssim are suspect, because they
  have the rates and the MS-SSIM of models trained for MSE.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from rdtrain.errors import UserError
from rdtrain.report.plane import ms_ssim_db

ATTRIBUTION = (
    "Published figures: CompressAI's results folder, "
    "Copyright (c) 2021-2024, InterDigital Communications, Inc, BSD-3-Clause-Clear."
)


@dataclass(frozen=True)
class Reference:
    """One published curve, in order of rate.

    Args:
        dataset: the images it was measured on.
        curve: its name on the command line, such as `bmshj2018-factorized_mse`.
        label: its name in a legend.
        kind: `learned`, `paper` or `codec`.
        optimized_for: `mse`, `ms-ssim`, or empty for a classic codec.
        bit_depth: `float`, `8bit`, or empty when not stated.
        bpp: bits per pixel, shape (P,).
        lmbda: weight of the distortion in the training loss, shape (P,), NaN where not published.
        psnr: dB, shape (P,), NaN where not published.
        ms_ssim_db: dB of the mean MS-SSIM, shape (P,), NaN where not published.
        remark: what to know before comparing, often empty.
        source: where the figures come from, with their licence.
    """

    dataset: str
    curve: str
    label: str
    kind: str
    optimized_for: str
    bit_depth: str
    bpp: NDArray[np.float64]
    lmbda: NDArray[np.float64]
    psnr: NDArray[np.float64]
    ms_ssim_db: NDArray[np.float64]
    remark: str
    source: str

    @property
    def tag(self) -> str:
        """The remark in a word: disputed, digitised, suspect, or empty."""
        return self.remark.split(":")[0]

    @property
    def legend(self) -> str:
        """The label with what it was trained for, the decoded bit depth and the tag, where there are any."""
        trained = f"for {self.optimized_for}" if self.optimized_for else ""
        return f"{self.label} ({', '.join(filter(None, ['published', trained, self.bit_depth, self.tag]))})"

    def quality(self, metric: str) -> NDArray[np.float64]:
        """The curve's y values.

        Args:
            metric: `psnr` or `ms-ssim`.

        Returns:
            dB, shape (P,), NaN where not published.
        """
        return self.psnr if metric == "psnr" else self.ms_ssim_db


@cache
def published() -> tuple[Reference, ...]:
    """Read the package's table.

    Returns:
        All curves.
    """
    text = resources.files("rdtrain.report").joinpath("published.csv").read_text(encoding="utf-8")
    curves: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in csv.DictReader(text.splitlines()):
        curves.setdefault((row["dataset"], row["curve"]), []).append(row)
    return tuple(_reference(rows) for rows in curves.values())


def _reference(rows: list[dict[str, str]]) -> Reference:
    def numbers(column: str) -> NDArray[np.float64]:
        return np.array([float(row[column] or "nan") for row in rows])

    ms_ssim_in_db = numbers("ms_ssim_db")
    first = rows[0]
    return Reference(
        **{name: first[name] for name in ("dataset", "curve", "label", "kind", "optimized_for", "bit_depth", "remark")},
        bpp=numbers("bpp"),
        lmbda=numbers("lmbda"),
        psnr=numbers("psnr_db"),
        ms_ssim_db=np.where(np.isnan(ms_ssim_in_db), ms_ssim_db(numbers("ms_ssim")), ms_ssim_in_db),
        source=f"{first['source']} ({first['licence']})",
    )


def datasets() -> tuple[str, ...]:
    """The image sets that have published curves.

    Returns:
        Their names.
    """
    return tuple(dict.fromkeys(curve.dataset for curve in published()))


def select(names: Sequence[str], dataset: str, metric: str) -> list[Reference]:
    """The published curves of some names.

    Args:
        names: as in `Reference.curve`.
        dataset: on which images.
        metric: the quality that they must have, `psnr` or `ms-ssim`.

    Returns:
        The curves in the order of the names.

    Raises:
        UserError: for an unknown data set, a name that the data set lacks, or a curve without that quality.
    """
    there = {curve.curve: curve for curve in published() if curve.dataset == dataset}
    if not there:
        raise UserError(
            f"There are no published curves for {dataset!r}; type --dataset with one of {', '.join(datasets())}."
        )
    unknown = [name for name in names if name not in there]
    if unknown:
        raise UserError([_suggestion(name, dataset, list(there)) for name in unknown])
    chosen = [there[name] for name in names]
    without = [curve.curve for curve in chosen if np.isnan(curve.quality(metric)).all()]
    if without:
        raise UserError(f"{', '.join(without)}: no published {metric}; leave it out or type another --metric.")
    return chosen


def _suggestion(name: str, dataset: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
    hint = f"did you mean {' or '.join(near)}?" if near else "--list-references shows all names."
    return f"No published curve {name!r} for {dataset}; {hint}"


def usual(models: Sequence[str], trained_for: Sequence[str], dataset: str, metric: str) -> list[Reference]:
    """The curves that a reader expects beside the curves of some models.

    Args:
        models: CompressAI's names, such as `bmshj2018-factorized`; `-relu` variants are compared with their GDN twins.
        trained_for: the qualities that the models were trained for, `psnr` or `ms-ssim`.
        dataset: on which images.
        metric: `psnr` or `ms-ssim`, the quality to be drawn.

    Returns:
        CompressAI's and the paper's curves of the same models with the same training, then BPG and JPEG; none when the
        data set has no published curves.
    """
    stems = dict.fromkeys(model.removesuffix("-relu") for model in models)
    losses = ["mse" if one == "psnr" else one for one in dict.fromkeys(trained_for)]
    names = [f"{prefix}{stem}_{loss}" for stem in stems for loss in losses for prefix in ("", "paper-")]
    there = {curve.curve: curve for curve in published() if curve.dataset == dataset}
    found = [there[name] for name in [*names, "bpg_444_x265_ycbcr", "jpeg"] if name in there]
    return [curve for curve in found if np.isfinite(curve.quality(metric)).all()]

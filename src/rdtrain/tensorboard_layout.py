"""Which curves TensorBoard's Custom Scalars tab lays over each other, for all selected runs at once.

Each chart holds one thing constant and shows one difference: between loaders, between the forward pass and real
bitstreams, between treatments of the reconstruction, between kinds of quantisation, or the terms of a sum.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from rdtrain.metrics import LOADERS, METRICS, SAMPLED_PATHS, VARIANTS, tag

Layout = dict[str, dict[str, list[str]]]

_QUANTITIES = {"loss": "Loss", "bpp": "Rate", "psnr": "PSNR", "ms_ssim_db": "MS-SSIM", "mse": "MSE"}
_SUMS = {
    "Real minus forward": {
        "rate: the terms [bit an image]": "rate_gap",
        "distortion: the terms [MSE]": "distortion_gap",
    }
}
_TRAINING = {
    "learning rate": ("lr/net", "lr/aux"),
    "spectral convs and gradient norm": ("conv/spectral", "grad_norm"),
    "auxiliary loss": ("aux_loss",),
    "ms a batch": ("time/step_ms",),
}


def charts() -> Layout:
    """List the comparisons.

    Returns:
        Tags of each chart, by its title, by the title of its category; every tag is one that a run writes.
    """
    layout = {f"{title} [{_unit(quantity)}]": _comparisons(quantity) for quantity, title in _QUANTITIES.items()}
    for category, sums in _SUMS.items():
        layout[category] = {
            chart: [tag("infer", name) for name in METRICS if name.startswith(f"{prefix}/")]
            for chart, prefix in sums.items()
        }
    layout["Training"] = {chart: [tag("train", name) for name in names] for chart, names in _TRAINING.items()}
    return layout


def custom_scalars() -> dict[str, dict[str, list[object]]]:
    """Make the layout that `SummaryWriter.add_custom_scalars` writes.

    Returns:
        The charts, each tag as a regular expression that matches nothing else.
    """
    return {
        category: {chart: ["Multiline", [f"^{re.escape(name)}$" for name in tags]] for chart, tags in titles.items()}
        for category, titles in charts().items()
    }


def _unit(quantity: str) -> str:
    return next(metric.unit for name, metric in METRICS.items() if name.split("/")[0] == quantity)


def _comparisons(quantity: str) -> dict[str, list[str]]:
    def name(path: str, variant: str) -> str:
        return f"bpp/{path}" if quantity == "bpp" else f"{quantity}/{path}/{variant}"

    asked = [
        ("forward", [(loader, name("forward", "unclamped")) for loader in LOADERS]),
        ("infer", [("infer", name(path, "clamped")) for path in ("forward", "real")]),
        ("infer, real", [("infer", name("real", variant)) for variant in VARIANTS]),
        ("infer, forward", [("infer", name("forward", variant)) for variant in VARIANTS]),
        ("train", [("train", name(path, "unclamped")) for path in SAMPLED_PATHS]),
    ]
    found = [(held, _written(pairs)) for held, pairs in asked]
    return {_title(held, tags): tags for held, tags in found if len(tags) > 1}


def _title(held: str, tags: list[str]) -> str:
    # The parts of a tag in which the chart's tags differ: `forward: train, valid, infer`.
    parts = [name.split("/") for name in tags]
    place = next(i for i in range(len(parts[0])) if len({part[i] for part in parts}) > 1)
    return f"{held}: {', '.join(part[place] for part in parts)}"


def _written(pairs: Iterable[tuple[str, str]]) -> list[str]:
    known = [(loader, name) for loader, name in pairs if name in METRICS and loader in METRICS[name].loaders]
    return list(dict.fromkeys(tag(loader, name) for loader, name in known))

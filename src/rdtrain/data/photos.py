"""The embedded dataset: colour photographs that the scikit-image and scikit-learn wheels carry."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rdtrain.data.splits import LayoutError, Split

# Chosen by hand. The two motorcycles are the views of one stereo pair and stay on one side; valid and infer hold one
# photograph full of detail and one that is mostly smooth. Left out: drawings, grey pictures and the colour wheel.
TRAIN = (
    "skimage/data/astronaut.png",
    "sklearn/datasets/images/flower.jpg",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/motorcycle_right.png",
    "skimage/data/retina.jpg",
)
VALID = ("sklearn/datasets/images/china.jpg", "skimage/data/coffee.png")
INFER = ("skimage/data/chelsea.png", "skimage/data/rocket.jpg")


def find_photos() -> Split:
    """Locate the photographs.

    Returns:
        Seven photographs to train on, two to validate and two to infer on; always the same.

    Raises:
        LayoutError: a photograph is not in the installed package.
    """
    train, valid, infer = (tuple(_locate(name) for name in names) for names in (TRAIN, VALID, INFER))
    return Split(train, valid, infer)


def _locate(name: str) -> Path:
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package)  # finds the package's folder without the seconds of importing it
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, inside)
        if path.is_file():
            return path
    raise LayoutError(f"lacks {name}; type: pip install --force-reinstall scikit-image scikit-learn")

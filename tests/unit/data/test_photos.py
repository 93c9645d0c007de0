from __future__ import annotations

import subprocess
import sys

import pytest

from rdtrain.data import photos
from rdtrain.data.decode import decode_image
from rdtrain.data.photos import find_photos
from rdtrain.data.splits import LayoutError


def test_the_split_is_fixed() -> None:
    split = find_photos()
    assert [path.stem for path in split.train] == [
        "astronaut", "flower", "hubble_deep_field", "ihc", "motorcycle_left", "motorcycle_right", "retina",
    ]  # fmt: skip
    assert [path.stem for path in split.valid] == ["china", "coffee"]
    assert [path.stem for path in split.infer] == ["chelsea", "rocket"]


def test_all_are_colour_photographs_of_some_size() -> None:
    split = find_photos()
    for path in (*split.train, *split.valid, *split.infer):
        pixels = decode_image(path)
        assert min(pixels.shape[:2]) >= 300
        assert (pixels.max(axis=2).astype(int) - pixels.min(axis=2)).mean() > 5  # grey would be 0


def test_the_packages_are_not_imported() -> None:
    code = "import sys; from rdtrain.data.photos import find_photos; find_photos(); print([*sys.modules])"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'skimage'" not in modules
    assert "'sklearn'" not in modules
    assert "'torch'" not in modules


@pytest.mark.parametrize("name", ["skimage/data/gone.png", "no_such_package/data/a.png"])
def test_a_photograph_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(photos, "VALID", (name,))
    with pytest.raises(LayoutError, match=f"lacks {name}; type: pip install"):
        find_photos()

"""Which images a measurement is of: sets that differ in number or content are told apart by their names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_SIZES = {"kodak": 24}  # layouts that are found with all of their images or not at all
_DIGITS = 6  # of a fingerprint, enough to tell a few sets apart


@dataclass(frozen=True)
class ImageSet:
    """The images behind some means.

    Args:
        layout: name of the data set's layout; of `image_folder` every folder is another set.
        count: number of images, None when unknown.
        total: number of images that were there, None when unknown.
        fingerprint: of `rdtrain.data.scan.fingerprint`, empty when unknown.
    """

    layout: str
    count: int | None = None
    total: int | None = None
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """The layout, with the share of its images where that is not all of them."""
        total = _SIZES.get(self.layout, self.total)
        if self.count is None or self.count == total:
            return self.layout
        if total is not None:
            return f"{self.layout} ({self.count} of {total} images)"
        return f"{self.layout} ({self.count} images)"


def names(sets: Iterable[ImageSet]) -> dict[ImageSet, str]:
    """Name sets of images so that equal names are equal images.

    Args:
        sets: any, repeated ones too.

    Returns:
        For each set its name, with the beginning of the fingerprint where two sets would have the same name. A set
        without fingerprint keeps the name: it is taken for the only one of that name, if there is one.
    """
    by_name: dict[str, set[str]] = {}
    sets = list(dict.fromkeys(sets))
    for one in sets:
        by_name.setdefault(one.name, set()).add(one.fingerprint)
    told = {}
    for one in sets:
        several = len(by_name[one.name] - {""}) > 1 and one.name not in _SIZES
        told[one] = f"{one.name} [{one.fingerprint[:_DIGITS]}]" if several and one.fingerprint else one.name
    return told

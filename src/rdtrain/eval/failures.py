"""Images that could not be evaluated: named with the reason, while the results of the others are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rdtrain.errors import UserError
from rdtrain.eval.images import TestImage
from rdtrain.eval.memory import is_exhausted
from rdtrain.probes import Uncodable, Undecodable


class Failures:
    """Collects what went wrong with single images.

    Attributes:
        reasons: why, by the image's name.
        fault: the first exception that is not the image's or the machine's but ours.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.fault: Exception | None = None

    @contextlib.contextmanager
    def kept_apart(self, image: TestImage) -> Iterator[None]:
        """Keep an exception from ending the evaluation.

        Args:
            image: that is worked on inside.

        Yields:
            Nothing.
        """
        try:
            yield
        except Exception as error:  # the other images go on; a fault of ours is raised again after writing
            reason = _reason(error)
            if reason is None:
                reason = f"{type(error).__name__}: {error}"
                self.fault = self.fault or error
            self.reasons[image.name] = f"{image.width}x{image.height} pixels: {reason}"


def _reason(error: Exception) -> str | None:
    if is_exhausted(error):
        return "not enough memory; leave this image out, or evaluate it on a machine with more"
    if isinstance(error, OSError):
        return f"{error.filename or 'writing'}: {error.strerror}"
    if isinstance(error, Undecodable):
        return f"{error}; decoding computed something else than coding, so evaluate with --device cpu --threads 1"
    return str(error) if isinstance(error, UserError | Uncodable) else None

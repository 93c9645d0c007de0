"""What Hydra's hooks raise, told to the user."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

from rdtrain.errors import UserError


@contextlib.contextmanager
def told() -> Iterator[None]:
    """End the command where something is wrong: Hydra makes a warning of whatever a callback raises.

    Yields:
        Nothing.

    Raises:
        SystemExit: 2 for a mistake of the user, 1 for a fault of ours, each printed.
    """
    try:
        yield
    except UserError as error:
        for problem in error.problems:
            print(f"rdtrain: {problem}", file=sys.stderr)
        raise SystemExit(2) from error
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # no permission, no room, no such name
            print(f"rdtrain: {error.filename}: {error.strerror}", file=sys.stderr)
            raise SystemExit(2) from error
        traceback.print_exc()
        raise SystemExit(1) from error

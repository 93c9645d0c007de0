"""Warnings of libraries that a user can do nothing about, each with its reason."""

from __future__ import annotations

import sys
import threading
import warnings

LIBRARY_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # torch_geometric, which compressai 1.2.8 imports, still compiles functions with torch.jit.script.
    (r"`torch\.jit\.script` is deprecated", FutureWarning),
    (r"`torch\.jit\.script` is deprecated", DeprecationWarning),
    # catalyst 22.4 compares versions with distutils, which is gone from Python 3.12.
    (r"distutils Version classes are deprecated", DeprecationWarning),
    (r"The distutils package is deprecated", DeprecationWarning),
    # torch.compile itself looks at the .grad of tensors that compressai's entropy bottleneck makes on the way.
    (r"The \.grad attribute of a Tensor that is not a leaf Tensor is being accessed", UserWarning),
    # catalyst looks for its own callbacks; our runner does what they would do.
    # torch counts the CPUs; a user who types dataset.workers has done so too.
    (r"This DataLoader will create \d+ worker processes in total", UserWarning),
    (r"No ``I(Criterion|Backward|Optimizer|Scheduler)Callback", UserWarning),
)


_OF_CHILDREN = "ignore:resource_tracker:UserWarning"
# multiprocessing's own tracker, a process that takes over the options of this one, tells of semaphores that it clears
# away behind joblib's workers when a signal has ended them.


def silence_libraries() -> None:
    """Keep those warnings, and no others, from the user's terminal."""
    for message, category in LIBRARY_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
    if _OF_CHILDREN not in sys.warnoptions:
        sys.warnoptions.append(_OF_CHILDREN)
    threading.excepthook = _thread_excepthook


def _thread_excepthook(failed: threading.ExceptHookArgs) -> None:
    # TensorBoard's writer keeps the reason why a disk refused, and raises it again where the next value is written.
    if not (isinstance(failed.exc_value, OSError) and type(failed.thread).__module__.startswith("tensorboard.")):
        threading.__excepthook__(failed)

"""What the ledger sees inside a CompressAI model while the model's own forward, compress and decompress run.

A probe wraps methods of a model copy for the length of a `with` block and leaves the copy as it was. Entropy models are
recognised by their `entropy_coder`, so those of a newer CompressAI are found too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SYMBOL_LIMIT = 2**26
"""Symbols from here on make CompressAI's coder loop for ever (from 2**27, less what the tables' offsets may add)."""

FEWEST_SYMBOLS = 3
"""The coder's buffer holds a word a symbol and its last state takes two: fewer symbols write outside it."""


class Uncodable(ValueError):
    """Latents that CompressAI's entropy coder cannot code without a crash or a hang."""


class Undecodable(ValueError):
    """A string that is not what the encoder beside this decoder makes.

    It is damaged, or was coded with other tables, parameters or another order: on a GPU a network may compute other
    parameters when it decodes than when it coded.
    """


class LatentOverflow(Uncodable):
    """Latents that are NaN, infinite, or as large as `SYMBOL_LIMIT`.

    Coding them anyway would hang the process beyond the reach of Ctrl-C. A diverged training is the usual cause.
    """


@dataclass(frozen=True)
class CodedString:
    """One call of the entropy coder.

    Args:
        model: name of the entropy model within the compression model.
        symbols: what was coded, integers in coding order.
        indexes: the table of each symbol.
        string: the bytes.
    """

    model: str
    symbols: Sequence[int]
    indexes: Sequence[int]
    string: bytes


def entropy_models(model: nn.Module) -> dict[str, Any]:
    """Find the entropy models.

    Args:
        model: a compression model.

    Returns:
        Entropy model by name.
    """
    return {name: module for name, module in model.named_modules() if hasattr(module, "entropy_coder")}


def now(device: torch.device) -> float:
    """Read a clock after everything queued on a device is done.

    Args:
        device: where the model computes.

    Returns:
        Seconds.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextlib.contextmanager
def wrapped(target: object, name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Put a function before a method of one object.

    Args:
        target: the object.
        name: of the method.
        wrapper: called with the method, then the method's own arguments.

    Yields:
        Nothing.
    """
    method = getattr(target, name)
    own = name in vars(target)
    setattr(target, name, lambda *args, **kwargs: wrapper(method, *args, **kwargs))
    try:
        yield
    finally:
        if own:
            setattr(target, name, method)
        else:
            delattr(target, name)


def check_codable(values: Tensor) -> None:
    """Refuse what the coder would hang on.

    Args:
        values: latents, of any shape, before they are rounded.

    Raises:
        LatentOverflow: one is NaN, infinite or too large.
    """
    if not bool((values.abs() < SYMBOL_LIMIT).all()):  # a NaN is not below anything
        raise LatentOverflow(
            f"latents are not finite or reach {SYMBOL_LIMIT}: this model has diverged and its latents cannot be coded"
        )


@contextlib.contextmanager
def guarded(model: nn.Module) -> Iterator[None]:
    """Check everything on its way to the coder.

    Args:
        model: whose `compress` is about to be called.

    Yields:
        Nothing. Inside, `compress` raises `LatentOverflow` where it would hang, `Uncodable` where it would crash.
    """

    def quantize(method: Callable[..., Any], inputs: Tensor, mode: str, means: Any = None, **kwargs: Any) -> Any:
        if mode == "symbols":
            check_codable(inputs if means is None else inputs - means)
        return method(inputs, mode, means, **kwargs)

    def encode(method: Callable[..., Any], symbols: list[int], *args: Any) -> Any:
        if len(symbols) < FEWEST_SYMBOLS:
            raise Uncodable(f"{len(symbols)} latents: CompressAI's coder needs at least {FEWEST_SYMBOLS} a string")
        return method(symbols, *args)

    def check_output(module: nn.Module, args: Any, output: Tensor) -> None:
        check_codable(output)

    with contextlib.ExitStack() as stack:
        for entropy_model in entropy_models(model).values():
            for name in ("quantize", "quantize_variable"):
                if hasattr(entropy_model, name):
                    stack.enter_context(wrapped(entropy_model, name, quantize))
            stack.enter_context(wrapped(entropy_model.entropy_coder, "encode_with_indexes", encode))
        # Context models round in their own loop, after these two.
        for name in ("g_a", "entropy_parameters"):
            if isinstance(module := getattr(model, name, None), nn.Module):
                stack.callback(module.register_forward_hook(check_output).remove)
        yield


_NETWORKS = ("g_a", "h_a", "h_s", "g_s")


class Reuse:
    """A module's last result, given again while its input stays bitwise the same.

    Attributes:
        seconds: computing time that was saved.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self._last: tuple[Tensor, Tensor, float] | None = None

    def __call__(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Compute or reuse.

        Args:
            forward: the module's forward.
            x: its input.

        Returns:
            The output, a tensor of its own that the caller may change.
        """
        if self._last is not None and torch.equal(self._last[0], x):
            self.seconds += self._last[2]
            return self._last[1].clone()
        start = now(self.device)
        out = forward(x)
        self._last = x.clone(), out.clone(), now(self.device) - start
        return out


class Probe:
    """Watches one model copy through any number of passes; use as a context manager.

    Args:
        model: a compression model with `g_a` and `g_s`, in eval mode.
        device: where it computes.
        share: let g_a, h_a, h_s and g_s reuse results for bitwise equal inputs.

    Attributes:
        y_hat: input of the last call of g_s.
        x_hat: its output, before `decompress` clamps it in place.
        coder_seconds: time in the entropy models' compress and decompress. Context models call the coder from their
            own loop, which counts as network.
        likelihoods: last likelihoods by entropy model.
        strings: every call of an entropy model's coder.
    """

    def __init__(self, model: Any, device: torch.device, share: bool) -> None:
        self.model, self.device = model, device
        self.y_hat = self.x_hat = torch.empty(0)
        self.coder_seconds = 0.0
        self.likelihoods: dict[str, Tensor] = {}
        self.strings: list[CodedString] = []
        self._reuses = {name: Reuse(device) for name in _NETWORKS if share and hasattr(model, name)}
        self._stack = contextlib.ExitStack()

    @property
    def reused_seconds(self) -> float:
        """Computing time that sharing has saved so far."""
        return sum(reuse.seconds for reuse in self._reuses.values())

    def __enter__(self) -> Probe:
        """Hook the model.

        Returns:
            This probe.
        """
        enter = self._stack.enter_context
        for name, reuse in self._reuses.items():
            enter(wrapped(getattr(self.model, name), "forward", reuse))
        self._stack.callback(self.model.g_s.register_forward_hook(self._keep_synthesis).remove)
        for name, entropy_model in entropy_models(self.model).items():
            self._stack.callback(entropy_model.register_forward_hook(self._keep_likelihoods(name)).remove)
            enter(wrapped(entropy_model.entropy_coder, "encode_with_indexes", self._keep_string(name)))
            for method in ("compress", "decompress"):
                enter(wrapped(entropy_model, method, self._timed))
        enter(guarded(self.model))
        return self

    def __exit__(self, *exception: object) -> None:
        """Unhook it."""
        self._stack.close()

    def _keep_synthesis(self, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        self.y_hat, self.x_hat = args[0].clone(), output.clone()

    def _keep_likelihoods(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
            self.likelihoods[name] = output[1]

        return hook

    def _keep_string(self, name: str) -> Callable[..., bytes]:
        def encode(method: Callable[..., bytes], symbols: Any, indexes: Any, *tables: Any) -> bytes:
            string = method(symbols, indexes, *tables)
            self.strings.append(CodedString(name, symbols, indexes, string))
            return string

        return encode

    def _timed(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = now(self.device)
        try:
            return method(*args, **kwargs)
        finally:
            self.coder_seconds += now(self.device) - start

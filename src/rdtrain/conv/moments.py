"""What an optimizer remembers of a stored parameter, carried over to the weight that replaces it.

With g_w = dL/dw and g_theta = dL/dtheta (see `transform`):

    exp_avg, momentum_buffer        averages of g_theta: mapped exactly, as g_theta is
    exp_avg_sq, max_exp_avg_sq      averages of g_theta^2: mapped as if its parts were uncorrelated, or tracked exactly
                                    beside training by `ShadowMoments`
    step and other scalars          kept

Exact means for the gradients alone. Weight decay that an optimizer adds to the gradient (Adam and SGD, not AdamW) is in
these averages as theta and leaves as theta's map, which is w for orthonormal transforms only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rdtrain.conv.layers import SpectralConv, spectral_layers
from rdtrain.conv.optimizers import holds, innermost
from rdtrain.errors import UserError

Moments = Literal["transfer", "shadow", "reset"]

_LINEAR = ("exp_avg", "momentum_buffer")
_SQUARED = ("exp_avg_sq", "max_exp_avg_sq")
_NO_SECOND_MOMENT = (
    "conv.switch.moments=shadow follows Adam's second moment, which {} lacks: type conv.switch.moments=transfer"
)


def weight_state(
    layer: SpectralConv, state: Mapping[str, Any], moments: Moments, shadow: ShadowMoments | None = None
) -> dict[str, Any]:
    """The optimizer's state for the weight of a layer, from its state for the stored parameter.

    Args:
        layer: the convolution, still spectral.
        state: `optimizer.state[layer.weight_transformed]`, not changed.
        moments: `transfer`, `shadow`, or `reset` for no state, as before the first step.
        shadow: the tracked second moments, for `shadow`.

    Returns:
        tensors of the weight's shape, and the scalars of `state`.

    Raises:
        UserError: the optimizer keeps a tensor whose meaning is not known here, or not what `shadow` tracked.
    """
    if moments == "reset" or not state:
        return {}
    unknown = [key for key, value in state.items() if _is_averaged(value) and key not in (*_LINEAR, *_SQUARED)]
    if unknown:
        raise UserError(
            f"the optimizer remembers {', '.join(unknown)} of each parameter, which cannot go along when convs become "
            "plain: type conv.switch.moments=reset, or conv.switch.trigger=never, or an optimizer like Adam or SGD"
        )
    moved = {key: _moved(layer, key, value) for key, value in state.items()}
    if shadow is not None:
        if "exp_avg_sq" not in state:
            raise UserError(_NO_SECOND_MOMENT.format("the optimizer"))
        moved.update(shadow.second_moments(layer, float(state["step"])))
    return moved


def _moved(layer: SpectralConv, key: str, value: Any) -> Any:
    transform, geometry = layer.transform, (layer.kernel_size, layer.out_axis)
    if not _is_averaged(value):
        return value
    if key in _LINEAR:
        return transform.gradient_to_weight(value, *geometry)
    return transform.square_to_weight(value, *geometry)


def _is_averaged(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


class ShadowMoments:
    """Tracks Adam's second moments of the plain weights beside the training of spectral ones.

    Before each step of the optimizer the weights' gradients are recovered from the stored parameters' gradients, which
    is exact for transforms of full rank. They are thus the ones that the optimizer sees: summed over micro-batches,
    averaged over processes, clipped. It costs one buffer of the weight's size and one small product a layer and step.

    Nothing is to be called while training. After resuming, make it anew and load its state.

    Args:
        model: the model with spectral convolutions; the optimizer must hold their parameters already.
        optimizer: an optimizer with `betas` and `exp_avg_sq`, such as Adam or AdamW, or accelerate's wrapper of one.

    Raises:
        UserError: the optimizer has no `betas`.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        inner = innermost(optimizer)
        if "betas" not in inner.defaults:
            raise UserError(_NO_SECOND_MOMENT.format(type(inner).__name__))
        self._layers = {
            name: layer for name, layer in spectral_layers(model).items() if holds(inner, layer.weight_transformed)
        }
        self._state: dict[str, dict[str, Any]] = {}
        self._hook = inner.register_step_pre_hook(lambda stepped, args, kwargs: self._update(stepped))

    @torch.no_grad()
    def _update(self, optimizer: Optimizer) -> None:
        groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
        for name, layer in self._layers.items():
            gradient = layer.weight_transformed.grad
            if gradient is None:
                continue
            group = groups[id(layer.weight_transformed)]
            weight_gradient = layer.transform.gradient_to_weight(gradient, layer.kernel_size, layer.out_axis)
            state = self._state.setdefault(name, {"steps": 0, "exp_avg_sq": torch.zeros_like(weight_gradient)})
            _average_square(state, weight_gradient, float(group["betas"][1]), group.get("amsgrad", False))

    def second_moments(self, layer: SpectralConv, step: float) -> dict[str, Tensor]:
        """The optimizer's `exp_avg_sq` for a plain weight, and `max_exp_avg_sq` where it keeps one.

        Args:
            layer: the convolution.
            step: the optimizer's step count. Where tracking began later, the bias correction that belongs to this count
                is built in.

        Returns:
            tensors of the weight's shape.

        Raises:
            ValueError: the layer was not tracked, or no step was.
        """
        name = next((name for name, tracked in self._layers.items() if tracked is layer), None)
        if name is None or name not in self._state:
            raise ValueError("no second moment was tracked for this layer: ShadowMoments was made after the last step")
        state = self._state[name]
        correction = (1 - state["beta2"] ** step) / (1 - state["beta2"] ** state["steps"])
        return {key: value * correction for key, value in state.items() if isinstance(value, Tensor)}

    def remove(self) -> None:
        """Ends the tracking."""
        self._hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """What was tracked, by layer name.

        Returns:
            step counts and tensors.
        """
        return {name: dict(state) for name, state in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict`.

        Args:
            state: what `state_dict` returned for a model with the same layers.

        Raises:
            ValueError: it names a layer that is not tracked.
        """
        unknown = sorted(set(state) - set(self._layers))
        if unknown:
            raise ValueError(f"second moments of layers that are not spectral here: {', '.join(unknown)}")
        self._state = {}
        for name, tracked in state.items():
            like = self._layers[name].weight_transformed
            self._state[name] = {k: v.to(like, copy=True) if isinstance(v, Tensor) else v for k, v in tracked.items()}


def _average_square(state: dict[str, Any], gradient: Tensor, beta2: float, amsgrad: bool) -> None:
    state["steps"] += 1
    state["beta2"] = beta2
    average = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    if amsgrad:
        largest = state.setdefault("max_exp_avg_sq", torch.zeros_like(average))
        torch.maximum(largest, average, out=largest)

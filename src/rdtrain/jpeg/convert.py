"""From a network on pixels to the same network on JPEG coefficients."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, fx, nn

from rdtrain.conv.layers import SpectralConv2d
from rdtrain.jpeg.codec import ALL_FREQUENCIES, RANK, Codec
from rdtrain.jpeg.layers import JpegBatchNorm2d, JpegConv2d, JpegGlobalAvgPool, Mode
from rdtrain.jpeg.relu import BlockReLU, JpegReLU

_ON_PIXELS = (nn.Linear, nn.Flatten)  # of what the pooling gives
_UNCHANGED = (*_ON_PIXELS, nn.Identity, nn.Dropout)
_SUMS = {operator.add, operator.iadd, operator.sub, torch.add, torch.sub, "add", "add_", "sub"}
_COPIES = {"clone", "contiguous", "detach"}


def to_jpeg(
    model: nn.Module,
    codec: Codec | None = None,
    *,
    n_freqs: int | None = None,
    mode: Mode = "fused",
    images: Mapping[str, Codec] | None = None,
) -> nn.Module:
    """Make the network on coefficients that has a network's function; the given one is not changed.

    Convolutions, batch normalisation with its running statistics, ReLU, global average pooling and sums become their
    images; linear layers after the pooling stay. ReLU is exact unless `n_freqs` is below 14, or the network was trained
    with `BlockReLU`, whose `n_freqs` is kept where none is given.

    Functions in a `forward` are looked at too where torch.fx can follow it, and a warning says where it cannot; all but
    sums of coefficients are refused. After the pooling linear layers, ReLU, dropout and functions may come.

    Args:
        model: modules of those kinds in any arrangement, convolutions plain or spectral.
        codec: of all coefficients, with one table; MPEG-2's unless given.
        n_freqs: largest alpha + beta that ReLU looks at, 0 to 14.
        mode: how convolutions are computed, see `JpegConv2d`; with `exploded`, ReLU uses the harmonic mixing tensor.
        images: by name of each convolution that takes the images, their codec, where it is another one, such as with a
            table for each channel. Sums of images with results are then not possible.

    Returns:
        A module that takes coefficients, in eval mode and without gradients.

    Raises:
        TypeError: a module or a function has no image among coefficients.
        ValueError: `codec` has more than one table.
        AttributeError: a name in `images` is none of the model's.
    """
    codec = codec or Codec()
    if codec.q.ndim != 1:
        raise ValueError("coefficients within the network have one table; give a table for each channel in `images`")
    result = copy.deepcopy(model).eval().requires_grad_(False)
    exact = ALL_FREQUENCIES if n_freqs is None else n_freqs
    mixing = mode == "exploded"

    before = {result.get_submodule(name): of_images for name, of_images in (images or {}).items()}

    def conv(module: nn.Conv2d) -> nn.Module:
        return JpegConv2d(module, before.get(module, codec), codec, mode)

    def block_relu(module: BlockReLU) -> nn.Module:
        return JpegReLU(codec, module.n_freqs if n_freqs is None else n_freqs, mixing)

    makers: dict[type[nn.Module], Callable[..., nn.Module]] = {
        nn.Conv2d: conv,
        SpectralConv2d: conv,
        nn.BatchNorm2d: lambda module: JpegBatchNorm2d(module, codec),
        nn.ReLU: lambda module: JpegReLU(codec, exact, mixing),
        BlockReLU: block_relu,
        nn.AdaptiveAvgPool2d: lambda module: JpegGlobalAvgPool(codec),
    }
    made: dict[nn.Module, nn.Module] = {}

    def image(name: str, module: nn.Module) -> nn.Module:
        if module not in made:  # one that stands in several places keeps standing in them
            made[module] = _image(name, module, makers, image)
        return made[module]

    converted = image("", result)
    _check_way(nn.Sequential(model), {*makers, *_UNCHANGED})
    return converted


def _image(
    name: str,
    module: nn.Module,
    makers: dict[type[nn.Module], Callable[..., nn.Module]],
    image_of: Callable[[str, nn.Module], nn.Module],
) -> nn.Module:
    kind = type(module)  # an exact one: a subclass may compute something else, and so may a hook
    if module._forward_hooks or module._forward_pre_hooks:
        raise TypeError(
            f"{name or 'the model'}: {kind.__name__} has hooks, which have no image among JPEG coefficients"
        )
    if kind in makers and not _is_partial_pool(module):
        return makers[kind](module)
    if kind in _ON_PIXELS:
        module.register_forward_pre_hook(_refuse_coefficients)
    if kind in _UNCHANGED:
        return module
    children = {name: child for name, child in module._modules.items() if child is not None}  # repeated ones too
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if not children or own:
        raise TypeError(f"{name or 'the model'}: {type(module).__name__} has no image among JPEG coefficients")
    for child_name, child in children.items():
        setattr(module, child_name, image_of(f"{name}.{child_name}".lstrip("."), child))
    return module


class _Tracer(fx.Tracer):
    def __init__(self, leaves: Collection[type[nn.Module]]) -> None:
        super().__init__()
        self.leaves = leaves

    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return type(module) in self.leaves or super().is_leaf_module(module, module_qualified_name)


def _check_way(model: nn.Module, leaves: Collection[type[nn.Module]]) -> None:
    # What acts on coefficients from the input to the pooling.
    try:
        graph = _Tracer(leaves).trace(model)
    except Exception as error:  # whatever a forward does that depends on its input
        reason = str(error).partition("\n")[0]
        warnings.warn(
            f"the functions in this forward were not looked at; torch.fx cannot follow it: {reason}", stacklevel=3
        )
        return
    coefficients = set[fx.Node]()
    for node in graph.nodes:
        if node.op == "placeholder":
            coefficients.add(node)
        if coefficients.isdisjoint(node.all_input_nodes) or node.op == "output":
            continue
        kind = type(model.get_submodule(str(node.target))) if node.op == "call_module" else None
        if kind is None and (node.target == "size" or (node.target is getattr and node.args[1] == "shape")):
            continue  # such as the number of images, for a view of what the pooling gives
        if kind in _ON_PIXELS or (kind is None and node.target not in (*_SUMS, *_COPIES)):
            what = node.target if kind is None else kind
            raise TypeError(f"{getattr(what, '__name__', what)} has no image among JPEG coefficients; pool before it")
        if kind is None and node.target in _SUMS and not coefficients.issuperset(node.args):
            raise TypeError("a sum of coefficients with anything else has no image among JPEG coefficients")
        if kind is not nn.AdaptiveAvgPool2d:
            coefficients.add(node)


def _refuse_coefficients(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if inputs[0].ndim == RANK:
        raise ValueError(f"{type(module).__name__} would act on coefficients; a network pools before it")


def _is_partial_pool(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1))

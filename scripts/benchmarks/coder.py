"""Cases F1 and F2: entropy coding, and context models, against CompressAI's own, in turn in one process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models.google import get_scale_table
from compressai.zoo.image import model_architectures
from torch import Tensor, nn

from benchmarks.measure import Options, Row, images, in_turn, medians, ratios, timed
from rdtrain.coding.classes import use_coder
from rdtrain.coding.context import WAVEFRONT, use_coding_order
from rdtrain.data.decode import decode_image
from rdtrain.errors import UserError
from rdtrain.evaluation import evaluation_copy

_LATENT: tuple[int, ...] = (192, 32, 48)  # y of a Kodak image, 768x512, in a model with M=192
_CONTEXT = ("mbt2018", "cheng2020-anchor")
Coded = tuple[list[bytes], Tensor]


def case_f1(options: Options) -> list[Row]:
    """The entropy models' whole compress and decompress: quantisation, indexes and lists as well as the coder.

    Args:
        options: of the user.

    Returns:
        Rows for both entropy models, one image on one thread and two images on two.

    Raises:
        UserError: the fast coder is not installed.
        RuntimeError: the strings or what they decode to differ.
    """
    rows = []
    threads = torch.get_num_threads()
    shape = (192, 8, 12) if options.quick else _LATENT
    try:
        for name, make in (("EntropyBottleneck", _bottleneck), ("GaussianConditional", _gaussian)):
            for n_images in (1, 2):
                torch.set_num_threads(n_images)
                torch.manual_seed(0)
                model, work = make(n_images, shape)
                fast = copy.deepcopy(model)
                if not use_coder(fast, "auto"):
                    raise UserError("case F1 needs the fast coder: type pip install '.[fast]'")
                same(work(model), work(fast))
                sides = {"CompressAI": partial(work, model), "rdtrain": partial(work, fast)}
                timers = {side: partial(timed, call) for side, call in sides.items()}
                times = in_turn(timers, options.turns(25), f"F1, {name}", warm_up=True)
                what = f"{name}: compress and decompress of {n_images} latent(s) of {'x'.join(map(str, shape))}"
                what += ", one thread" if n_images == 1 else ", two threads"
                rows.append(Row("F1", what, "CompressAI's entropy model", "times as fast", 8.0, True,
                                ratios(times["CompressAI"], times["rdtrain"]), medians(times)))  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return rows


def same(theirs: Coded, ours: Coded) -> None:
    """Refuse to time what does not do the same.

    Args:
        theirs: strings, and what was decoded from them.
        ours: likewise.

    Raises:
        RuntimeError: a string or a latent differs.
    """
    if theirs[0] != ours[0] or not torch.equal(theirs[1], ours[1]):
        raise RuntimeError("the coders' strings or latents differ")


def _bottleneck(n_images: int, shape: tuple[int, ...]) -> tuple[nn.Module, Callable[[Any], Coded]]:
    model = EntropyBottleneck(shape[0]).eval()
    model._update_quantiles()
    model.update()
    y = 4 * torch.randn(n_images, *shape)

    def work(model: Any) -> Coded:
        with torch.no_grad():
            strings = model.compress(y)
            return strings, model.decompress(strings, y.shape[2:])

    return model, work


def _gaussian(n_images: int, shape: tuple[int, ...]) -> tuple[nn.Module, Callable[[Any], Coded]]:
    model = GaussianConditional(None).eval()
    model.update_scale_table(get_scale_table())
    scales = torch.exp(torch.empty(n_images, *shape).uniform_(-2, 2))
    means = torch.randn(n_images, *shape)
    y = means + scales * torch.randn(n_images, *shape)

    def work(model: Any) -> Coded:
        with torch.no_grad():
            strings = model.compress(y, model.build_indexes(scales), means)
            return strings, model.decompress(strings, model.build_indexes(scales), means=means)

    return model, work


def case_f2(options: Options) -> list[Row]:
    """Context models over several images: CompressAI one image after another, ours in one batch.

    Args:
        options: of the user.

    Returns:
        Two rows for each model, with and without its transforms, and what bits and reconstructions differ by.
    """
    rows = []
    for name in _CONTEXT:
        channels = 16 if options.quick else 192
        height, width, count = (64, 128, 2) if options.quick else (256, 384, 4)
        x = _crops(options, height, width, count)
        stock = _context_model(name, channels).to(memory_format=torch.contiguous_format)
        fast = evaluation_copy(stock)
        use_coding_order(fast, WAVEFRONT)
        use_coder(fast, "auto")
        with torch.no_grad():
            y = stock.g_a(x)
        what = f"{name} N={channels}: compress and decompress of {count} images of {width}x{height}"
        rows.append(_context_row(options, what, stock, fast, x))
        for model in (stock, fast):
            model.g_a = model.g_s = nn.Identity()
        rows.append(_context_row(options, f"{what}, without g_a and g_s", stock, fast, y))
    return rows


def _context_row(options: Options, what: str, stock: Any, fast: Any, x: Tensor) -> Row:
    calls = {"CompressAI": partial(_one_by_one, stock, x), "rdtrain": partial(_together, fast, x)}
    times = in_turn(
        {side: partial(timed, call) for side, call in calls.items()}, options.turns(5), "F2", warm_up=not options.quick
    )
    difference = _difference(*(call() for call in calls.values()))
    return Row("F2", what, "CompressAI, image by image", "times as fast", 5.0, True,
               ratios(times["CompressAI"], times["rdtrain"]), medians(times), difference)  # fmt: skip


def _context_model(name: str, channels: int) -> Any:
    torch.manual_seed(0)
    arguments = (channels, channels) if name == "mbt2018" else (channels,)
    net = model_architectures[name](*arguments)
    with torch.no_grad():
        net.g_a[-1].weight.mul_(20)  # latents that are larger than their rounding, as trained ones are
    return evaluation_copy(net)


def _crops(options: Options, height: int, width: int, count: int) -> Tensor:
    read = [torch.from_numpy(decode_image(path)[:height, :width]) for path in images(options, "kodak", count)]
    return torch.stack(read).permute(0, 3, 1, 2).float() / 255


def _one_by_one(model: Any, x: Tensor) -> Coded:
    with torch.no_grad():
        coded = [model.compress(one[None]) for one in x]
        decoded = [model.decompress(one["strings"], one["shape"])["x_hat"] for one in coded]
    return [string for one in coded for part in one["strings"] for string in part], torch.cat(decoded)


def _together(model: Any, x: Tensor) -> Coded:
    with torch.no_grad():
        coded = model.compress(x)
        x_hat = model.decompress(coded["strings"], coded["shape"])["x_hat"]
    return [string for part in coded["strings"] for string in part], x_hat


def _difference(theirs: Coded, ours: Coded) -> str:
    bits, own = (sum(map(len, strings)) for strings, _ in (theirs, ours))
    apart = (theirs[1] - ours[1]).abs().max().item()
    return f"bits {100 * (own / bits - 1):+.3f} %, reconstructions at most {apart:.1g} apart"

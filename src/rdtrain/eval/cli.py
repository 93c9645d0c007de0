"""The command `rdtrain-eval`: measure with real bitstreams, decode bitstream files; light until there is work."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rdtrain.errors import UserError

if TYPE_CHECKING:
    from rdtrain.eval.decode import Decoded

_DESCRIPTION = """\
Evaluate models with real bitstreams: rate, distortion and loss of every image, forward and decoded, unclamped, clamped
and as 8-bit files; times of network and coder; parameters and multiply-accumulates. Writes a result in CompressAI's
JSON format and a table by image, for a run into its folder. Or decode a bitstream file that an evaluation wrote."""
_EPILOG = """\
examples:
  rdtrain-eval runs/A runs/B --dataset kodak --root data/kodak
  rdtrain-eval mbt2018-mean-5.pth --model mbt2018-mean --lmbda 0.025 --dataset image_folder --root photos --out results
  rdtrain-eval runs/A --dataset kodak --root data/kodak --save-bitstreams --save-reconstructions
  rdtrain-eval runs/A --decode runs/A/eval-kodak/bitstreams/kodim01.rdt --out kodim01.png
  rdtrain-eval runs/A --cross-check kodim01.rdt        does this machine decode what another wrote?

Coding is done on one CPU thread unless told otherwise: a decoder must compute what the encoder computed.
exit codes: 0 done; 1 decoded, but to other pixels than the encoder's; 2 something to put right, or images that failed
(the results of the others are written)."""


def parser() -> argparse.ArgumentParser:
    """Make the command line.

    Returns:
        The parser.
    """
    made = argparse.ArgumentParser(
        "rdtrain-eval", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("models", nargs="+", type=Path, metavar="MODEL", help="run folder, checkpoint in one, or CompressAI .pth")
    add("--model", metavar="NAME", help="name of a .pth file's model, such as mbt2018-mean")
    add("--lmbda", type=_positive, metavar="L", help="lambda of the loss columns (default: the run's; a .pth has none)")
    add("--metric", choices=("mse", "ms-ssim"), help="distortion that --lmbda belongs to (default: the run's, or mse)")
    add("--dataset", default="kodak", metavar="NAME", help="test set (default: kodak); image_folder for any images")
    add("--root", type=Path, metavar="DIR", help="folder of the test set")
    add("--out", type=Path, metavar="PATH", help="folder for results; with --decode the PNG file")
    add("--mode", choices=("shared", "full"), default="shared", help="full computes both paths separately")
    add("--max-images", type=_count, metavar="N", help="only the first N images")
    add("--save-reconstructions", action="store_true", help="write PNG files")
    add("--save-bitstreams", action="store_true", help="write bitstream files")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="what computes (default: cpu)")
    add("--threads", type=_count, default=1, metavar="N", help="CPU threads of the networks (default: 1)")
    add("--time-limit", type=_positive, default=600.0, metavar="S", help="seconds for decoding a file (default: 600)")
    work = made.add_mutually_exclusive_group()
    work.add_argument("--decode", type=Path, metavar="FILE", help="decode a bitstream file to the PNG --out")
    work.add_argument("--cross-check", type=Path, metavar="FILE", help="say whether a file decodes to the same pixels")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; None for those of the process.

    Returns:
        The exit code: 0, 1 where a file decodes to other pixels than its encoder saw, 2 for a mistake of the user.
    """
    arguments = parser().parse_args(argv)
    try:
        if arguments.decode is not None or arguments.cross_check is not None:
            return _decode(arguments)
        _evaluate(arguments)
    except UserError as error:
        for problem in error.problems:
            print(f"rdtrain-eval: {problem}", file=sys.stderr)
        return 2
    except OSError as error:  # no room, no permission
        print(f"rdtrain-eval: {error.filename or 'writing'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rdtrain-eval: interrupted", file=sys.stderr)
        return 130
    return 0


def _decode(arguments: argparse.Namespace) -> int:
    from rdtrain.eval.decode import Order, decode

    file = arguments.decode or arguments.cross_check
    if len(arguments.models) != 1:
        raise UserError(f"{file} was written by one model; name that one, not {len(arguments.models)}")
    if arguments.decode is not None and (arguments.out is None or arguments.out.suffix.lower() != ".png"):
        raise UserError(f"--decode needs a PNG file to write; type --out {file.stem}.png")
    out = None if arguments.decode is None else str(arguments.out)
    source, limit = str(arguments.models[0]), arguments.time_limit
    decoded = decode(file, Order(source, arguments.model, arguments.device, arguments.threads, out, limit))
    return _tell(file, decoded, out)


def _tell(file: Path, decoded: Decoded, out: str | None) -> int:
    if out is not None:
        print(f"{out}: decoded from {file}")
    if decoded.same:
        print(f"{file}: the same pixels here ({decoded.reader}) as at the encoder ({decoded.writer})")
        return 0
    reason = (
        f"other pixels here ({decoded.reader}) than at the encoder ({decoded.writer}); decode it where it was written"
    )
    if decoded.reader == decoded.writer:
        reason = f"other pixels than at the encoder, which was the same ({decoded.writer}): it is damaged or forged"
    print(f"rdtrain-eval: {file}: {reason}", file=sys.stderr)
    return 1


def _evaluate(arguments: argparse.Namespace) -> None:
    from rdtrain.quiet import silence_libraries

    silence_libraries()
    from rdtrain.allocator import keep_memory
    from rdtrain.eval import device as devices
    from rdtrain.eval.evaluate import Options, default_target, evaluate
    from rdtrain.eval.images import find_test_images
    from rdtrain.eval.models import load_subject, with_criterion

    if arguments.metric is not None and arguments.lmbda is None:
        raise UserError(f"--metric {arguments.metric} needs the lambda that belongs to it; type --lmbda L as well")
    if arguments.out is not None and arguments.out.exists() and not arguments.out.is_dir():
        raise UserError(f"--out {arguments.out} is a file; give a folder")
    keep_memory()
    device = devices.choose(arguments.device, arguments.threads)
    images = find_test_images(arguments.dataset, arguments.root, arguments.max_images)
    options = Options(
        arguments.dataset,
        arguments.mode,
        arguments.save_reconstructions,
        arguments.save_bitstreams,
        arguments.max_images,
    )
    written: dict[Path, Path] = {}
    problems: list[str] = []
    for source in arguments.models:
        subject = with_criterion(load_subject(source, arguments.model), arguments.lmbda, arguments.metric)
        target = default_target(subject, arguments.dataset, arguments.out)
        if target in written:
            raise UserError(f"{source} and {written[target]} would both write {target}; evaluate them one by one")
        written[target] = source
        mean, failed = evaluate(subject, images, options, device, target)
        problems += [f"{source}, {name}, {reason}" for name, reason in failed.items()]
        if mean:
            print(f"{source}: {_summary(mean)}\n  {target}")
        if mean and subject.criterion is None:
            print("  without losses: the lambda of this model is in no file; type --lmbda L, such as --lmbda 0.0067")
    if problems:
        raise UserError(problems)


def _summary(mean: dict[str, float]) -> str:
    shown = {
        "bpp": "bpp/real", "PSNR": "psnr/real/8bit", "MS-SSIM": "ms_ssim/real/8bit", "estimated bpp": "bpp/forward",
        "loss": "loss/real/8bit",
    }  # fmt: skip
    return ", ".join(f"{label} {mean[name]:.4f}" for label, name in shown.items() if name in mean)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


if __name__ == "__main__":
    raise SystemExit(main())

"""The command `rdtrain-report`: read runs, write figures, tables and one page; light until there is work to do."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rdtrain.errors import UserError

_DESCRIPTION = """\
Compare runs: rate-distortion curves over published ones, contours of equal loss, loss curves, Bjontegaard differences,
forward pass against real bitstreams. Writes PNG and SVG figures, CSV tables and one page, report.html, that opens from
disk."""
_EPILOG = """\
examples:
  rdtrain-report runs                                  every run under runs/
  rdtrain-report runs/A runs/B --lmbda 0.0067          two runs, losses for this lambda
  rdtrain-report runs eval/kodak.json --reference vtm jpeg
  rdtrain-report --points points.yaml --dataset kodak  points that somebody gives as numbers
  rdtrain-report status SWEEP                          how far the points of a sweep are
  rdtrain-report entropy runs/A                        where a model's bits go: densities, tables, tails, dead channels
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line.

    Returns:
        The parser.
    """
    made = argparse.ArgumentParser(
        "rdtrain-report", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("sources", nargs="*", type=Path, metavar="RUN_OR_SWEEP", help="run folder, folder of runs, or evaluation JSON")
    add("--out", type=Path, default=Path("report"), metavar="DIR", help="where to write (default: report)")
    add("--points", type=Path, metavar="FILE", help="YAML or CSV with points: label, path, bpp, psnr, lmbda")
    add("--dataset", default="kodak", metavar="NAME", help="images of the points in --points (default: kodak)")
    add("--metric", choices=("psnr", "ms-ssim"), help="only this quality (default: all that were measured)")
    add("--lmbda", type=float, nargs="+", default=[], metavar="L", help="lambdas of the contours (default: the runs')")
    add("--reference", nargs="*", metavar="CURVE", help="published curves (default: those of the same models)")
    add("--baseline", metavar="CURVE", help="curve to compare with (default: the first with plain convolutions)")
    add("--list-references", action="store_true", help="print the published curves and stop")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; None for those of the process.

    Returns:
        The exit code: 0, 2 for a mistake of the user, or 141 where nobody reads what is printed.

    Raises:
        OSError: a fault of ours.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    command = {"status": _status, "entropy": _entropy}.get(words[0] if words else "")
    try:
        if command is None:
            _runs(words)
        else:
            command(words[1:])
        sys.stdout.flush()
    except UserError as error:
        for problem in error.problems:
            print(f"rdtrain-report: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # such as `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its end
        return 128 + signal.SIGPIPE
    except OSError as error:  # no room, no permission, no such name
        if error.filename is None:
            raise
        print(f"rdtrain-report: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _runs(words: Sequence[str]) -> None:
    arguments = parser().parse_args(words)
    if arguments.list_references:
        _list_references()
    else:
        _report(arguments)


def _status(words: Sequence[str]) -> None:
    from rdtrain.sweep.plan import Plan
    from rdtrain.sweep.status import status, table

    made = argparse.ArgumentParser("rdtrain-report status", description="Show how far the points of a sweep are.")
    made.add_argument("sweep", type=Path, metavar="SWEEP", help="folder of the sweep, the one with plan.json")
    folder = made.parse_args(words).sweep
    plan = Plan.read(folder)
    if not plan.points:
        raise UserError(f"{folder} holds no plan.json; give the folder of a sweep, such as runs/sweep-0a1b2c3d.")
    print(table(status(plan)))


def _entropy_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "rdtrain-report entropy",
        description="Show where a model's bits go, and write figures, CSV tables and one page, entropy.html.",
    )
    add = made.add_argument
    add("source", type=Path, metavar="RUN|CHECKPOINT", help="run folder, checkpoint in one, or CompressAI .pth")
    add("--images", type=Path, metavar="DIR", help="images to code (default: the run's infer images, or photographs)")
    add("--max-images", type=int, default=8, metavar="N", help="only the first N images (default: 8)")
    add("--model", metavar="NAME", help="name of a .pth file's model, such as mbt2018-mean")
    add("--out", type=Path, metavar="DIR", help="where to write (default: RUN/entropy)")
    return made


def _entropy(words: Sequence[str]) -> None:
    arguments = _entropy_parser().parse_args(words)
    from rdtrain.quiet import silence_libraries

    silence_libraries()
    from rdtrain.entropy.command import report

    if arguments.max_images < 1:
        raise UserError(f"--max-images {arguments.max_images}: type a whole number above 0")
    report(arguments)


def _list_references() -> None:
    from rdtrain.report.references import published

    for curve in published():
        remark = f"  ({curve.remark})" if curve.remark else ""
        print(f"{curve.dataset:22} {curve.curve:36} {curve.bpp.size:2} points  {curve.source}{remark}")


def _report(arguments: argparse.Namespace) -> None:
    from rdtrain.report.build import Options, sections
    from rdtrain.report.evaluations import find_evaluations
    from rdtrain.report.gather import measure
    from rdtrain.report.measurements import from_file
    from rdtrain.report.naming import curve_names
    from rdtrain.report.runs import find_runs, notes
    from rdtrain.report.write import write

    if not arguments.sources and arguments.points is None:
        raise UserError("nothing to report; give run folders or a folder of runs, or --points FILE.")
    if any(not 0 < lmbda < math.inf for lmbda in arguments.lmbda):
        raise UserError(f"--lmbda {' '.join(map(str, arguments.lmbda))}: lambdas are finite and above 0.")
    given = from_file(arguments.points, arguments.dataset) if arguments.points else []
    runs, problems = find_runs(arguments.sources)
    evaluations, unread = find_evaluations(arguments.sources)
    problems += unread
    names = curve_names(runs)
    runs.sort(key=lambda run: (names[run.folder], run.lmbda, str(run.setting("seed"))))
    measurements = [*measure(runs, evaluations, names), *given]
    if not runs and not measurements:
        raise UserError(
            [*problems, f"no run in {', '.join(map(str, arguments.sources))}; give a folder with runs in it."]
        )
    options = Options(arguments.metric, arguments.reference, arguments.lmbda, arguments.baseline)
    made = sections(runs, measurements, options)
    for problem in problems:
        print(f"rdtrain-report: {problem}", file=sys.stderr)
    said = [
        *problems,
        *(note for run in runs for note in notes(run)),
        *(note for one in evaluations for note in one.notes()),
    ]
    write(arguments.out, said, made, measurements)


if __name__ == "__main__":
    raise SystemExit(main())

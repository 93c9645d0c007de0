"""Measure rdtrain beside its peers: every case is a ratio to a peer or to a bare loop, taken in turn.

python scripts/benchmark.py                        all cases, about an hour on two quiet cores
python scripts/benchmark.py --cases A,G            some of them; the others in the file stay as they are
python scripts/benchmark.py --quick                small sizes, one round, a minute: only to see that it runs
python scripts/benchmark.py --runs DIR             also case H, from the runs of `rdtrain experiment=switch_vs_plain`
python scripts/benchmark.py --write-docs           then also the tables and figures of docs/performance.md

docs/performance.md explains the cases. Nothing here gates a test.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.measure import Options, Row

# Name -> module and function; a function of `growth` and `memory` returns rows of another table.
CASES = {
    "A": ("training", "case_a"),
    "B": ("training", "case_b"),
    "C": ("conv_forms", "case_c"),
    "D": ("loading", "case_d"),
    "E": ("ledger", "case_e"),
    "F1": ("coder", "case_f1"),
    "F2": ("coder", "case_f2"),
    "G": ("start", "case_g"),
    "H": ("switch", "case_h"),
    "I": ("sweep", "case_i"),
    "memory": ("memory", "case_memory"),
    "growth": ("growth", "case_growth"),
}
_OUT, _QUICK_OUT = "benchmark.json", "benchmark-quick.json"
LONG = ("I", "memory", "growth")  # left out by --quick unless asked for
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def main(arguments: list[str] | None = None) -> int:
    """Run the cases one after another; one that fails does not keep the others from being measured.

    Args:
        arguments: of the command line; None for those of the process.

    Returns:
        Exit code: 1 where a case could not be measured.
    """
    chosen = _parser().parse_args(arguments)
    options = Options(chosen.quick, chosen.device, chosen.data, chosen.runs, chosen.rounds)
    cases, out = chosen.cases or _all_cases(options), chosen.out or Path(_QUICK_OUT if chosen.quick else _OUT)
    failed = []
    for name in cases:
        print(f"{name} ...", flush=True)
        try:
            entry = _measured(name, options)
        except Exception as error:  # of a library, of a machine without room, of the user
            failed.append(name)
            print(f"{name} could not be measured: {error}", file=sys.stderr)
            continue
        _show(entry)
        _merge(out, name, entry)
    if chosen.write_docs and not out.exists():
        print(f"{out} does not exist, so there is nothing to write into the docs", file=sys.stderr)
        return 1
    if chosen.write_docs:
        _write_docs(json.loads(out.read_text()))
    return int(bool(failed))


def _all_cases(options: Options) -> list[str]:
    if options.runs is None:
        print("H is left out: it needs --runs, the folder of `rdtrain experiment=switch_vs_plain`")
    left_out = (*(["H"] if options.runs is None else []), *(LONG if options.quick else []))
    return [name for name in CASES if name not in left_out]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cases", type=_cases, metavar="A,B,...", help=f"some of {','.join(CASES)}")
    add("--quick", action="store_true", help="small sizes and one round")
    add(
        "--out",
        type=Path,
        help=f"results, merged with those that are there (default: {_OUT}, with --quick {_QUICK_OUT})",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--rounds", type=int, help="times that the sides take their turn (default: what each case thinks right)")
    add(
        "--data",
        type=Path,
        default=_data(),
        help="folder with kodak/ and bsds500/train/ (default: beside the checkout)",
    )
    add("--runs", type=Path, help="folder of `rdtrain experiment=switch_vs_plain`, for case H")
    add("--write-docs", action="store_true", help="write the tables and figures of docs/performance.md")
    return parser


def _cases(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in CASES]:
        raise argparse.ArgumentTypeError(f"there is no case {unknown[0]}; there are {','.join(CASES)}")
    return names


def _data() -> Path | None:
    folder = Path(os.environ.get("RDTRAIN_TEST_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def _measured(name: str, options: Options) -> dict[str, Any]:
    from rdtrain.quiet import silence_libraries

    silence_libraries()
    module, function = CASES[name]
    before, start = os.getloadavg()[0], time.perf_counter()
    rows: list[Row | dict[str, Any]] = getattr(import_module(f"benchmarks.{module}"), function)(options)
    seconds = time.perf_counter() - start
    return {
        **_machine(options),
        "seconds": seconds,
        "load_before": before,
        "load_after": os.getloadavg()[0],
        "rows": [row.to_dict() if isinstance(row, Row) else row for row in rows],
    }


def _machine(options: Options) -> dict[str, Any]:
    import torch

    from rdtrain import environment

    described = environment.describe(torch.device(options.device), 0, {})
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": described["git"]["commit"] or "unknown",
        "changed_since": described["git"]["diff_sha256"],
        "versions": {"python": described["python"], **described["packages"]},
        "cpu": names[0] if names else described["platform"],
        "cpus": len(os.sched_getaffinity(0)),
        "device": described["device_name"] if options.device == "cuda" else "cpu",
        "quick": options.quick,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _show(entry: dict[str, Any]) -> None:
    for row in entry["rows"]:
        if "median" in row:
            low, high = row["quartiles"]
            bound = ">=" if row["atleast"] else "<="
            reached = "reached" if row["reached"] else "not reached"
            print(f"  {row['what']}: {row['median']:.3f} ({low:.3f} to {high:.3f}) {row['unit']}, "
                  f"to reach {bound} {row['target']:g}: {reached}")  # fmt: skip
        else:
            print("  " + ", ".join(f"{name} {value}" for name, value in row.items()))
    print(f"  {entry['seconds']:.0f} s, load {entry['load_before']:.1f} to {entry['load_after']:.1f}", flush=True)


def _merge(path: Path, name: str, entry: dict[str, Any]) -> None:
    from rdtrain.files import write_json

    results = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    results["cases"][name] = entry
    results["cases"] = {case: results["cases"][case] for case in CASES if case in results["cases"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, results)


def _write_docs(results: dict[str, Any]) -> None:
    from benchmarks import growth

    tables = {"table": page.table(results), "machines": page.machines(results), "memory": page.memory(results)}
    page.write(DOCS / "performance.md", tables)
    if "growth" in results["cases"]:
        growth.draw(results["cases"]["growth"]["rows"], DOCS / "figures")


if __name__ == "__main__":
    sys.exit(main())

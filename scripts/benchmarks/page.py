"""The tables of docs/performance.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

ROWS = ("A", "B", "C", "D", "E", "F1", "F2", "G", "H", "I")  # cases with a target
_HEADER = """\
| case | what | against | to reach | measured (quartiles) | reached |
|---|---|---|---|---|---|"""


def table(results: Mapping[str, Any]) -> str:
    """Make the table of the cases.

    Args:
        results: content of benchmark.json.

    Returns:
        Markdown.
    """
    lines = [_HEADER]
    for entry in [results["cases"][case] for case in ROWS if case in results["cases"]]:
        for row in entry["rows"]:
            bound = "at least" if row["atleast"] else "at most"
            middle, low, high = (_figure(value) for value in (row["median"], *row["quartiles"]))
            rounds = len(row["values"])
            measured = f"{middle} ({low} to {high}, {rounds} round{'s' * (rounds > 1)}) {row['unit']}"
            cells = [row["case"], row["what"], row["against"], f"{bound} {row['target']:g}", measured]
            reached = "yes" if row["reached"] else "**no**"
            lines.append(f"| {' | '.join(cells)} | {reached}{'; ' * bool(row['remark'])}{row['remark']} |")
    return "\n".join(lines)


def machines(results: Mapping[str, Any]) -> str:
    """Say where and when each case was measured.

    Args:
        results: content of benchmark.json.

    Returns:
        Markdown.
    """
    lines = ["| case | date | commit | machine | load before, after |", "|---|---|---|---|---|"]
    for name, entry in results["cases"].items():
        machine = f"{entry['cpu']}, {entry['cpus']} cores, {entry['device']}, torch {entry['versions']['torch']}"
        load = f"{entry['load_before']:.2f}, {entry['load_after']:.2f}"
        quick = ", --quick" if entry["quick"] else ""
        lines.append(f"| {name} | {entry['date'][:16]} | {entry['commit'][:10]}{quick} | {machine} | {load} |")
    return "\n".join(lines)


def memory(results: Mapping[str, Any]) -> str:
    """Make the table of memory.

    Args:
        results: content of benchmark.json.

    Returns:
        Markdown.
    """
    lines = ["| what | peer | peer [MiB] | rdtrain [MiB] |", "|---|---|---:|---:|"]
    for row in results["cases"].get("memory", {"rows": []})["rows"]:
        lines.append(f"| {row['what']} | {row['peer']} | {row['peer_mib']} | {row['rdtrain_mib']} |")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "never" if value is None else f"{value:.3g}"


def _between(markers: re.Match[str], content: str) -> str:
    return f"{markers[1]}{content}\n{markers[2]}"


def write(page: Path, parts: Mapping[str, str]) -> None:
    """Put tables between their markers, `<!-- benchmark NAME -->` and `<!-- end -->`.

    Args:
        page: a Markdown file that has the markers.
        parts: tables by name.

    Raises:
        ValueError: a marker is missing.
    """
    text = page.read_text()
    for name, content in parts.items():
        between = re.compile(rf"(<!-- benchmark {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not between.search(text):
            raise ValueError(f"{page} has no markers for {name}")
        text = between.sub(partial(_between, content=content), text)
    page.write_text(text)

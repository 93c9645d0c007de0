"""Write the tables of the docs from the code: configuration keys from conf/, metrics from rdtrain.metrics.

python scripts/make_docs.py            write them
python scripts/make_docs.py --check    exit 1 and name the files that are out of date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rdtrain.metrics import markdown_table

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
# One option stands for its group where the options have the same keys.
SHOWN = (
    ("", "train"), ("model", "compressai"), ("conv", "base"), ("criterion", "rate_distortion"), ("optimizer", "adam"),
    ("scheduler", "plateau"), ("dataset", "base"), ("engine", "base"), ("runner", "image_compression"),
    ("callbacks", "default"), ("logger", "default"), ("paths", "default"), ("launcher", "local"),
    ("launcher", "joblib"), ("launcher", "slurm"), ("launcher", "ray"),
)  # fmt: skip
_LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w.]+):(?: (?P<value>[^#]*?))?(?:\s+# (?P<meaning>.*))?$")


def keys_of(group: str, option: str) -> list[tuple[str, str, str]]:
    """Read keys, defaults and meanings from one YAML file.

    Args:
        group: the folder in conf/, empty for conf/ itself.
        option: the file without its ending.

    Returns:
        Dotted key, default and meaning of every line that has a meaning.
    """
    rows, path = [], [group] if group else []
    base = len(path)
    for line in (CONF / group / f"{option}.yaml").read_text().splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        depth = base + len(match["indent"]) // 2
        path = [*path[:depth], match["key"]]
        if match["meaning"] and not match["key"].startswith("_"):
            rows.append((".".join(path), (match["value"] or "").strip(), match["meaning"]))
    return rows


def key_table() -> str:
    """Make the table of configuration keys.

    Returns:
        Markdown.
    """
    defaults = {"conv.type": "spectral", "dataset.name": "photos"}
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for group, option in SHOWN:
        for key, value, meaning in keys_of(group, option):
            if group == "launcher" and option != "local":  # keys that one option has
                meaning = f"{option}: {meaning}"
            if key == "launcher.name" and option != "local":
                continue
            value = defaults.get(key, value)
            lines.append(f"| `{key}` | {f'`{value}`' if value else ''} | {meaning} |")
    return "\n".join(lines) + "\n"


def group_table() -> str:
    """Make the table of groups and their options.

    Returns:
        Markdown.
    """
    lines = ["| group | options |", "|---|---|"]
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir() and list(path.glob("*.yaml"))):
        files = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
        options = sorted(path.as_posix() for path in files if path.name != "base")
        lines.append(f"| `{folder.name}` | {', '.join(f'`{option}`' for option in options)} |")
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """Put the tables between their markers.

    Args:
        text: a document with `<!-- NAME -->` and `<!-- /NAME -->` lines.

    Returns:
        The document with today's tables.
    """
    for name, table in (("keys", key_table()), ("groups", group_table()), ("metrics", markdown_table())):
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m, t=table: m[1] + t + m[2], text, flags=re.DOTALL
        )
    return text


def main() -> int:
    """Write or check.

    Returns:
        Exit code.
    """
    stale = []
    for path in (ROOT / "README.md", ROOT / "docs" / "metrics.md"):
        text = path.read_text()
        if filled(text) != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(filled(text))
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; type python scripts/make_docs.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

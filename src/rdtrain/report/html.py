"""The report as one HTML file: pictures inside, no script, nothing fetched from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from rdtrain.report.figures import Plot
from rdtrain.report.references import ATTRIBUTION
from rdtrain.report.tables import Table

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption, .note, footer { color: #444; font-size: .88rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { background: #f3f3f3; } td { font-variant-numeric: tabular-nums; }
.problems { background: #fff4e0; border-left: 4px solid #d55e00; padding: .5rem 1rem; }
"""


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Args:
        title: its heading.
        tables: shown first.
        plots: shown after the tables.
    """

    title: str
    tables: Sequence[Table] = field(default_factory=list)
    plots: Sequence[Plot] = field(default_factory=list)


def page(title: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """Write the page.

    Args:
        title: of the page.
        notes: what to know first: runs left out or not finished.
        sections: empty ones are passed over.

    Returns:
        A complete HTML document; every text in it is escaped.
    """
    shown = [section for section in sections if section.tables or section.plots]
    parts = [f"<h1>{escape(title)}</h1>"]
    if notes:
        parts.append(f'<ul class="problems">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>')
    links = [f'<li><a href="#s{i}">{escape(section.title)}</a></li>' for i, section in enumerate(shown)]
    parts.append(f"<nav><ul>{''.join(links)}</ul></nav>")
    parts += [_section(section, f"s{i}") for i, section in enumerate(shown)]
    parts.append(f"<footer>{escape(ATTRIBUTION)}</footer>")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _section(section: Section, anchor: str) -> str:
    parts = [f'<h2 id="{anchor}">{escape(section.title)}</h2>']
    parts += [_table(table) for table in section.tables]
    parts += [_figure(plot) for plot in section.plots]
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h3>{escape(table.title)}</h3>\n<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>{note}"
    )


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.svg).decode("ascii")
    caption = escape(plot.caption)
    picture = f'<img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"

"""What all figures share: labels that do not overlap, files that are equal for equal input, the page."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rdtrain.report.figures import Plot, colours, legend_below, new_figure, slug, spread
from rdtrain.report.html import Section, page
from rdtrain.report.tables import Table


@given(st.lists(st.floats(-5, 5), max_size=25), st.floats(0.01, 1))
def test_spread_keeps_order_and_distance(values: list[float], gap: float) -> None:
    moved = spread(values, gap)
    order = np.argsort(values, kind="stable")
    assert moved.shape == (len(values),)
    assert (np.diff(moved[order]) >= gap - 1e-9).all()
    assert moved.sum() == pytest.approx(sum(values), abs=1e-6)  # stacks stay around their mean


def test_spread_leaves_alone_what_does_not_overlap() -> None:
    np.testing.assert_allclose(spread([0.9, 0.1, 0.5], 0.3), [0.9, 0.1, 0.5])
    np.testing.assert_allclose(spread([0.5, 0.5], 0.2), [0.4, 0.6])


def test_names() -> None:
    assert slug("rd psnr/kodak λ=0.01") == "rd-psnr-kodak-0.01"
    assert len(set(colours([f"c{i}" for i in range(8)]).values())) == 8
    assert colours(["a", "b", "a"]).keys() == {"a", "b"}


def plot(name: str = "p") -> Plot:
    figure, (axes,) = new_figure("A title that is far too long for its figure " * 3, 5, 3)
    axes.plot([0, 1], [0, 1], label="a long label of a curve " * 3)
    axes.plot([0, 1], [1, 0], label="another long label " * 3)
    legend_below(figure, [axes])
    return Plot(name, 'caption with <b> & "quotes"', figure)


def test_files_are_equal_for_equal_figures_and_have_the_papers_resolution(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    png, svg = plot().save(tmp_path)
    again = plot().save(tmp_path / "again")
    assert svg.read_bytes() == again[1].read_bytes()
    assert png.read_bytes() == again[0].read_bytes()
    with Image.open(png) as image:
        assert image.size == (1500, 900)
    assert b"<svg" in svg.read_bytes()[:1000]


def test_long_titles_wrap_and_long_legends_stay_inside() -> None:
    one = plot()
    assert "\n" in one.figure.get_suptitle()
    assert one.svg
    (legend,) = one.figure.legends
    box, frame = legend.get_window_extent(), one.figure.bbox
    assert box.x0 >= frame.x0
    assert box.x1 <= frame.x1


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_one_file_without_script_and_everything_is_escaped() -> None:
    table = Table("t", "Runs <script>", ["a"], [["<img src=http://x>"]], "note & more")
    text = page("report", ["run <x>: left out."], [Section("One", [table], [plot()]), Section("Empty")])
    parser = Collector()
    parser.feed(text)
    assert parser.open == []
    tags = [tag for tag, _ in parser.tags]
    assert "script" not in tags
    assert "link" not in tags
    (image,) = [attributes for tag, attributes in parser.tags if tag == "img"]
    source = image["src"] or ""
    assert source.startswith("data:image/svg+xml;base64,")
    assert b"<svg" in base64.b64decode(source.split(",", 1)[1])[:1000]
    assert image["alt"] == 'caption with <b> & "quotes"'
    assert "<img src=http://x>" in parser.text  # shown, not obeyed
    assert "run <x>: left out." in parser.text
    assert "Empty" not in parser.text
    assert "InterDigital" in parser.text
    policy = next(a["content"] for tag, a in parser.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    targets = {a["href"] for tag, a in parser.tags if tag == "a"}
    assert targets == {f"#{a['id']}" for tag, a in parser.tags if tag == "h2"}

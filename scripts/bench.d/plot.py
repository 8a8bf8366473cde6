"""The plots of scripts/bench: horizontal bars, as an SVG that needs nothing to be drawn."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, LABEL, BAR, GAP, HEAD = 760, 250, 16, 4, 30
COLOURS = {"fio": "#888888", "xenvbd": "#1f77b4", "qemu": "#d62728", "nbdkit": "#2ca02c"}


def write(path: Path, title: str, cases: Mapping[str, Mapping[str, float]]) -> None:
    """One group of bars a case: what each contestant reached, relative to the longest of the group."""
    y, parts = HEAD + GAP, []
    for case, values in cases.items():
        parts.append(text(0, y + BAR - 3, case, bold=True))
        y += BAR + GAP
        longest = max(values.values(), default=0) or 1
        for name, value in values.items():
            parts += bar(y, name, value, value / longest)
            y += BAR + GAP
        y += 2 * GAP
    path.write_text("\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>', text(0, 18, title), *parts, "</svg>", ""]))


def bar(y: int, name: str, value: float, part: float) -> list[str]:
    """Its label, itself, its figure."""
    room = WIDTH - LABEL - 90
    length = max(1, round(room * part))
    colour = next((colour for start, colour in COLOURS.items() if name.startswith(start)), "#444444")
    return [text(LABEL - 6, y + BAR - 4, name, end=True),
            f'<rect x="{LABEL}" y="{y}" width="{length}" height="{BAR}" fill="{colour}"/>',
            text(LABEL + length + 4, y + BAR - 4, f"{value:,.0f}")]


def text(x: int, y: int, words: str, *, bold: bool = False, end: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x}" y="{y}"{weight}{anchor}>{escape(words)}</text>'

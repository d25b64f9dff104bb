"""Plots as SVG, for a page that has no other resources: their colours are those of the page's style."""

from collections.abc import Sequence
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 480, 260
_LEFT, _BOTTOM, _MARGIN = 44, 36, 10
_BARS = 24


def histogram(
    values: Sequence[float], *, label: str, low: float, high: float, unit: str = "", signed: bool = False
) -> str:
    """How many of the values are in each of equal parts of the range. `signed`: above 0 is better than below."""
    counts, edges = np.histogram(values, bins=_BARS, range=(low, high))
    most = max(1, int(counts.max()))
    width = (_WIDTH - _LEFT - _MARGIN) / _BARS
    bars = [
        f'<rect class="{_side(start + end) if signed else "equal"}" x="{_LEFT + place * width + 1:.1f}" y="{_y(count / most):.1f}" '
        f'width="{width - 2:.1f}" height="{_y(0) - _y(count / most):.1f}">'
        f"<title>{count} between {start:.3g}{unit} and {end:.3g}{unit}</title></rect>"
        for place, (count, start, end) in enumerate(
            zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        )
    ]
    ticks = [(share, f"{low + share * (high - low):.3g}{unit}") for share in (0, 0.25, 0.5, 0.75, 1)]
    return _plot(label, bars, ticks, [(0, "0"), (1, f"{most}")])


def scatter(points: Sequence[tuple[float, float, str]], *, label: str, across: str, up: str) -> str:
    """Points of the square from 0 to 1, each with what is said of it; above the diagonal, what is up is larger."""
    diagonal = f'<line class="axis" x1="{_x(0):.1f}" y1="{_y(0):.1f}" x2="{_x(1):.1f}" y2="{_y(1):.1f}"/>'
    dots = [
        f'<circle class="{_side(y - x)}" '
        f'cx="{_x(x):.1f}" cy="{_y(y):.1f}" r="4"><title>{escape(said)}</title></circle>'
        for x, y, said in points
    ]
    ticks = [(share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    return _plot(label, [diagonal, *dots], ticks, ticks, across=across, up=up)


def _side(number: float) -> str:
    return "better" if number > 0 else "worse" if number < 0 else "equal"


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _MARGIN)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _MARGIN)


def _plot(
    label: str,
    marks: Sequence[str],
    across_ticks: Sequence[tuple[float, str]],
    up_ticks: Sequence[tuple[float, str]],
    *,
    across: str = "",
    up: str = "",
) -> str:
    axes = f'<path class="axis" d="M{_x(0):.1f} {_y(1):.1f}V{_y(0):.1f}H{_x(1):.1f}"/>'
    texts = [
        *(
            _text(_x(share), _HEIGHT - _BOTTOM + 15, said, "end" if share == 1 else "middle")
            for share, said in across_ticks
        ),
        *(_text(_LEFT - 5, _y(share) + 4, said, "end") for share, said in up_ticks),
        _text(_x(0.5), _HEIGHT - 3, across, "middle"),
        _text(_LEFT + 6, _MARGIN + 10, up, "start"),
    ]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{axes}{''.join(marks)}{''.join(texts)}</svg>"
    )


def _text(x: float, y: float, said: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>' if said else ""

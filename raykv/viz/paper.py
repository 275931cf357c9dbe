"""The elements of all pictures: paper, colours, letters, lines, and the axes of a plot."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Okabe & Ito's colours, which colour-blind readers can distinguish; further nodes take tints of them.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
FAULT = "#D55E00"
INK = "#333333"


def head(width: float, height: float, label: str, font_size: int = 12, *, shrinks: bool = True) -> str:
    """Begin a picture on white paper: its dark text must be readable on a dark page, too.

    ``shrinks``: on a narrower page, such as a telephone's, it becomes smaller; otherwise the page has to scroll.
    """
    style = ' style="max-width:100%;height:auto"' if shrinks else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
        f'{style} font-family="sans-serif" font-size="{font_size}" role="img" aria-label="{escape(label)}">'
        f'<rect width="{width:g}" height="{height:g}" rx="6" fill="#FFFFFF"/>'
    )


LEFT = 76
RIGHT = 26
PLOT = 700
_SHADES = (COLOURS[1], COLOURS[3])
TITLE = 24
_LETTER = 6.3
"""The approximate width of a letter at 12 points."""


class Axis:
    """Maps values to the pixels between two ends, and places ticks. A logarithmic axis runs from decade to decade."""

    def __init__(self, values: Iterable[float], first: float, last: float, *, log: bool = False) -> None:
        self._first, self._last, self._log = first, last, log
        found = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(found), max(found)) if found else (1.0, 10.0)
        if log:
            low, high = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
            high = max(high, low + 1)
            step = math.ceil((high - low) / 6)
            self.ticks = [10.0**power for power in range(low, high + 1, step)]
        else:
            low = min(low, 0.0)
            step_to = round_step((high - low or 1.0) / 6)
            high = max(high, low + step_to)
            last_tick = math.floor(high / step_to + 1e-9)
            self.ticks = [tick * step_to for tick in range(math.ceil(low / step_to - 1e-9), last_tick + 1)]
        self._low, self._high = low, high

    def at(self, value: float) -> float | None:
        """Return the pixel of a value, at the nearer end if it lies outside; None if the axis cannot show it."""
        if math.isnan(value) or (self._log and value <= 0):
            return None
        place = math.log10(value) if self._log and math.isfinite(value) else value
        share = min(1.0, max(0.0, (place - self._low) / (self._high - self._low)))
        return round(self._first + share * (self._last - self._first), 1)


def round_step(step: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= step * 0.999)


def numeral(value: float) -> str:
    """Return a number for people."""
    return f"{value:,.0f}" if abs(value) >= 1 and value == round(value) else f"{value:.6g}"


def words(x: float, y: float, text: str, *, anchor: str = "start", extra: str = "") -> str:
    """Return a text, escaped. ``anchor``: the end that lies at ``x``."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{INK}"{extra}>{escape(text)}</text>'


def heading(title: str) -> str:
    """Return the title, if there is one; it takes ``TITLE`` pixels."""
    return words(LEFT, 20, title, extra=' font-weight="bold" font-size="14"') if title else ""


def rule(x1: float, y1: float, x2: float, y2: float, colour: str, extra: str = "") -> str:
    """Draw a straight line."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}"{extra}/>'


def grid(x_axis: Axis, y_axis: Axis, top: float, bottom: float, *, x_numbers: bool = True) -> str:
    """Draw the grid of one plot, and its numbers."""
    parts = []
    for tick in x_axis.ticks:
        x = x_axis.at(tick)
        assert x is not None
        parts.append(rule(x, top, x, bottom, "#E6E6E6"))
        if x_numbers:
            parts.append(words(x, bottom + 16, numeral(tick), anchor="middle"))
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        assert y is not None
        parts.append(rule(LEFT, y, LEFT + PLOT, y, "#E6E6E6"))
        parts.append(words(LEFT - 6, y + 4, numeral(tick), anchor="end"))
    parts.append(rule(LEFT, top, LEFT, bottom, "#999999") + rule(LEFT, bottom, LEFT + PLOT, bottom, "#999999"))
    return "".join(parts)


def axis_names(top: float, bottom: float, x: str, y: str) -> str:
    """Name the axes of a plot."""
    middle = (top + bottom) / 2
    return words(LEFT + PLOT / 2, bottom + 34, x, anchor="middle") + words(
        16, middle, y, anchor="middle", extra=f' transform="rotate(-90 16 {middle:g})"'
    )


class Spans:
    """Shaded spans of time; their names appear above the plots, in as many rows as needed."""

    def __init__(self, spans: Sequence[tuple[str, float, float]], x_axis: Axis) -> None:
        self._placed: list[tuple[str, float, float, float, int]] = []
        taken: list[float] = []
        for name, begin, end in sorted(spans, key=lambda span: span[1]):
            x, to_x = x_axis.at(begin), x_axis.at(end)
            if x is None or to_x is None:
                continue
            half = len(name) * _LETTER / 2
            middle = min(max((x + to_x) / 2, LEFT + half), LEFT + PLOT - half)
            row = next((row for row, until in enumerate(taken) if until < middle - half), len(taken))
            taken[row : row + 1] = [middle + half + 10]
            self._placed.append((name, x, max(to_x, x + 1.5), middle, row))
        self.height = 18 * len(taken)

    def draw(self, top: float, bottom: float) -> str:
        """``top``: where the rows of names begin; the shades reach from a name down to ``bottom``."""
        parts = []
        for number, (name, x, to_x, middle, row) in enumerate(self._placed):
            y = top + 18 * row
            parts.append(
                f'<rect x="{x:g}" y="{y + 16:g}" width="{to_x - x:.1f}" height="{bottom - y - 16:g}" '
                f'fill="{_SHADES[number % 2]}" fill-opacity="0.22"/>' + words(middle, y + 12, name, anchor="middle")
            )
        return "".join(parts)


def points(
    places: Iterable[tuple[float | None, float | None]], colour: str, width: float = 6, *, cross: bool = False
) -> str:
    """Draw points as one path: the picture stays small with a few thousand of them."""
    found = sorted((x, y) for x, y in places if x is not None and y is not None)
    if not found:
        return ""
    steps = [f"M{x - 3:.1f},{y - 3:.1f}l6,6m0,-6l-6,6" if cross else f"M{x:g},{y:g}h0" for x, y in found]
    width = 1.8 if cross else width
    return f'<path d="{"".join(steps)}" fill="none" stroke-linecap="round" stroke="{colour}" stroke-width="{width:g}"/>'


def sector(centre: float, begin: float, end: float, outer: float, inner: float) -> str:
    """Return the path of a ring's sector between two shares of the full turn, clockwise from the top.

    ``centre``: both coordinates of the middle.
    """
    end = min(end, begin + 0.9999)  # a full turn begins and ends in one point, which draws nothing
    large = 1 if end - begin > 0.5 else 0
    (x0, y0), (x1, y1) = on_circle(centre, begin, outer), on_circle(centre, end, outer)
    (x2, y2), (x3, y3) = on_circle(centre, end, inner), on_circle(centre, begin, inner)
    return (
        f"M{x0:.1f},{y0:.1f}A{outer:g},{outer:g} 0 {large} 1 {x1:.1f},{y1:.1f}"
        f"L{x2:.1f},{y2:.1f}A{inner:g},{inner:g} 0 {large} 0 {x3:.1f},{y3:.1f}Z"
    )


def on_circle(centre: float, share: float, radius: float) -> tuple[float, float]:
    """Return the point at a share of the full turn, clockwise from the top."""
    angle = 2 * math.pi * share - math.pi / 2
    return centre + radius * math.cos(angle), centre + radius * math.sin(angle)

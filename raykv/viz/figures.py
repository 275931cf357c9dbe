"""Figures over time, or over anything: operations as dots, lines, bars."""

from __future__ import annotations

import math
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from raykv.viz.paper import (
    COLOURS,
    FAULT,
    INK,
    LEFT,
    PLOT,
    RIGHT,
    TITLE,
    Axis,
    Spans,
    axis_names,
    grid,
    head,
    heading,
    numeral,
    points,
    rule,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DASHES = ("none", "7 4", "2 3", "9 3 2 3")
_LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#333333")
_MARKED = 30
"""A line with at most this many points marks each of them."""


def timeline_svg(
    lanes: Mapping[str, Sequence[tuple[float, float, bool]]],
    spans: Sequence[tuple[str, float, float]] = (),
    *,
    x: str = "seconds",
) -> str:
    """Draw the latency of each operation over the time at which it began: one plot for each of ``lanes``.

    An operation is (start, latency in milliseconds, whether it succeeded): a blue dot, or a red cross if it failed. The
    milliseconds are on a logarithmic scale, the same in all plots. ``spans``, shaded: (name, from, to). ``x``: the name
    of the time axis.
    """
    everything = [operation for operations in lanes.values() for operation in operations]
    ends = [end for _, *both in spans for end in both]
    x_axis = Axis([*ends, *(at for at, _, _ in everything)], LEFT, LEFT + PLOT)
    shaded = Spans(spans, x_axis)
    height = 180 if len(lanes) < 2 else 90
    top = 12 + shaded.height
    bottom = top + max(1, len(lanes)) * (height + 30)
    parts = [head(LEFT + PLOT + RIGHT, bottom + 44, "how long each operation took"), shaded.draw(10, bottom)]
    for number, (name, operations) in enumerate(lanes.items(), 1):
        low = top + number * (height + 30)
        y_axis = Axis((taken_ms for _, taken_ms, _ in everything), low, low - height, log=True)
        parts.append(grid(x_axis, y_axis, low - height, low, x_numbers=number == len(lanes)))
        counts = []
        for success, word in ((True, "succeeded"), (False, "failed")):
            chosen = [(at, taken_ms) for at, taken_ms, succeeded in operations if succeeded == success]
            places = {(x_axis.at(at), y_axis.at(taken_ms)) for at, taken_ms in chosen}
            parts.append(points(places, COLOURS[0], 3.5) if success else points(places, FAULT, cross=True))
            counts.append(f"{len(chosen):,} {word}")
        parts.append(words(LEFT, low - height - 7, name, extra=' font-weight="bold"'))
        parts.append(words(LEFT + PLOT, low - height - 7, ", ".join(counts), anchor="end"))
    if not lanes:
        parts.append(words(LEFT, bottom - height / 2, "no operations"))
    parts.append(axis_names(top + 30, bottom, x, "milliseconds"))
    parts.append("</svg>")
    return "".join(parts)


def lines_svg(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log: str = "",
    levels: Mapping[str, float] | None = None,
    spans: Sequence[tuple[str, float, float]] = (),
    title: str = "",
) -> str:
    """Draw lines through points (x, y), each with its own colour and dash.

    ``x``, ``y``: the axes' names, with units. ``title``: of the figure. ``log``: "x", "y" or "xy", the logarithmic axes;
    points that have no place on one (0 or less) are left out. A value that is NaN is a gap in its line. ``levels``:
    horizontal lines by their names. ``spans``, shaded: (name, from, to). A linear axis begins at 0; infinite values are
    drawn at the edge.
    """
    levels = levels or {}
    everything = [point for line in lines.values() for point in line]
    ends = [end for _, *both in spans for end in both]
    x_axis = Axis([*ends, *(at for at, _ in everything)], LEFT, LEFT + PLOT, log="x" in log)
    shaded = Spans(spans, x_axis)
    above = TITLE if title else 0
    top = 16 + above + shaded.height + 20 * math.ceil(len(lines) / 2)
    bottom = top + 230
    y_axis = Axis([*levels.values(), *(value for _, value in everything)], bottom, top, log="y" in log)
    parts = [
        head(LEFT + PLOT + RIGHT, bottom + 44, title or f"{y} over {x}"),
        heading(title),
        shaded.draw(top - 8 - shaded.height, bottom),
        grid(x_axis, y_axis, top, bottom),
    ]
    for name, level in levels.items():
        if (level_y := y_axis.at(level)) is not None:
            parts.append(rule(LEFT, level_y, LEFT + PLOT, level_y, INK))
            parts.append(words(LEFT + 6, level_y - 5, name))
    for number, (name, through) in enumerate(lines.items()):
        style = f' stroke-width="2" stroke-dasharray="{_DASHES[number % len(_DASHES)]}"'
        colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
        places = [(x_axis.at(at), y_axis.at(value)) for at, value in through]
        for _, piece in groupby(through, key=lambda point: math.isnan(point[1])):
            ends_at = [(x_axis.at(at), y_axis.at(value)) for at, value in piece]
            path = " ".join(f"{at_x:g},{at_y:g}" for at_x, at_y in ends_at if at_x is not None and at_y is not None)
            if path or len(through) == len(ends_at):
                parts.append(
                    f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-linejoin="round"{style}/>'
                )
        if len(through) <= _MARKED:
            parts.append(points(places, colour))
        legend_x, legend_y = LEFT + number % 2 * PLOT / 2, 20 + above + number // 2 * 20
        parts.append(rule(legend_x, legend_y - 4, legend_x + 32, legend_y - 4, colour, style))
        parts.append(words(legend_x + 40, legend_y, name))
    if not everything:
        parts.append(words(LEFT + 8, (top + bottom) / 2, "nothing to show"))
    parts.append(axis_names(top, bottom, x, y))
    parts.append("</svg>")
    return "".join(parts)


def bars_svg(bars: Mapping[str, Mapping[str, float]], *, x: str, y: str, title: str = "") -> str:
    """Draw grouped bars from 0 up: ``bars`` has for each series (a colour, named above) its value by group.

    Groups appear in the order of their first mention; a missing value gets no bar. Each bar carries its number. ``x``,
    ``y``: the names of the groups and of the bars' values, with the unit. ``title``: of the figure.
    """
    groups = list(dict.fromkeys(group for series in bars.values() for group in series))
    above, columns = TITLE if title else 0, max(1, len(bars))
    top = 40 + above + 20 * math.ceil(len(bars) / 3)
    bottom = top + 190
    y_axis = Axis([0.0, *(value for series in bars.values() for value in series.values())], bottom, top)
    parts = [head(LEFT + PLOT + RIGHT, bottom + 44, title or f"{y} by {x}"), heading(title)]
    for tick in y_axis.ticks:
        tick_y = y_axis.at(tick)
        assert tick_y is not None
        parts.append(rule(LEFT, tick_y, LEFT + PLOT, tick_y, "#E6E6E6"))
        parts.append(words(LEFT - 6, tick_y + 4, numeral(tick), anchor="end"))
    wide = PLOT / max(1, len(groups))
    bar = min(60.0, 0.84 * wide / columns)
    zero = y_axis.at(0.0)
    for number, (name, series) in enumerate(bars.items()):
        colour = COLOURS[number % len(COLOURS)]
        legend_x, legend_y = LEFT + number % 3 * PLOT / 3, 20 + above + number // 3 * 20
        parts.append(f'<rect x="{legend_x:g}" y="{legend_y - 11}" width="13" height="13" fill="{colour}"/>')
        parts.append(words(legend_x + 20, legend_y, name))
        for group, value in series.items():
            high = y_axis.at(value)
            if high is None or zero is None:
                continue
            left = LEFT + (groups.index(group) + 0.5) * wide + (number - columns / 2) * bar
            parts.append(
                f'<rect x="{left:.1f}" y="{min(high, zero):g}" width="{bar * 0.94:.1f}" height="{abs(zero - high):g}" '
                f'fill="{colour}"><title>{escape(f"{name}, {group}: {value:g}")}</title></rect>'
            )
            parts.append(
                words(round(left + bar * 0.47, 1), min(high, zero) - 4, numeral(float(f"{value:.3g}")), anchor="middle")
            )
    parts += [words(LEFT + (at + 0.5) * wide, bottom + 16, group, anchor="middle") for at, group in enumerate(groups)]
    parts.append(rule(LEFT, bottom, LEFT + PLOT, bottom, "#999999"))
    if not groups:
        parts.append(words(LEFT + 8, (top + bottom) / 2, "nothing to show"))
    parts.append(axis_names(top, bottom, x, y))
    parts.append("</svg>")
    return "".join(parts)

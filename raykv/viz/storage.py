"""One node's storage: sorted runs as they come and are merged, and what each of some reads has touched."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from raykv.viz.paper import (
    COLOURS,
    INK,
    LEFT,
    PLOT,
    RIGHT,
    TITLE,
    Axis,
    axis_names,
    head,
    heading,
    numeral,
    rule,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PLOT_HEIGHT = 260
_BEFORE = 0.45
"""How much of its colour a run has that was there before."""
_CELL_HEIGHT = 26
_CELL_WIDTH = 62
_NAMES = 190
_STATES = ("#009E73", "#D55E00", "#56B4E9", "#E3E3E3", "#F8F8F8")


def runs_svg(steps: Sequence[tuple[str, Sequence[tuple[int, float, int]]]], *, x: str, y: str, title: str = "") -> str:
    """Draw sorted runs as a film, from left to right: one column for each step, the oldest run at its foot.

    ``steps``: (what happened, the runs after it, newest first); a run is (number, size, level). The height of a run is
    its size, its colour its level. What a step has written has its full colour and an edge; what was there before is
    pale. ``x``, ``y``: the names of the steps and of the sizes, with the unit. ``title``: of the figure.
    """
    levels = sorted({level for _, runs in steps for _, _, level in runs})
    above = TITLE if title else 0
    top = 44 + above
    bottom = top + _PLOT_HEIGHT
    y_axis = Axis([0.0, *(sum(size for _, size, _ in runs) for _, runs in steps)], bottom, top)
    parts = [head(LEFT + PLOT + RIGHT, bottom + 44, title or "sorted runs, step by step"), heading(title)]
    for tick in y_axis.ticks:
        tick_y = y_axis.at(tick)
        assert tick_y is not None
        parts.append(rule(LEFT, tick_y, LEFT + PLOT, tick_y, "#E6E6E6"))
        parts.append(words(LEFT - 6, tick_y + 4, numeral(tick), anchor="end"))
    for at, level in enumerate(levels):
        legend_x = LEFT + at * 110
        parts.append(f'<rect x="{legend_x}" y="{9 + above}" width="13" height="13" fill="{_colour(level)}"/>')
        parts.append(words(legend_x + 20, 20 + above, f"level {level}"))
    wide = PLOT / max(1, len(steps))
    before: set[tuple[int, float]] = set()
    for at, (what, runs) in enumerate(steps):
        height = 0.0
        for number, size, level in reversed(runs):
            low, high = y_axis.at(height), y_axis.at(height + size)
            assert low is not None
            assert high is not None
            new = (number, size) not in before
            edge = f' stroke="{INK}" stroke-width="0.9"' if new else f' fill-opacity="{_BEFORE}" stroke="#FFFFFF"'
            parts.append(
                f'<rect x="{LEFT + at * wide + wide * 0.06:.1f}" y="{high:g}" width="{wide * 0.88:.1f}" '
                f'height="{low - high:.1f}" fill="{_colour(level)}"{edge}>'
                f"<title>{escape(f'{what}: run {number}, {numeral(size)}, level {level}')}</title></rect>"
            )
            height += size
        before = {(number, size) for number, size, _ in runs}
    parts.append(rule(LEFT, bottom, LEFT + PLOT, bottom, "#999999"))
    if not steps:
        parts.append(words(LEFT + 8, (top + bottom) / 2, "nothing to show"))
    parts.append(axis_names(top, bottom, x, y))
    parts.append("</svg>")
    return "".join(parts)


def touched_svg(
    lookups: Mapping[str, Mapping[str, str]], states: Sequence[str], *, x: str = "", title: str = ""
) -> str:
    """Draw what each of some lookups has touched: a column for each of ``lookups``, a row for each place that may be asked.

    ``lookups``: for each key, the state of each place, in the order in which places are asked; a place that was not asked
    is left out. ``states``: all states, at most five, in the order of their colours: found, in vain, and cheaper ones.
    ``x``: the name of the columns. ``title``: of the figure. Raises ``ValueError`` for a state that is not in ``states``.
    """
    if len(states) > len(_STATES):
        raise ValueError(f"at most {len(_STATES)} states have a colour; got {len(states)}")
    colours = dict(zip(states, _STATES, strict=False))
    unknown = sorted({state for places in lookups.values() for state in places.values()} - {*states})
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of the states {', '.join(states)}")
    rows = list(dict.fromkeys(place for places in lookups.values() for place in places))
    above = TITLE if title else 0
    top = 20 + above + 22 * ((len(states) + 1) // 2)
    width = max(LEFT + PLOT + RIGHT, _NAMES + len(lookups) * _CELL_WIDTH + 20)
    bottom = top + len(rows) * _CELL_HEIGHT
    parts = [head(width, bottom + 50, title or "what each lookup touches"), heading(title)]
    for at, (state, colour) in enumerate(colours.items()):
        legend_x, legend_y = 20 + at % 2 * width / 2, 18 + above + at // 2 * 22
        parts.append(
            f'<rect x="{legend_x:g}" y="{legend_y - 11}" width="13" height="13" fill="{colour}" stroke="#BBBBBB"/>'
        )
        parts.append(words(legend_x + 20, legend_y, state))
    for at, row in enumerate(rows):
        parts.append(words(_NAMES - 10, top + at * _CELL_HEIGHT + 17, row, anchor="end"))
    for column, (key, places) in enumerate(lookups.items()):
        left = _NAMES + column * _CELL_WIDTH
        for place, state in places.items():
            y = top + rows.index(place) * _CELL_HEIGHT
            parts.append(
                f'<rect x="{left:g}" y="{y:g}" width="{_CELL_WIDTH - 3}" height="{_CELL_HEIGHT - 3}" '
                f'fill="{colours[state]}" stroke="#BBBBBB"><title>{escape(f"{key}, {place}: {state}")}</title></rect>'
            )
        parts.append(words(left + (_CELL_WIDTH - 3) / 2, bottom + 14, key[:9], anchor="middle"))
    if not lookups:
        parts.append(words(20, top + 14, "nothing to show"))
    parts.append(words(_NAMES + len(lookups) * _CELL_WIDTH / 2, bottom + 36, x, anchor="middle"))
    parts.append("</svg>")
    return "".join(parts)


def _colour(level: int) -> str:
    return COLOURS[level % len(COLOURS)]

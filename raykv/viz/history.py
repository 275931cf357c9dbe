"""A history of concurrent operations: when each began and returned, and the moment at which it took effect."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from raykv.viz.paper import COLOURS, FAULT, INK, LEFT, PLOT, RIGHT, Axis, axis_names, head, numeral, rule, words

if TYPE_CHECKING:
    from collections.abc import Iterable

ROW = 48
BAR = 14
_LETTER = 5.6
"""How wide a letter of a label is, about, at 10.5 points."""


class Span(NamedTuple):
    """One operation of one client. ``at``: when it took effect; None where no order explains it, or it never did."""

    client: str
    label: str
    began: float
    ended: float
    at: float | None = None


def history_svg(spans: Iterable[Span], *, x: str = "seconds") -> str:
    """Draw a history: a row for each client, a bar for each operation, a line through the points of effect in their order.

    An operation without such a point is red.
    """
    spans = [*spans]
    clients = [*dict.fromkeys(span.client for span in spans)]
    rows = {client: 42 + number * ROW for number, client in enumerate(clients)}
    bottom = 24 + max(1, len(clients)) * ROW
    axis = Axis([end for span in spans for end in (span.began, span.ended)], LEFT, LEFT + PLOT)
    parts = [
        head(LEFT + PLOT + RIGHT, bottom + 44, "a history of concurrent operations, with the points of their effect")
    ]
    for tick in axis.ticks:
        if (x_at := axis.at(tick)) is not None:
            parts.append(rule(x_at, 20, x_at, bottom, "#E6E6E6"))
            parts.append(words(x_at, bottom + 16, numeral(tick), anchor="middle"))
    for client, top in rows.items():
        parts.append(words(LEFT - 8, top + BAR / 2 + 4, client, anchor="end", extra=' font-weight="bold"'))
    effects: list[tuple[float, float]] = []
    for span in spans:
        left, right = axis.at(span.began) or LEFT, axis.at(span.ended) or LEFT
        top, colour = rows[span.client], COLOURS[0] if span.at is not None else FAULT
        width = max(3.0, right - left)
        title = f"{span.client}: {span.label}, {span.began:.3f} to {span.ended:.3f}"
        parts.append(
            f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" rx="3" fill="{colour}" fill-opacity="0.25" '
            f'stroke="{colour}"><title>{escape(title)}</title></rect>'
        )
        if len(span.label) * _LETTER < width + 8:
            parts.append(words(left + 1, top - 5, span.label, extra=' font-size="10.5"'))
        if span.at is not None:
            effects.append((axis.at(span.at) or LEFT, top + BAR / 2))
    effects.sort()
    path = " ".join(f"{x_at:.1f},{y_at:.1f}" for x_at, y_at in effects)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-opacity="0.35"/>')
    parts += [f'<circle cx="{x_at:.1f}" cy="{y_at:.1f}" r="4" fill="{INK}"/>' for x_at, y_at in effects]
    parts.append(axis_names(20, bottom, x, ""))
    parts.append("</svg>")
    return "".join(parts)

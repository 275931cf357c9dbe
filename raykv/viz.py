"""Pictures, as SVG text: they need no library and no browser plug-in, and a notebook shows them as they are."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Okabe & Ito's colours, which colour-blind readers can tell apart; more nodes take tints of them.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_SIZE = 440
_BAND = 34.0
_OUTER = 190.0


def ring_svg(ring: Mapping[str, Any], down: Sequence[str] = ()) -> str:
    """Draw the ring: one band for each copy (the first owner outermost), an arc for each partition.

    ``ring``: ``store.ring()``. ``down``: node ids to be drawn hatched-out in grey. Neighbouring partitions of the same
    owner are drawn as one arc, so a ring of 1,024 partitions stays small.
    """
    members = [member["node_id"] for member in ring["members"]]
    colour = {
        node_id: "#DDDDDD" if node_id in down else _COLOURS[index % len(_COLOURS)]
        for index, node_id in enumerate(members)
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIZE + 150} {_SIZE}" width="{_SIZE + 150}" '
        f'height="{_SIZE}" font-family="sans-serif" font-size="13" role="img" aria-label="the ring">'
    ]
    step = min(_BAND + 4, (_OUTER - 40) / ring["copies"])
    for copy in range(ring["copies"]):
        owners = [members[row[copy]] for row in ring["table"]]
        outer = _OUTER - copy * step
        for first, last, node_id in _runs(owners):
            path = _arc(first / len(owners), last / len(owners), outer, outer - step * 0.9)
            title = f"{escape(node_id)}: copy {copy + 1} of partitions {first} to {last - 1}"
            parts.append(f'<path d="{path}" fill="{colour[node_id]}"><title>{title}</title></path>')
    middle = _SIZE / 2
    parts.append(
        f'<text x="{middle}" y="{middle - 6}" text-anchor="middle" font-weight="bold">{ring["partitions"]} partitions</text>'
        f'<text x="{middle}" y="{middle + 14}" text-anchor="middle">{ring["copies"]} copies, epoch {ring["epoch"]}</text>'
    )
    for index, node_id in enumerate(members[:20]):
        y = 30 + index * 20
        note = " (down)" if node_id in down else ""
        parts.append(
            f'<rect x="{_SIZE}" y="{y - 11}" width="13" height="13" fill="{colour[node_id]}"/>'
            f'<text x="{_SIZE + 20}" y="{y}">{escape(node_id)}{note}</text>'
        )
    if len(members) > 20:
        parts.append(f'<text x="{_SIZE}" y="{30 + 20 * 20}">and {len(members) - 20} more</text>')
    parts.append("</svg>")
    return "".join(parts)


def _runs(owners: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return (first, past the last, owner) of the runs of equal owners."""
    runs: list[tuple[int, int, str]] = []
    for index, owner in enumerate(owners):
        if runs and runs[-1][2] == owner:
            runs[-1] = (runs[-1][0], index + 1, owner)
        else:
            runs.append((index, index + 1, owner))
    return runs


def _arc(begin: float, end: float, outer: float, inner: float) -> str:
    """Return the path of a ring's sector between two shares of the full turn, clockwise from the top."""
    end = min(end, begin + 0.9999)  # a full turn would begin and end in one point, which draws nothing
    large = 1 if end - begin > 0.5 else 0
    corners = [_point(begin, outer), _point(end, outer), _point(end, inner), _point(begin, inner)]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = corners
    return (
        f"M{x0:.1f},{y0:.1f} A{outer},{outer} 0 {large} 1 {x1:.1f},{y1:.1f} "
        f"L{x2:.1f},{y2:.1f} A{inner},{inner} 0 {large} 0 {x3:.1f},{y3:.1f} Z"
    )


def _point(share: float, radius: float) -> tuple[float, float]:
    angle = 2 * math.pi * share - math.pi / 2
    return _SIZE / 2 + radius * math.cos(angle), _SIZE / 2 + radius * math.sin(angle)

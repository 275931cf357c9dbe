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


_COLUMN = 150
_ROW = 74
_BOX = (118, 44)


def versions_svg(writes: Sequence[Mapping[str, Any]], standing: Sequence[str] = ()) -> str:
    """Draw the history of one key's versions: a box a write, an arrow from it to each write that it supersedes.

    ``writes``, in the order of their making: ``name`` (unique), ``text`` (what was written), ``by`` (who wrote; each writer
    has a line of its own), ``seen`` (names of the writes that it had seen). ``standing``: names of those that nobody has
    superseded, drawn full; the others are pale. An arrow that follows from two others is left out.
    """
    lines = list(dict.fromkeys(str(write["by"]) for write in writes))
    place = {
        write["name"]: (110 + column * _COLUMN, 20 + lines.index(str(write["by"])) * _ROW)
        for column, write in enumerate(writes)
    }
    width, height = 110 + len(writes) * _COLUMN, 20 + len(lines) * _ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" role="img" aria-label="versions of a key">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#555555"/></marker></defs>'
    ]
    for index, line in enumerate(lines):
        y = 20 + index * _ROW + _BOX[1] / 2
        parts.append(
            f'<text x="4" y="{y + 4}" font-weight="bold">{escape(line)}</text>'
            f'<line x1="100" y1="{y}" x2="{width}" y2="{y}" stroke="#EEEEEE" stroke-width="2"/>'
        )
    seen = {write["name"]: list(write["seen"]) for write in writes}
    for write in writes:
        x, y = place[write["name"]]
        direct = [name for name in seen[write["name"]] if not any(name in seen[other] for other in seen[write["name"]])]
        for name in direct:
            to_x, to_y = place[name]
            start, end = (x, y + _BOX[1] / 2), (to_x + _BOX[0], to_y + _BOX[1] / 2)
            parts.append(
                f'<path d="M{start[0]},{start[1]} C{end[0] + 40},{start[1]} {end[0] + 40},{end[1]} {end[0] + 3},{end[1]}" '
                'fill="none" stroke="#555555" stroke-width="1.5" marker-end="url(#tip)"/>'
            )
    for write in writes:
        x, y = place[write["name"]]
        stands = write["name"] in standing
        colour = _COLOURS[lines.index(str(write["by"])) % len(_COLOURS)]
        parts.append(
            f'<rect x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="6" fill="{colour if stands else "#FFFFFF"}" '
            f'stroke="{colour}" stroke-width="2"/>'
            f'<text x="{x + _BOX[0] / 2}" y="{y + 18}" text-anchor="middle" font-weight="bold" '
            f'fill="{"#FFFFFF" if stands else "#333333"}">{escape(_short(str(write["name"])))}</text>'
            f'<text x="{x + _BOX[0] / 2}" y="{y + 35}" text-anchor="middle" '
            f'fill="{"#FFFFFF" if stands else "#333333"}">{escape(_short(str(write["text"])))}</text>'
        )
    parts.append("</svg>")
    return "".join(parts)


def _short(text: str) -> str:
    return text if len(text) <= 18 else text[:17] + "\u2026"

"""The history of one key's versions."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from raykv.viz.paper import COLOURS, INK, head, rule, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COLUMN = 150
_ROW = 74
_BOX = (118, 44)
MOST_SIBLINGS = 12
"""Those beyond are counted only."""


def versions_svg(writes: Sequence[Mapping[str, Any]], standing: Sequence[str] = ()) -> str:
    """Draw the history of one key's versions: a box for each write, an arrow to each write that it supersedes.

    ``writes``, in order: ``name`` (unique), ``text`` (the value), ``by`` (the writer; each has its own line), ``seen``
    (names of the writes that it had seen). ``standing``: names of the current versions, in full colour; the others are
    pale. An arrow that follows from two others is left out.
    """
    lines = list(dict.fromkeys(str(write["by"]) for write in writes))
    place = {
        write["name"]: (110 + column * _COLUMN, 20 + lines.index(str(write["by"])) * _ROW)
        for column, write in enumerate(writes)
    }
    width, height = 110 + len(writes) * _COLUMN, 20 + len(lines) * _ROW
    parts = [
        head(width, height, "versions of a key")
        + '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
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
        colour = COLOURS[lines.index(str(write["by"])) % len(COLOURS)]
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


def siblings_svg(values: Sequence[str]) -> str:
    """Draw what stands under a key: each value a branch, all of them beneath the context that covers them.

    ``values``: their texts, the newest first. A put with the context supersedes them all.
    """
    shown = list(values[:MOST_SIBLINGS])
    height = 40 + 34 * max(1, len(shown))
    middle = 14 + 34 * max(1, len(shown)) / 2
    parts = [head(520, height, "what stands under the key")]
    parts.append(f'<circle cx="24" cy="{middle:g}" r="7" fill="{INK}"/>')
    parts.append(words(40, height - 8, "one put with the context supersedes all", extra=' style="fill:#666666"'))
    for at, text in enumerate(shown):
        y = 28 + 34 * at
        parts.append(rule(31, middle, 120, y, INK))
        parts.append(
            f'<rect x="120" y="{y - 13}" width="386" height="26" rx="4" fill="#FFFFFF" '
            f'stroke="{COLOURS[at % len(COLOURS)]}" stroke-width="1.5"/>'
        )
        parts.append(words(130, y + 4, _short_line(text)))
    if not shown:
        parts.append(words(130, middle + 4, "nothing: the key is absent"))
    if len(values) > MOST_SIBLINGS:
        parts.append(words(300, height - 8, f"and {len(values) - MOST_SIBLINGS} more"))
    return "".join([*parts, "</svg>"])


def _short_line(text: str) -> str:
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 54 else text[:51] + "..."

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
MOST_ROWS = 6
MOST_DOTS = 16


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


def siblings_svg(values: Sequence[str], seen: Sequence[tuple[str, int, int]] = ()) -> str:
    """Draw what stands under a key, beneath the history of its writes: each value a branch, all under one context.

    ``values``: their texts, the newest first. ``seen``: the writes that the context covers, as (who has numbered them,
    first, last). A history does not say which of its writes a value is; the others are superseded, or deletes. A put with
    the context supersedes them all. The picture stays below 20 KB.
    """
    shown = list(values[:MOST_SIBLINGS])
    history, top = _history(seen)
    rows = max(1, len(shown))
    height = top + 40 + 34 * rows
    middle = top + 14 + 34 * rows / 2
    parts = [head(520, height, "what stands under the key"), *history]
    if history:
        parts.append(rule(24, 44, 24, middle, INK))
    parts.append(f'<circle cx="24" cy="{middle:g}" r="7" fill="{INK}"/>')
    parts.append(words(40, height - 8, "one put with the context supersedes all", extra=' style="fill:#666666"'))
    for at, text in enumerate(shown):
        y = top + 28 + 34 * at
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


def _history(seen: Sequence[tuple[str, int, int]]) -> tuple[list[str], int]:
    """Return a row of dots for each that numbered writes, the last ones of each, and the height of all rows."""
    rows: dict[str, list[tuple[int, int]]] = {}
    for who, first, last in seen:
        rows.setdefault(who, []).append((first, last))
    if not rows:
        return [], 0
    count = sum(last - first + 1 for _, first, last in seen)
    plural = "" if count == 1 else "s", "" if len(rows) == 1 else "s"
    parts = [words(14, 20, f"{count:,} write{plural[0]} known, numbered by {len(rows)} run{plural[1]} of nodes")]
    y = 20
    for who, spans in [*rows.items()][:MOST_ROWS]:
        y += 24
        end = max(last for _, last in spans)
        begin = max(1, end - MOST_DOTS + 1)
        parts.append(words(40, y + 4, who, extra=' style="fill:#666666"'))
        parts.append(rule(24, y, 34, y, INK))
        parts.append(rule(120, y, 120 + 17 * (end - begin), y, "#CCCCCC"))
        for number in range(begin, end + 1):
            there = any(first <= number <= last for first, last in spans)
            fill, title = (
                (INK, f"write {number} of {who}") if there else ("#FFFFFF", f"write {number} of {who}: not seen")
            )
            parts.append(
                f'<circle cx="{120 + 17 * (number - begin)}" cy="{y}" r="5" fill="{fill}" stroke="{INK}">'
                f"<title>{escape(title)}</title></circle>"
            )
        if begin > 1:
            parts.append(words(112, y + 4, "\u2026", anchor="end"))
        parts.append(words(134 + 17 * (end - begin), y + 4, f"{end:,}"))
    if len(rows) > MOST_ROWS:
        y += 20
        parts.append(words(40, y + 4, f"and {len(rows) - MOST_ROWS} more", extra=' style="fill:#666666"'))
    return parts, y + 10


def _short_line(text: str) -> str:
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 54 else text[:51] + "..."

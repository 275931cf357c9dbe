"""Pictures, as SVG text: they need no library and no browser plug-in, and a notebook shows them as they are."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Okabe & Ito's colours, which colour-blind readers can tell apart; more nodes take tints of them.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_FAULT = "#D55E00"
_INK = "#333333"
_SIZE = 440
_BAND = 34.0
_OUTER = 190.0


def _head(width: float, height: float, label: str, font_size: int = 12) -> str:
    """Open a picture, on white paper: its dark text is to be read on a dark page too."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'font-family="sans-serif" font-size="{font_size}" role="img" aria-label="{escape(label)}">'
        f'<rect width="{width:g}" height="{height:g}" rx="6" fill="#FFFFFF"/>'
    )


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
    parts = [_head(_SIZE + 150, _SIZE, "the ring", font_size=13)]
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
        _head(width, height, "versions of a key")
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


# ---- figures over time, or over anything ----

_LEFT = 76
_RIGHT = 26
_PLOT = 700
_SHADES = (_COLOURS[1], _COLOURS[3])
_DASHES = ("none", "7 4", "2 3", "9 3 2 3")
_LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#333333")
_MARKED = 30
"""A line of so few points shows them."""
_LETTER = 6.3
"""How wide a letter is, about, at 12 points."""


class _Axis:
    """Where values lie between two pixels, and where its ticks are. A logarithmic one goes from decade to decade."""

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
            step_to = _round_step((high - low or 1.0) / 6)
            high = max(high, low + step_to)
            last_tick = math.floor(high / step_to + 1e-9)
            self.ticks = [tick * step_to for tick in range(math.ceil(low / step_to - 1e-9), last_tick + 1)]
        self._low, self._high = low, high

    def at(self, value: float) -> float | None:
        """Return the pixel of a value, at the nearer end if it lies outside; None if it has no place."""
        if math.isnan(value) or (self._log and value <= 0):
            return None
        place = math.log10(value) if self._log and math.isfinite(value) else value
        share = min(1.0, max(0.0, (place - self._low) / (self._high - self._low)))
        return round(self._first + share * (self._last - self._first), 1)


def _round_step(step: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= step * 0.999)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1 and value == round(value) else f"{value:.6g}"


def _text(x: float, y: float, text: str, *, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{_INK}"{extra}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, extra: str = "") -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}"{extra}/>'


def _grid(x_axis: _Axis, y_axis: _Axis, top: float, bottom: float, *, x_numbers: bool = True) -> str:
    """Draw the grid of one plot, and its numbers."""
    parts = []
    for tick in x_axis.ticks:
        x = x_axis.at(tick)
        assert x is not None
        parts.append(_line(x, top, x, bottom, "#E6E6E6"))
        if x_numbers:
            parts.append(_text(x, bottom + 16, _number(tick), anchor="middle"))
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        assert y is not None
        parts.append(_line(_LEFT, y, _LEFT + _PLOT, y, "#E6E6E6"))
        parts.append(_text(_LEFT - 6, y + 4, _number(tick), anchor="end"))
    parts.append(_line(_LEFT, top, _LEFT, bottom, "#999999") + _line(_LEFT, bottom, _LEFT + _PLOT, bottom, "#999999"))
    return "".join(parts)


def _axis_names(top: float, bottom: float, x: str, y: str) -> str:
    middle = (top + bottom) / 2
    return _text(_LEFT + _PLOT / 2, bottom + 34, x, anchor="middle") + _text(
        16, middle, y, anchor="middle", extra=f' transform="rotate(-90 16 {middle:g})"'
    )


class _Spans:
    """Spans of time, to be shaded; their names stand above the plots, in as many rows as they need."""

    def __init__(self, spans: Sequence[tuple[str, float, float]], x_axis: _Axis) -> None:
        self._placed: list[tuple[str, float, float, float, int]] = []
        taken: list[float] = []
        for name, begin, end in sorted(spans, key=lambda span: span[1]):
            x, to_x = x_axis.at(begin), x_axis.at(end)
            if x is None or to_x is None:
                continue
            half = len(name) * _LETTER / 2
            middle = min(max((x + to_x) / 2, _LEFT + half), _LEFT + _PLOT - half)
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
                f'fill="{_SHADES[number % 2]}" fill-opacity="0.22"/>' + _text(middle, y + 12, name, anchor="middle")
            )
        return "".join(parts)


def timeline_svg(
    lanes: Mapping[str, Sequence[tuple[float, float, bool]]],
    spans: Sequence[tuple[str, float, float]] = (),
    *,
    x: str = "seconds",
) -> str:
    """Draw how long each operation took, over the time at which it began: a plot for each of ``lanes``, one above another.

    An operation is (begun at, milliseconds that it took, whether it succeeded): a blue dot, or a red cross if it failed.
    The milliseconds are on a logarithmic scale, the same in all plots. ``spans``, shaded: (name, from, to). ``x``: what
    the times are.
    """
    everything = [operation for operations in lanes.values() for operation in operations]
    ends = [end for _, *both in spans for end in both]
    x_axis = _Axis([*ends, *(at for at, _, _ in everything)], _LEFT, _LEFT + _PLOT)
    shaded = _Spans(spans, x_axis)
    height = 180 if len(lanes) < 2 else 90
    top = 12 + shaded.height
    bottom = top + max(1, len(lanes)) * (height + 30)
    parts = [_head(_LEFT + _PLOT + _RIGHT, bottom + 44, "how long each operation took"), shaded.draw(10, bottom)]
    for number, (name, operations) in enumerate(lanes.items(), 1):
        low = top + number * (height + 30)
        y_axis = _Axis((taken_ms for _, taken_ms, _ in everything), low, low - height, log=True)
        parts.append(_grid(x_axis, y_axis, low - height, low, x_numbers=number == len(lanes)))
        counts = []
        for success, word in ((True, "succeeded"), (False, "failed")):
            chosen = [(at, taken_ms) for at, taken_ms, succeeded in operations if succeeded == success]
            places = {(x_axis.at(at), y_axis.at(taken_ms)) for at, taken_ms in chosen}
            parts.append(_points(places, _COLOURS[0], 3.5) if success else _points(places, _FAULT, cross=True))
            counts.append(f"{len(chosen):,} {word}")
        parts.append(_text(_LEFT, low - height - 7, name, extra=' font-weight="bold"'))
        parts.append(_text(_LEFT + _PLOT, low - height - 7, ", ".join(counts), anchor="end"))
    if not lanes:
        parts.append(_text(_LEFT, bottom - height / 2, "no operations"))
    parts.append(_axis_names(top + 30, bottom, x, "milliseconds"))
    parts.append("</svg>")
    return "".join(parts)


def _points(
    places: Iterable[tuple[float | None, float | None]], colour: str, width: float = 6, *, cross: bool = False
) -> str:
    """Draw points as one path: a few thousand of them are a small picture still."""
    found = sorted((x, y) for x, y in places if x is not None and y is not None)
    if not found:
        return ""
    steps = [f"M{x - 3:.1f},{y - 3:.1f}l6,6m0,-6l-6,6" if cross else f"M{x:g},{y:g}h0" for x, y in found]
    width = 1.8 if cross else width
    return f'<path d="{"".join(steps)}" fill="none" stroke-linecap="round" stroke="{colour}" stroke-width="{width:g}"/>'


def lines_svg(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log: str = "",
    levels: Mapping[str, float] | None = None,
    spans: Sequence[tuple[str, float, float]] = (),
) -> str:
    """Draw lines through points (x, y), each in a colour and a dash of its own.

    ``x``, ``y``: what the axes show, with its unit. ``log``: "x", "y" or "xy", the axes that are logarithmic; a point with
    no place on one (0, or less) is left out. ``levels``: horizontal lines by their names. ``spans``, shaded: (name, from,
    to). A linear axis begins at 0; what is infinite is drawn at the edge.
    """
    levels = levels or {}
    points = [point for line in lines.values() for point in line]
    ends = [end for _, *both in spans for end in both]
    x_axis = _Axis([*ends, *(at for at, _ in points)], _LEFT, _LEFT + _PLOT, log="x" in log)
    shaded = _Spans(spans, x_axis)
    top = 16 + shaded.height + 20 * math.ceil(len(lines) / 2)
    bottom = top + 230
    y_axis = _Axis([*levels.values(), *(value for _, value in points)], bottom, top, log="y" in log)
    parts = [
        _head(_LEFT + _PLOT + _RIGHT, bottom + 44, f"{y} over {x}"),
        shaded.draw(top - 8 - shaded.height, bottom),
        _grid(x_axis, y_axis, top, bottom),
    ]
    for name, level in levels.items():
        if (level_y := y_axis.at(level)) is not None:
            parts.append(_line(_LEFT, level_y, _LEFT + _PLOT, level_y, _INK))
            parts.append(_text(_LEFT + 6, level_y - 5, name))
    for number, (name, line) in enumerate(lines.items()):
        style = f' stroke-width="2" stroke-dasharray="{_DASHES[number % len(_DASHES)]}"'
        colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
        places = [(x_axis.at(at), y_axis.at(value)) for at, value in line]
        path = " ".join(f"{at_x:g},{at_y:g}" for at_x, at_y in places if at_x is not None and at_y is not None)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-linejoin="round"{style}/>')
        if len(line) <= _MARKED:
            parts.append(_points(places, colour))
        legend_x, legend_y = _LEFT + number % 2 * _PLOT / 2, 20 + number // 2 * 20
        parts.append(_line(legend_x, legend_y - 4, legend_x + 32, legend_y - 4, colour, style))
        parts.append(_text(legend_x + 40, legend_y, name))
    if not points:
        parts.append(_text(_LEFT + 8, (top + bottom) / 2, "nothing to show"))
    parts.append(_axis_names(top, bottom, x, y))
    parts.append("</svg>")
    return "".join(parts)


# ---- Merkle trees ----

_TREE = 380
_LEVEL = 78
_NODE_HEIGHT = 20
_SAME = "#BBBBBB"


def merkle_svg(trees: Mapping[str, Sequence[Sequence[int]]], fan_out: int = 16) -> str:
    """Draw two Merkle trees of one shape side by side, and how their comparison goes down to the leaves that differ.

    ``trees``: by the name of its holder each tree's digests, level by level, the root's first; a node's children are
    ``fan_out`` neighbours of the next level. Only what is compared is drawn: the root, and the children of each node
    whose digests differ. Those that differ are red. Raises ``ValueError`` if these are not two trees of one shape.
    """
    shapes = [[len(level) for level in levels] for levels in trees.values()]
    if len(shapes) != 2 or shapes[0] != shapes[1] or shapes[0] != [fan_out**at for at in range(len(shapes[0]))]:
        raise ValueError(
            f"two trees of one shape are wanted, each level {fan_out} times the one above it; got {shapes}"
        )
    one, other = trees.values()
    compared = [[0][: len(one)]]
    differ: list[list[int]] = []
    for mine, theirs in zip(one, other, strict=True):
        differ.append([at for at in compared[-1] if mine[at] != theirs[at]])
        compared.append([at * fan_out + child for at in differ[-1] for child in range(fan_out)])
    rows = [row for row in compared[: len(one)] if row]
    left = 150
    width, height = left + 2 * _TREE + 40, 68 + max(1, len(rows)) * _LEVEL
    parts = [_head(width, height, "two Merkle trees compared")]
    for level, row in enumerate(rows):
        y = 48 + level * _LEVEL
        what = "root" if not level else "leaves" if level == len(one) - 1 else f"level {level}"
        parts.append(_text(12, y + 9, what, extra=' font-weight="bold"'))
        parts.append(_text(12, y + 25, f"{len(row)} of {len(one[level]):,} compared"))
        parts.append(_text(12, y + 41, f"{len(differ[level])} differ" if differ[level] else "equal: the end"))
    for number, (name, levels) in enumerate(trees.items()):
        begin = left + number * (_TREE + 24)
        parts.append(_text(begin + _TREE / 2, 24, name, anchor="middle", extra=' font-weight="bold"'))
        parts.append(_tree(levels, rows, differ, begin, fan_out))
    for x, colour, meaning in (
        (left, _FAULT, "differs: what is below it is compared"),
        (left + _TREE + 24, _SAME, "equal: nothing below it is asked for"),
    ):
        parts.append(f'<rect x="{x}" y="{height - 24}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(x + 18, height - 14, meaning))
    if not rows:
        parts.append(_text(12, 57, "nothing to compare"))
    parts.append("</svg>")
    return "".join(parts)


def _tree(
    levels: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    differ: Sequence[Sequence[int]],
    left: float,
    fan_out: int,
) -> str:
    """Draw what was compared of one tree."""
    parts: list[str] = []
    above: dict[int, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        y = 48 + level * _LEVEL
        groups = max(1, len(row) // fan_out)
        gap = min(12.0, 0.2 * _TREE / groups)
        step = min(22.0, (_TREE - gap * (groups - 1)) / len(row)) if level else 76.0
        x = left + (_TREE - step * len(row) - gap * (groups - 1)) / 2
        placed: dict[int, tuple[float, float]] = {}
        for place, at in enumerate(row):
            node_x = x + place * step + place // fan_out * gap
            placed[at] = node_x, node_x + step * 0.88
        for parent, (from_x, to_x) in above.items():
            if (first := placed.get(parent * fan_out)) and (last := placed.get((parent + 1) * fan_out - 1)):
                corners = f"{from_x:.1f},{y - _LEVEL + _NODE_HEIGHT} {to_x:.1f},{y - _LEVEL + _NODE_HEIGHT}"
                parts.append(
                    f'<polygon points="{corners} {last[1]:.1f},{y} {first[0]:.1f},{y}" fill="{_FAULT}" fill-opacity="0.12"/>'
                )
        for at, (from_x, to_x) in placed.items():
            differs = at in differ[level]
            title = f"level {level}, node {at}: {levels[level][at]:016x}" + (", differs" if differs else "")
            parts.append(
                f'<rect x="{from_x:.1f}" y="{y}" width="{to_x - from_x:.1f}" height="{_NODE_HEIGHT}" '
                f'fill="{_FAULT if differs else _SAME}"><title>{title}</title></rect>'
            )
            if not level:
                digest = f"{levels[0][0]:016x}"[:6] + "…"
                colour = "#FFFFFF" if differs else _INK
                parts.append(
                    f'<text x="{(from_x + to_x) / 2:g}" y="{y + 14}" text-anchor="middle" fill="{colour}">{digest}</text>'
                )
        above = placed
    return "".join(parts)

"""The ring: the owners of each partition, now and over time."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

from raykv.viz.paper import COLOURS, LEFT, PLOT, RIGHT, TITLE, Axis, Spans, head, heading, numeral, rule, sector, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

T = TypeVar("T")

_SIZE = 440
_BAND = 34.0
_OUTER = 190.0


def ring_svg(ring: Mapping[str, Any], down: Iterable[str] = ()) -> str:
    """Draw the ring: one band for each copy (the first owner outermost), an arc for each partition.

    ``ring``: ``store.ring()``. ``down``: ids of nodes that appear hatched in grey. Neighbouring partitions of one owner
    are one arc, so a ring of 1,024 partitions stays small.
    """
    down = [*down]
    members = [member["node_id"] for member in ring["members"]]
    colour = {
        node_id: "#DDDDDD" if node_id in down else COLOURS[index % len(COLOURS)]
        for index, node_id in enumerate(members)
    }
    parts = [head(_SIZE + 150, _SIZE, "the ring", font_size=13)]
    step = min(_BAND + 4, (_OUTER - 40) / ring["copies"])
    for copy in range(ring["copies"]):
        owners = [members[row[copy]] for row in ring["table"]]
        outer = _OUTER - copy * step
        for first, last, node_id in runs_of(owners):
            path = sector(_SIZE / 2, first / len(owners), last / len(owners), outer, outer - step * 0.9)
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


def runs_of(owners: Sequence[T]) -> list[tuple[int, int, T]]:
    """Return (first, past the last, owner) of the runs of equal owners."""
    runs: list[tuple[int, int, T]] = []
    for index, owner in enumerate(owners):
        if runs and runs[-1][2] == owner:
            runs[-1] = (runs[-1][0], index + 1, owner)
        else:
            runs.append((index, index + 1, owner))
    return runs


_LANE_GAP = 26
_LANE = 64
_PALE = 0.38
"""The opacity of a partition at a node that is not its first owner."""
_MEANINGS = ((0, 1, "first owner"), (130, _PALE, "owner of another copy"), (310, 0, "no copy here"))


def ownership_svg(
    rings: Sequence[tuple[float, Mapping[str, Any]]],
    until: float,
    spans: Sequence[tuple[str, float, float]] = (),
    *,
    x: str = "seconds",
    title: str = "",
) -> str:
    """Draw the owners of partitions over time: a lane for each node, with a row for each partition.

    ``rings``: (time, ``store.ring()``), in order of time; each holds until the next one, the last ``until`` then. Full
    colour: the node was the partition's first owner; pale: it had another copy; white: it had none. ``spans``, named
    above: (name, from, to). ``title``: of the figure. Raises ``ValueError`` if there is no ring, or the rings differ in
    their number of partitions.
    """
    if not rings or len({ring["partitions"] for _, ring in rings}) > 1:
        raise ValueError("one ring at least is wanted, all of one number of partitions")
    partitions, begin = rings[0][1]["partitions"], rings[0][0]
    nodes = list(dict.fromkeys(member["node_id"] for _, ring in rings for member in ring["members"]))
    x_axis = Axis([*(at - begin for at, _ in rings), until - begin], LEFT, LEFT + PLOT)
    shaded = Spans([(name, since - begin, end - begin) for name, since, end in spans], x_axis)
    top = 12 + shaded.height + (TITLE if title else 0)
    bottom = top + len(nodes) * (_LANE + _LANE_GAP)
    parts = [
        head(LEFT + PLOT + RIGHT, bottom + 66, title or "which node owned which partition"),
        heading(title),
        shaded.draw(top - 2 - shaded.height, bottom),
    ]
    for number, node_id in enumerate(nodes):
        y = top + _LANE_GAP + number * (_LANE + _LANE_GAP)
        roles = [(at - begin, _roles(ring, node_id)) for at, ring in rings]
        first, last = (sum(map(bool, roles[at][1])) for at in (0, -1))
        said = f"{first} of {partitions} partitions at first, {last} in the end"
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{PLOT}" height="{_LANE}" fill="#FFFFFF" stroke="#CCCCCC"/>')
        parts.append(words(LEFT, y - 6, node_id, extra=' font-weight="bold"'))
        parts.append(words(LEFT + PLOT, y - 6, said, anchor="end"))
        parts.append(_lane(node_id, roles, until - begin, x_axis, y, COLOURS[number % len(COLOURS)]))
    for tick in x_axis.ticks:
        at_x = x_axis.at(tick)
        assert at_x is not None
        parts.append(rule(at_x, bottom, at_x, bottom + 4, "#999999"))
        parts.append(words(at_x, bottom + 18, numeral(tick), anchor="middle"))
    parts.append(words(LEFT + PLOT / 2, bottom + 34, x, anchor="middle"))
    for right, opacity, meaning in _MEANINGS:
        parts.append(
            f'<rect x="{LEFT + right}" y="{bottom + 45}" width="13" height="13" fill="{COLOURS[0]}" '
            f'fill-opacity="{opacity}" stroke="#999999"/>' + words(LEFT + right + 20, bottom + 56, meaning)
        )
    parts.append("</svg>")
    return "".join(parts)


def _roles(ring: Mapping[str, Any], node_id: str) -> list[str]:
    """Return the node's role for each partition: "first" owner, "other" owner, or ""."""
    index = next((at for at, member in enumerate(ring["members"]) if member["node_id"] == node_id), None)
    return ["first" if row[0] == index else "other" if index in row else "" for row in ring["table"]]


def _lane(
    node_id: str, roles: Sequence[tuple[float, Sequence[str]]], until: float, x_axis: Axis, y: float, colour: str
) -> str:
    """Draw one node's partitions. Each row is cut only where the node's role changes."""
    drawn: dict[tuple[int, int, str], list[int]] = {}
    partitions = len(roles[0][1])
    for partition in range(partitions):
        for first, last, role in runs_of([row[partition] for _, row in roles]):
            if role:
                drawn.setdefault((first, last, role), []).append(partition)
    moments = [*(at for at, _ in roles), until]
    parts = []
    for (first, last, role), rows in drawn.items():
        left, right = x_axis.at(moments[first]), x_axis.at(moments[last])
        if left is None or right is None or right <= left:
            continue
        opacity = "" if role == "first" else f' fill-opacity="{_PALE}"'
        for begin, end in _neighbours(rows):
            what = f"{escape(node_id)}: {role} owner of partitions {begin} to {end - 1}"
            top, height = y + begin * _LANE / partitions, (end - begin) * _LANE / partitions
            parts.append(
                f'<rect x="{left:g}" y="{top:g}" width="{right - left:.1f}" height="{height:g}" fill="{colour}"{opacity}>'
                f"<title>{what}, {moments[first]:.1f} to {moments[last]:.1f}</title></rect>"
            )
    return "".join(parts)


def _neighbours(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return (first, past the last) of the runs of ascending numbers without a gap."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs

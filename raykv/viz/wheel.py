"""The ring as a wheel: who owns which arc, and where one key stands on it.

A key's token is its angle, clockwise from the top. It lies in the arc of one partition, whose row of the ring's table names
the owners: the first one's colour fills the arc, and the walk goes inwards through the others.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from raykv.viz.paper import COLOURS, FAULT, INK, head, on_circle, rule, sector, words
from raykv.viz.ring import runs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SIZE, _LEGEND = 360.0, 250.0
_OUTER, _INNER = 150.0, 96.0
_MIDDLE = _SIZE / 2
_DOWN = "#D0D0D0"
MOST_MEMBERS = 14


def wheel_svg(ring: Mapping[str, Any], down: Iterable[str] = (), key: tuple[str, int, int] | None = None) -> str:
    """Draw the ring as a wheel of arcs in the colours of their first owners, beside the nodes with capacity and zone.

    ``ring``: ``store.ring()``. ``down``: nodes that are drawn grey, with their names in red. ``key``: (its text, its token
    as a share of the circle in millionths, its partition): it is placed on the wheel, and its owners are marked.
    """
    down = [*down]
    members = ring["members"]
    ids = [member["node_id"] for member in members]
    colours = {node_id: _DOWN if node_id in down else COLOURS[at % len(COLOURS)] for at, node_id in enumerate(ids)}
    table, count = ring["table"], ring["partitions"]
    parts = [head(_SIZE + _LEGEND, max(_SIZE, 70 + 22 * min(len(ids), MOST_MEMBERS + 1)), "the ring as a wheel")]
    for first, last, index in runs_of([owners[0] for owners in table]):
        node_id = ids[index]
        parts.append(
            f'<path d="{sector(_MIDDLE, first / count, last / count, _OUTER, _INNER)}" fill="{colours[node_id]}" '
            f'stroke="#FFFFFF" stroke-width="0.5">'
            f"<title>{escape(node_id)}: first owner of partitions {first} to {last - 1}</title></path>"
        )
    rows = {node_id: 44 + 22 * at for at, node_id in enumerate(ids[:MOST_MEMBERS])}
    middle = _SIZE / 2
    if key is None:
        parts.append(words(middle, middle - 4, f"{count} partitions", anchor="middle", extra=' font-weight="bold"'))
        copies = "1 copy" if ring["copies"] == 1 else f"{ring['copies']} copies"
        parts.append(words(middle, middle + 14, f"{copies}, epoch {ring['epoch']}", anchor="middle"))
    else:
        parts += _placed(key, [ids[index] for index in table[key[2]]], count, colours, rows)
    held = [sum(at in owners for owners in table) for at in range(len(ids))]
    parts.append(words(_SIZE + 20, 22, "node: capacity, zone, partitions", extra=' style="fill:#666666"'))
    for at, (node_id, y) in enumerate(rows.items()):
        member = members[at]
        zone = f", {member['zone']}" if member["zone"] else ""
        said = f"{node_id}: {member['weight']:g}{zone}, {held[at]}" + (" (down)" if node_id in down else "")
        parts.append(f'<rect x="{_SIZE + 20:g}" y="{y - 11}" width="13" height="13" fill="{colours[node_id]}"/>')
        parts.append(
            words(
                _SIZE + 40, y, said[:38], extra=f' style="fill:{FAULT}" font-weight="bold"' if node_id in down else ""
            )
        )
    if len(ids) > MOST_MEMBERS:
        parts.append(words(_SIZE + 40, 44 + 22 * MOST_MEMBERS, f"and {len(ids) - MOST_MEMBERS} more"))
    return "".join([*parts, "</svg>"])


def _placed(
    key: tuple[str, int, int], owners: Sequence[str], count: int, colours: Mapping[str, str], rows: Mapping[str, int]
) -> list[str]:
    """Draw a key: a dot at its token, its partition's arc drawn out, its owners in the middle in order."""
    text, millionths, partition = key
    share, middle = millionths / 1e6, _SIZE / 2
    x, y = on_circle(_MIDDLE, share, _OUTER + 14)
    edge_x, edge_y = on_circle(_MIDDLE, share, _OUTER)
    parts = [
        f'<path d="{sector(_MIDDLE, partition / count, (partition + 1) / count, _OUTER + 6, _INNER - 6)}" fill="none" '
        f'stroke="{INK}" stroke-width="2"/>',
        rule(x, y, edge_x, edge_y, INK),
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{INK}"/>',
        words(middle, middle - 40, text if len(text) < 20 else text[:17] + "...", anchor="middle",
              extra=' font-weight="bold"'),
        words(middle, middle - 22, f"partition {partition}", anchor="middle"),
    ]  # fmt: skip
    for at, node_id in enumerate(owners[:5]):
        row_y = middle + 2 + 20 * at
        parts.append(f'<rect x="{middle - 42:g}" y="{row_y - 11:g}" width="13" height="13" fill="{colours[node_id]}"/>')
        parts.append(words(middle - 24, row_y, f"{at + 1}. {node_id}"[:14]))
        if node_id in rows:
            parts.append(
                f'<circle cx="{_SIZE + 10:g}" cy="{rows[node_id] - 4}" r="3.5" fill="{INK}"><title>an owner</title></circle>'
            )
    return parts

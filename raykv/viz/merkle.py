"""A comparison of two Merkle trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.viz.paper import FAULT, INK, head, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TREE = 380
_LEVEL = 78
_NODE_HEIGHT = 20
_SAME = "#BBBBBB"


def merkle_svg(trees: Mapping[str, Sequence[Sequence[int]]], fan_out: int = 16) -> str:
    """Draw two Merkle trees of one shape side by side, and their comparison down to the leaves that differ.

    ``trees``: each tree's digests by the name of its holder, level by level, the root's first; a node's children are
    ``fan_out`` neighbours on the next level. Only the nodes that are compared are drawn: the root, and the children of
    each node whose digests differ. Nodes that differ are red. Raises ``ValueError`` unless these are two trees of one
    shape.
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
    parts = [head(width, height, "two Merkle trees compared")]
    for level, row in enumerate(rows):
        y = 48 + level * _LEVEL
        what = "root" if not level else "leaves" if level == len(one) - 1 else f"level {level}"
        parts.append(words(12, y + 9, what, extra=' font-weight="bold"'))
        parts.append(words(12, y + 25, f"{len(row)} of {len(one[level]):,} compared"))
        parts.append(words(12, y + 41, f"{len(differ[level])} differ" if differ[level] else "equal: the end"))
    for number, (name, levels) in enumerate(trees.items()):
        begin = left + number * (_TREE + 24)
        parts.append(words(begin + _TREE / 2, 24, name, anchor="middle", extra=' font-weight="bold"'))
        parts.append(_tree(levels, rows, differ, begin, fan_out))
    for x, colour, meaning in (
        (left, FAULT, "differs: what is below it is compared"),
        (left + _TREE + 24, _SAME, "equal: nothing below it is asked for"),
    ):
        parts.append(f'<rect x="{x}" y="{height - 24}" width="12" height="12" fill="{colour}"/>')
        parts.append(words(x + 18, height - 14, meaning))
    if not rows:
        parts.append(words(12, 57, "nothing to compare"))
    parts.append("</svg>")
    return "".join(parts)


def _tree(
    levels: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    differ: Sequence[Sequence[int]],
    left: float,
    fan_out: int,
) -> str:
    """Draw the compared nodes of one tree."""
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
                    f'<polygon points="{corners} {last[1]:.1f},{y} {first[0]:.1f},{y}" fill="{FAULT}" fill-opacity="0.12"/>'
                )
        for at, (from_x, to_x) in placed.items():
            differs = at in differ[level]
            title = f"level {level}, node {at}: {levels[level][at]:016x}" + (", differs" if differs else "")
            parts.append(
                f'<rect x="{from_x:.1f}" y="{y}" width="{to_x - from_x:.1f}" height="{_NODE_HEIGHT}" '
                f'fill="{FAULT if differs else _SAME}"><title>{title}</title></rect>'
            )
            if not level:
                digest = f"{levels[0][0]:016x}"[:6] + "…"
                colour = "#FFFFFF" if differs else INK
                parts.append(
                    f'<text x="{(from_x + to_x) / 2:g}" y="{y + 14}" text-anchor="middle" fill="{colour}">{digest}</text>'
                )
        above = placed
    return "".join(parts)

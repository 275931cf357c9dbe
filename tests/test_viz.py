"""Pictures: well-formed for every ring, and nothing in them that a name could smuggle in."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest

from raykv import viz
from raykv.config import MAX_COPIES
from raykv.ring import Member, claim

SVG = "{http://www.w3.org/2000/svg}"


def ring(nodes: int, partitions: int = 256, copies: int = 3, name: str = "n{}") -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(
        claim([Member(name.format(index + 1)) for index in range(nodes)], partitions, copies)
    )
    return made


@pytest.mark.parametrize(
    ("nodes", "partitions"), [(3, 8), (3, 256), (4, 256), (5, 16), (8, 256), (30, 256), (100, 1024)]
)
def test_every_ring_is_well_formed_and_names_all_its_arcs(nodes: int, partitions: int) -> None:
    shown = ring(nodes, partitions)
    root = ET.fromstring(viz.ring_svg(shown))
    assert root.tag == f"{SVG}svg"
    covered = [[0] * partitions for _ in range(3)]
    for path in root.iter(f"{SVG}path"):
        title = path.findtext(f"{SVG}title") or ""
        matched = re.fullmatch(r"(\w+): copy (\d) of partitions (\d+) to (\d+)", title)
        assert matched, title
        node_id, copy, first, last = matched[1], int(matched[2]) - 1, int(matched[3]), int(matched[4])
        for partition in range(first, last + 1):
            covered[copy][partition] += 1
            assert shown["members"][shown["table"][partition][copy]]["node_id"] == node_id
    assert covered == [[1] * partitions] * 3, "each partition of each copy is drawn once"
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert f"{partitions} partitions" in texts
    assert ("and 80 more" in texts) == (nodes == 100)


def test_names_are_escaped() -> None:
    nasty = "<script>alert({})</script>&\"'"
    svg = viz.ring_svg(ring(3, 8, name=nasty), down=[nasty.format(2)])
    assert "<script" not in svg
    root = ET.fromstring(svg)
    assert nasty.format(1) in [text.text for text in root.iter(f"{SVG}text")]
    assert nasty.format(2) + " (down)" in [text.text for text in root.iter(f"{SVG}text")]


def test_a_node_that_is_down_is_grey_everywhere() -> None:
    fills = {}
    for path in ET.fromstring(viz.ring_svg(ring(3, 16), down=["n2"])).iter(f"{SVG}path"):
        fills.setdefault((path.findtext(f"{SVG}title") or "").split(":")[0], set()).add(path.get("fill"))
    assert fills["n2"] == {"#DDDDDD"}
    assert "#DDDDDD" not in fills["n1"] | fills["n3"]
    assert fills["n1"] != fills["n3"]


def test_one_owner_of_everything_is_still_a_ring() -> None:
    root = ET.fromstring(viz.ring_svg(ring(1, 8, copies=1)))
    (path,) = root.iter(f"{SVG}path")
    start, end = re.findall(r"(?:M|1 1 )(-?[\d.]+,-?[\d.]+)", path.get("d") or "")[:2]
    assert start != end, "an arc from a point to itself draws nothing"


def test_neighbours_of_one_owner_are_one_arc() -> None:
    rows = viz._runs(["a", "a", "b", "b", "b", "a"])
    assert rows == [(0, 2, "a"), (2, 5, "b"), (5, 6, "a")]
    assert viz._runs([]) == []


@pytest.mark.parametrize("copies", range(1, MAX_COPIES + 1))
def test_every_band_lies_inside_the_one_before(copies: int) -> None:
    paths = ET.fromstring(viz.ring_svg(ring(copies, 16, copies))).iter(f"{SVG}path")
    radii = [[float(radius) for radius in re.findall(r"A(-?[\d.]+),", path.get("d") or "")] for path in paths]
    assert all(outer > inner > 0 for outer, inner in radii)
    assert len({outer for outer, _ in radii}) == copies

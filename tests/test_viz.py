"""Pictures: well-formed for every ring, and nothing in them that a name could smuggle in."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest

from raykv import viz
from raykv.config import MAX_COPIES
from raykv.ring import Member, claim
from raykv.viz import paper
from raykv.viz import ring as ring_picture

SVG = "{http://www.w3.org/2000/svg}"


def ring(nodes: int, partitions: int = 256, copies: int = 3, name: str = "n{}") -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(
        claim([Member(f"n{index + 1}") for index in range(nodes)], partitions, copies)
    )
    for member in made["members"]:  # whatever their names
        member["node_id"] = name.format(member["node_id"].removeprefix("n"))
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
    for draw in (viz.ring_svg, viz.wheel_svg):
        assert draw(ring(3, 16), down=iter(["n2"])) == draw(ring(3, 16), down=["n2"])


def test_one_owner_of_everything_is_still_a_ring() -> None:
    root = ET.fromstring(viz.ring_svg(ring(1, 8, copies=1)))
    (path,) = root.iter(f"{SVG}path")
    start, end = re.findall(r"(?:M|1 1 )(-?[\d.]+,-?[\d.]+)", path.get("d") or "")[:2]
    assert start != end, "an arc from a point to itself draws nothing"


def test_neighbours_of_one_owner_are_one_arc() -> None:
    rows = ring_picture.runs_of(["a", "a", "b", "b", "b", "a"])
    assert rows == [(0, 2, "a"), (2, 5, "b"), (5, 6, "a")]
    assert ring_picture.runs_of([]) == []


@pytest.mark.parametrize("copies", range(1, MAX_COPIES + 1))
def test_every_band_lies_inside_the_one_before(copies: int) -> None:
    paths = ET.fromstring(viz.ring_svg(ring(copies, 16, copies))).iter(f"{SVG}path")
    radii = [[float(radius) for radius in re.findall(r"A(-?[\d.]+),", path.get("d") or "")] for path in paths]
    assert all(outer > inner > 0 for outer, inner in radii)
    assert len({outer for outer, _ in radii}) == copies


# ---- figures ----

NASTY = "<script>alert(1)</script>&\"'"


def texts(svg: str) -> list[str]:
    """Parse a picture and return its texts; none of them, and no point, may lie outside of it."""
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    assert root[0].tag == f"{SVG}rect", "paper first: dark text must be readable on a dark page"
    assert (root[0].get("width"), root[0].get("height")) == (root.get("width"), root.get("height"))
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(text.get("x") or 0) <= width, text.text
        assert 0 <= float(text.get("y") or 0) <= height, text.text
    for x, y in re.findall(r"(?:M|points=\"| )(-?[\d.]+),(-?[\d.]+)", svg):
        assert 0 <= float(x) <= width
        assert 0 <= float(y) <= height
    assert "nan" not in svg
    assert "inf" not in svg
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def test_versions_lie_on_paper_too() -> None:
    writes = [
        {"name": "1st", "text": NASTY, "by": "a", "seen": []},
        {"name": "2nd", "text": "", "by": "b", "seen": ["1st"]},
    ]
    svg = viz.versions_svg(writes, ["2nd"])
    assert "<script" not in svg
    assert {"1st", "2nd", "a", "b"} <= {*texts(svg)}
    texts(viz.versions_svg([]))
    texts(viz.ring_svg(ring(3, 8)))


def test_a_picture_becomes_smaller_on_a_narrow_page_and_keeps_its_shape() -> None:
    for svg in (
        viz.bars_svg({}, x="", y=""),
        viz.lines_svg({}, x="", y=""),
        viz.ring_svg(ring(3, 8)),
        viz.versions_svg([]),
    ):
        root = ET.fromstring(svg)
        assert root.get("style") == "max-width:100%;height:auto"
        assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    assert ET.fromstring(paper.head(10, 10, "wide", shrinks=False) + "</svg>").get("style") is None


def test_a_timeline_shows_each_operation_where_it_belongs() -> None:
    lanes = {
        "one": [(0.0, 1.0, True), (5.0, 10.0, True), (10.0, 1000.0, False)],
        "other": [(2.0, 100.0, True)],
    }
    svg = viz.timeline_svg(lanes, [("the cut", 4.0, 6.0)], x="virtual seconds")
    shown = texts(svg)
    assert {"one", "2 succeeded, 1 failed", "other", "1 succeeded, 0 failed", "the cut", "virtual seconds"} <= {*shown}
    assert {"1", "10", "100", "1,000", "0", "2", "8"} <= {*shown}, "ticks"
    dots, crosses, more_dots = [path.get("d") or "" for path in ET.fromstring(svg).iter(f"{SVG}path")]
    (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+),([\d.]+)h0", dots)]
    assert (x1, x2) == (paper.LEFT, paper.LEFT + paper.PLOT / 2)
    assert y1 - y2 == pytest.approx(90 / 3), "a decade of three"
    assert crosses.count("M") == 1
    assert "h0" not in crosses
    (x,) = re.findall(r"M([\d.]+),", more_dots)
    assert float(x) == pytest.approx(paper.LEFT + paper.PLOT / 5)


def test_names_of_spans_stand_beside_or_above_one_another() -> None:
    spans = [("a rather long name", 1.0, 1.1), ("another long name", 1.2, 1.3), ("far away", 9.0, 10.0)]
    svg = viz.timeline_svg({"": [(0.0, 1.0, True)]}, spans)
    places = {
        text.text: (float(text.get("x") or 0), float(text.get("y") or 0))
        for text in ET.fromstring(svg).iter(f"{SVG}text")
        if text.text in {name for name, _, _ in spans}
    }
    assert len(places) == 3
    assert places["a rather long name"][1] != places["another long name"][1]
    assert places["a rather long name"][1] == places["far away"][1]


def test_thousands_of_operations_are_a_small_picture() -> None:
    svg = viz.timeline_svg({"": [(at / 1000, 1 + at % 97, True) for at in range(20_000)]})
    assert "20,000 succeeded, 0 failed" in texts(svg)
    assert len(svg) < 300_000


@pytest.mark.parametrize(
    "lanes",
    [
        {},
        {"none": []},
        {"odd": [(float("nan"), 1.0, True), (1.0, float("inf"), False), (1.0, 0.0, True), (-1.0, 1e-9, True)]},
        {"one": [(0.0, 0.5, True)]},
    ],
)
def test_any_timeline_is_a_picture(lanes: dict[str, list[tuple[float, float, bool]]]) -> None:
    shown = texts(viz.timeline_svg(lanes, [("", float("nan"), 1.0)]))
    assert ("no operations" in shown) == (not lanes)


def test_lines_go_through_their_points() -> None:
    svg = viz.lines_svg({"up": [(0, 0), (50, 5), (100, 10)], "flat": [(0, 5), (100, 5)]}, x="nodes", y="rounds")
    assert {"up", "flat", "nodes", "rounds", "0", "20", "100", "10"} <= {*texts(svg)}
    up, flat = [line.get("points") or "" for line in ET.fromstring(svg).iter(f"{SVG}polyline")]
    assert up.split()[0].startswith(f"{paper.LEFT},")
    assert up.split()[1].split(",") == [f"{paper.LEFT + paper.PLOT / 2:g}", flat.split()[0].split(",")[1]]
    assert len({line.get("stroke-dasharray") for line in ET.fromstring(svg).iter(f"{SVG}polyline")}) == 2


def test_logarithmic_axes_have_a_decade_for_each_decade_and_no_place_for_zero() -> None:
    svg = viz.lines_svg({"": [(1, 1), (0, 5), (10, 0), (10, 10), (100, 100), (1000, 1000)]}, x="x", y="y", log="xy")
    (line,) = ET.fromstring(svg).iter(f"{SVG}polyline")
    points = [tuple(map(float, point.split(","))) for point in (line.get("points") or "").split()]
    assert len(points) == 4
    steps = [(b[0] - a[0], a[1] - b[1]) for a, b in pairwise(points)]
    assert all(step == pytest.approx((paper.PLOT / 3, 230 / 3), abs=0.2) for step in steps)
    assert {"1", "10", "100", "1,000"} <= {*texts(svg)}


def test_a_value_that_is_no_number_is_a_gap_in_its_line() -> None:
    nan = float("nan")
    svg = viz.lines_svg({"read": [(0, 0), (1, 1), (2, nan), (3, nan), (4, 4), (5, 5)]}, x="s", y="value")
    pieces = [(line.get("points") or "").split() for line in ET.fromstring(svg).iter(f"{SVG}polyline")]
    assert [len(piece) for piece in pieces] == [2, 2]
    whole = viz.lines_svg({"read": [(0, 0), (1, 1), (4, 4), (5, 5)]}, x="s", y="value")
    assert [point for piece in pieces for point in piece] == (
        next(ET.fromstring(whole).iter(f"{SVG}polyline")).get("points") or ""
    ).split()


def test_a_level_and_a_span_are_named() -> None:
    svg = viz.lines_svg(
        {"phi": [(0, 0), (1, 4)]}, x="s", y="phi", levels={"threshold": 8.0}, spans=[("silent", 0.5, 1.0)]
    )
    assert {"threshold", "silent", "8"} <= {*texts(svg)}


@pytest.mark.parametrize("log", ["", "x", "y", "xy"])
@pytest.mark.parametrize(
    "line",
    [
        [],
        [(1, 1)],
        [(0, 0)],
        [(3, 7), (3, 7)],
        [(-5, -5)],
        [(1, float("inf")), (2, float("nan"))],
        [(1e-7, 1e12), (1e9, 1)],
    ],
)
def test_any_lines_are_a_picture(line: list[tuple[float, float]], log: str) -> None:
    shown = texts(viz.lines_svg({"a": line, "b": []}, x="x", y="y", log=log))
    assert ("nothing to show" in shown) == (not line)
    assert "nothing to show" in texts(viz.lines_svg({}, x="x", y="y", log=log))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0, 0.7, [0, 0.2, 0.4, 0.6]), (3, 1320, [0, 500, 1000]), (-2, 2, [-2, -1, 0, 1, 2])],
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    axis = paper.Axis([low, high], 0, 100)
    assert axis.ticks == pytest.approx(ticks)
    assert all(axis.at(tick) is not None for tick in axis.ticks)
    many = paper.Axis([1e-9, 1e15], 0, 100, log=True).ticks
    assert len(many) <= 7


def digests(differ: dict[int, int], depth: int = 2, fan_out: int = 4) -> list[list[int]]:
    """Return a tree's digests, those of some leaves changed."""
    levels = [[differ.get(at, at) for at in range(fan_out**depth)]]
    while len(levels[0]) > 1:
        below = levels[0]
        levels.insert(
            0, [hash(tuple(below[at : at + fan_out])) & (1 << 64) - 1 for at in range(0, len(below), fan_out)]
        )
    return levels


def test_trees_are_drawn_where_they_are_compared_and_nowhere_else() -> None:
    svg = viz.merkle_svg({"n1": digests({}), "n2": digests({5: 99, 6: 99, 15: 99})}, fan_out=4)
    assert {"n1", "n2", "root", "level 1", "leaves", "4 of 4 compared", "8 of 16 compared", "3 differ"} <= {*texts(svg)}
    titles = [rect.findtext(f"{SVG}title") for rect in ET.fromstring(svg).iter(f"{SVG}rect")]
    drawn = [re.fullmatch(r"level (\d), node (\d+): [0-9a-f]{16}(, differs)?", title) for title in titles if title]
    assert all(drawn)
    found = [(int(match[1]), int(match[2]), bool(match[3])) for match in drawn if match]
    leaves = [(2, at, at in (5, 6, 15)) for at in (4, 5, 6, 7, 12, 13, 14, 15)]
    assert found == 2 * [(0, 0, True), *((1, at, at in (1, 3)) for at in range(4)), *leaves]


def test_of_equal_trees_only_the_roots_are_drawn() -> None:
    svg = viz.merkle_svg({"n1": digests({}), "n2": digests({})}, fan_out=4)
    assert "equal: the end" in texts(svg)
    assert len(list(ET.fromstring(svg).iter(f"{SVG}title"))) == 2
    texts(viz.merkle_svg({"n1": [[7]], "n2": [[8]]}))
    assert "nothing to compare" in texts(viz.merkle_svg({"n1": [], "n2": []}))


def test_trees_in_which_all_differs_still_fit() -> None:
    svg = viz.merkle_svg({"n1": digests({}, 2, 16), "n2": digests(dict.fromkeys(range(256), 999), 2, 16)})
    root = ET.fromstring(svg)
    rects = [rect for rect in root.iter(f"{SVG}rect") if rect.findtext(f"{SVG}title")]
    assert len(rects) == 2 * (1 + 16 + 256)
    assert all(float(rect.get("width") or 0) > 0 for rect in rects)
    assert all(
        float(rect.get("x") or 0) + float(rect.get("width") or 0) <= float(root.get("width") or 0) for rect in rects
    )


@pytest.mark.parametrize(
    "trees",
    [{}, {"n1": digests({})}, {"n1": digests({}), "n2": digests({}, 1)}, {"n1": [[1], [1, 2]], "n2": [[1], [1, 2]]}],
)
def test_what_are_not_two_trees_of_one_shape_is_refused(trees: dict[str, list[list[int]]]) -> None:
    with pytest.raises(ValueError, match="two trees of one shape"):
        viz.merkle_svg(trees, fan_out=4)


def test_no_name_gets_into_a_figure_unescaped() -> None:
    for svg in (
        viz.timeline_svg({NASTY: [(0.0, 1.0, True)]}, [(NASTY, 0.0, 1.0)], x=NASTY),
        viz.lines_svg({NASTY: [(0, 0)]}, x=NASTY, y=NASTY, levels={NASTY: 1.0}, spans=[(NASTY, 0.0, 1.0)]),
        viz.merkle_svg({NASTY: [[1]], NASTY + "2": [[2]]}),
    ):
        assert "<script" not in svg
        assert NASTY in texts(svg)


# ---- the ring over time ----


def lanes(svg: str) -> list[tuple[str, str, int, int, float, float]]:
    """Return what an ownership picture says by its titles, and check that it is drawn so."""
    found = []
    for rect in ET.fromstring(svg).iter(f"{SVG}rect"):
        if title := rect.findtext(f"{SVG}title"):
            matched = re.fullmatch(
                r"(\w+): (first|other) owner of partitions (\d+) to (\d+), ([\d.]+) to ([\d.]+)", title
            )
            assert matched, title
            assert (rect.get("fill-opacity") is None) == (matched[2] == "first")
            node_id, role, first, last, since, until = matched.groups()
            found.append((node_id, role, int(first), int(last), float(since), float(until)))
            assert float(rect.get("height") or 0) == pytest.approx(64 / 32 * (int(last) - int(first) + 1))
    return found


def test_each_partition_of_each_ring_is_drawn_at_each_of_its_owners_for_as_long_as_it_stood() -> None:
    members = [Member(f"n{number}") for number in (1, 2, 3)]
    first = claim(members, 32, 3)
    second = claim([*members, Member("n4")], 32, 3, first)
    rings = [(at, msgspec.to_builtins(ring)) for at, ring in ((5.0, first), (7.0, second), (9.0, second))]
    svg = viz.ownership_svg(rings, 10.0, [("n4 joins", 6.0, 7.5)], title="<who>")
    shown = texts(svg)
    assert {
        "n1",
        "n4",
        "n4 joins",
        "<who>",
        "seconds",
        "first owner",
        "32 of 32 partitions at first, 24 in the end",
    } <= {*shown}
    drawn = lanes(svg)
    for since, until, ring in ((0.0, 2.0, first), (2.0, 5.0, second)):
        for partition in range(32):
            there = {
                (node_id, role)
                for node_id, role, low, high, begin, end in drawn
                if low <= partition <= high and begin <= since and end >= until
            }
            owners = ring.owners(partition)
            assert there == {(owners[0], "first"), *((node_id, "other") for node_id in owners[1:])}
    assert not any(4.0 in (begin, end) for *_, begin, end in drawn), "a ring that is as before is no cut"
    assert len(svg) < 100_000


def test_a_film_of_one_ring_or_of_many_partitions_is_a_picture_and_none_is_refused() -> None:
    texts(viz.ownership_svg([(0.0, ring(3, 8))], 0.0))
    texts(viz.ownership_svg([(0.0, ring(12, 1024))], 1.0))
    for rings in ([], [(0.0, ring(3, 8)), (1.0, ring(3, 16))]):
        with pytest.raises(ValueError, match="one ring at least"):
            viz.ownership_svg(rings, 2.0)


def test_bars_are_as_high_as_their_values_and_stand_side_by_side() -> None:
    svg = viz.bars_svg(
        {"before": {"n1": 10, "n2": 20}, "after": {"n1": 5, "n3": 0}}, x="node", y="operations a second", title="Load"
    )
    assert {"before", "after", "n1", "n2", "n3", "node", "operations a second", "Load", "20"} <= {*texts(svg)}
    bars = {
        rect.findtext(f"{SVG}title"): [float(rect.get(name) or 0) for name in ("x", "y", "width", "height")]
        for rect in ET.fromstring(svg).iter(f"{SVG}rect")
        if rect.findtext(f"{SVG}title")
    }
    assert set(bars) == {"before, n1: 10", "before, n2: 20", "after, n1: 5", "after, n3: 0"}
    heights = {name: height for name, (_, _, _, height) in bars.items()}
    assert heights["before, n2: 20"] == pytest.approx(2 * heights["before, n1: 10"], abs=0.3)
    assert heights["after, n3: 0"] == 0
    assert len({round(y + height, 1) for _, y, _, height in bars.values()}) == 1, "they stand on one line"
    placed = sorted((x, x + width) for x, _, width, _ in bars.values())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(placed))


@pytest.mark.parametrize("values", [{}, {"a": {}}, {"a": {"g": float("nan")}}, {"a": {"g": -3.0}, "b": {"g": 4.0}}])
def test_any_bars_are_a_picture(values: dict[str, dict[str, float]]) -> None:
    shown = texts(viz.bars_svg(values, x="x", y="y"))
    assert ("nothing to show" in shown) == (not any(values.values()))


def test_titles_make_room_for_themselves() -> None:
    plain, titled = (
        viz.lines_svg({"a": [(0, 0), (1, 1)]}, x="x", y="y", title=title) for title in ("", "What it shows")
    )
    assert "What it shows" in texts(titled)
    heights = [float(ET.fromstring(svg).get("height") or 0) for svg in (plain, titled)]
    assert heights[1] - heights[0] == paper.TITLE
    assert "<script" not in viz.bars_svg({NASTY: {NASTY: 1.0}}, x=NASTY, y=NASTY, title=NASTY)
    assert "<script" not in viz.ownership_svg(
        [(0.0, ring(3, 8, name=NASTY + "{}"))], 1.0, [(NASTY, 0.0, 1.0)], title=NASTY
    )


def test_a_history_shows_each_operation_its_point_and_what_has_none() -> None:
    spans = [
        viz.Span("a<b", "add 1 -> 1 & more", 0.0, 2.0, 1.5),
        viz.Span("c2", "get -> 0", 0.5, 1.0, 0.7),
        viz.Span("c2", "get -> 9", 2.5, 3.0),
    ]
    root = ET.fromstring(viz.history_svg(spans))
    bars = [bar for bar in root.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]
    assert [bar.findtext(f"{SVG}title") for bar in bars] == [
        f"{span.client}: {span.label}, {span.began:.3f} to {span.ended:.3f}" for span in spans
    ]
    assert [bar.get("fill") == paper.FAULT for bar in bars] == [False, False, True]
    circles = [float(circle.get("cx") or 0) for circle in root.iter(f"{SVG}circle")]
    assert len(circles) == 2
    assert circles == sorted(circles)
    ET.fromstring(viz.history_svg([]))
    assert viz.history_svg(iter(spans)) == viz.history_svg(spans), "an iterator's can be looked at once"


def test_runs_as_a_film_show_what_each_step_has_written() -> None:
    steps = [
        ("flush", [(1, 10.0, 0)]),
        ("flush", [(2, 10.0, 0), (1, 10.0, 0)]),
        ("merge <2>", [(3, 18.0, 1)]),
    ]
    root = ET.fromstring(viz.runs_svg(steps, x="step", y="KiB", title="Film"))
    boxes = [box for box in root.iter(f"{SVG}rect") if box.find(f"{SVG}title") is not None]
    titles = [box.findtext(f"{SVG}title") for box in boxes]
    assert titles == [
        "flush: run 1, 10, level 0", "flush: run 1, 10, level 0", "flush: run 2, 10, level 0",
        "merge <2>: run 3, 18, level 1",
    ]  # fmt: skip
    assert [box.get("fill-opacity") is None for box in boxes] == [True, False, True, True], "what is new is not pale"
    assert boxes[0].get("fill") == boxes[1].get("fill") != boxes[3].get("fill")
    places = [(float(box.get("y") or 0), float(box.get("height") or 0)) for box in boxes]
    assert places[1][0] == places[0][0], "the oldest stands at the foot"
    assert round(places[2][0] + places[2][1], 1) == places[1][0], "and the next upon it"
    assert "nothing to show" in texts(viz.runs_svg([], x="x", y="y"))
    assert "<script" not in viz.runs_svg([(NASTY, [(1, 1.0, 0)])], x=NASTY, y=NASTY, title=NASTY)


def test_what_lookups_touch() -> None:
    states = ["found", "read in vain", "skipped"]
    lookups = {"k<1>": {"memtable": "skipped", "run 2": "found"}, "k2": {"memtable": "found"}}
    root = ET.fromstring(viz.touched_svg(lookups, states, x="keys"))
    cells = [cell for cell in root.iter(f"{SVG}rect") if cell.find(f"{SVG}title") is not None]
    assert [cell.findtext(f"{SVG}title") for cell in cells] == [
        "k<1>, memtable: skipped", "k<1>, run 2: found", "k2, memtable: found",
    ]  # fmt: skip
    assert cells[0].get("y") == cells[2].get("y") != cells[1].get("y")
    assert cells[1].get("fill") == cells[2].get("fill") != cells[0].get("fill")
    shown = texts(viz.touched_svg(lookups, states, title="Lookups"))
    assert {"found", "read in vain", "skipped", "memtable", "run 2", "Lookups"} <= {*shown}
    assert "nothing to show" in texts(viz.touched_svg({}, states))
    with pytest.raises(ValueError, match="none of the states"):
        viz.touched_svg({"k": {"memtable": "lost"}}, states)
    with pytest.raises(ValueError, match="at most 5"):
        viz.touched_svg({}, list("abcdef"))
    assert "<script" not in viz.touched_svg({NASTY: {NASTY: NASTY}}, [NASTY], x=NASTY, title=NASTY)

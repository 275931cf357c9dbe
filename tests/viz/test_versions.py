"""What stands under a key, and the history that it covers."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from raykv import sim
from raykv.viz import siblings_svg

NS = "{http://www.w3.org/2000/svg}"


def titles(svg):
    return [each.text for each in ET.fromstring(svg).iter(f"{NS}title")]


def test_versions_of_a_key_show_each_write_that_took_part():
    with sim.start(seed=5, nodes=3) as world:
        store = world.connect()
        for number in range(3):
            store.put("k", number)
        first = store.get_versions("k").context
        store.put("k", "ours", context=first)
        store.put("k", "theirs", context=first)
        versions = store.get_versions("k")
        assert sorted(versions.values) == ["ours", "theirs"]
        svg = versions._repr_html_()
    assert "5 writes known" in svg
    assert len(titles(svg)) == 5
    assert svg.count("ours") == 1


def test_gaps_are_shown_as_such_and_a_long_history_by_its_end():
    svg = siblings_svg(["a"], [("n1", 1, 2), ("n1", 4, 4), ("n2", 1, 5_000_000)])
    assert "write 3 of n1: not seen" in titles(svg)
    assert "write 5000000 of n2" in titles(svg)
    assert "5,000,003 writes known, numbered by 2 runs of nodes" in svg


def test_the_picture_is_small_whatever_there_is():
    seen = [(f"{actor:08x}", low, low + 1) for actor in range(200) for low in range(1, 60, 3)]
    svg = siblings_svg(["<&" * 5000] * 64, seen)
    ET.fromstring(svg)
    assert len(svg) < 20_000
    assert "and 194 more" in svg
    assert "known" not in siblings_svg([])

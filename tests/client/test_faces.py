"""Faces in notebooks: small, escaped, and nothing that others have stored is run."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from raykv import sim
from raykv.client.views import Status

NASTY = "<script>alert(1)</script>\x1b[2J\u202e"


class Armed:
    """Unpickling it fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a face has unpickled a value",)


@pytest.fixture(scope="module")
def world():
    with sim.start(seed=5, nodes=3) as world:
        yield world


@pytest.fixture(scope="module")
def store(world):
    return world.connect()


def check(html):
    assert len(html) < 20_000
    assert "<script>" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    ET.fromstring(f"<all>{html}</all>")
    return html


def test_a_bucket_shows_a_page_and_unpickles_nothing(store):
    rows = store.bucket("rows")
    for number in range(12):
        rows.put(f"k{number:02d}", {"at": number, "x": "y" * 500})
    assert "and more" in check(rows._repr_html_())
    few = store.bucket("few")
    few.put(NASTY, NASTY)
    few.put("armed", Armed())
    html = check(few._repr_html_())
    assert "pickled, " in html
    assert "&lt;script&gt;" in html
    assert "no pairs" in check(store.bucket("none")._repr_html_())


def test_a_store_shows_its_nodes_and_down_is_red(world, store):
    html = check(store._repr_html_())
    assert html.count("#1a7f37") == 3
    status = Status(store.status())
    status["nodes"][1] |= {"state": "down", "cause": NASTY, "storage": None}
    assert check(status._repr_html_()).count("#d1242f") == 1
    many = Status({**status, "nodes": status["nodes"] * 200})
    assert "more nodes" in check(many._repr_html_())
    assert "more nodes" in check(many.card())


def test_a_store_that_does_not_answer_still_has_a_face():
    with sim.start(seed=6, nodes=3) as world:
        store = world.connect()
        store.put("a", 1)
        for node_id in ("n1", "n2"):
            world.freeze(node_id, for_s=60)
        assert "QuorumNotMet" in check(store.bucket("default")._repr_html_())


def test_a_ring_is_a_wheel_and_a_key_stands_on_it(store):
    ring = store.ring()
    check(ring._repr_html_())
    wheel = ring.wheel("user:1", down=["n2"])
    svg = check(wheel._repr_svg_())
    assert f"partition {ring.partition('user:1')}" in svg
    for node_id in ring.owners("user:1"):
        assert f". {node_id}" in svg
    assert "(down)" in svg
    assert wheel.svg == svg
    check(ring.wheel(NASTY).svg)


def test_results_show_themselves(store):
    written = store.put("a", 1)
    html = check(written._repr_html_())
    assert all(node_id in html for node_id in written.acks)
    assert "majority" in check(store.bucket("lin", versioning="linearizable").put("a", 1)._repr_html_())
    assert "partitions" in check(store.repair()._repr_html_())
    other = store.bucket("side")
    other.put("k", NASTY)
    assert "context" in check(other.get_versions("k")._repr_html_())
    assert "absent" in check(other.get_versions("nothing")._repr_html_())

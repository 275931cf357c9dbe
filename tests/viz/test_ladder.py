"""Ladders: every message once, in order; escaped; well-formed; bounded."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest

from raykv import viz


def sent(node_id, at_ms, answered_ms, answer="1 version", **more):
    return {
        "node_id": node_id, "kind": "Read", "why": "", "sent_ms": at_ms, "answered_ms": answered_ms, "answer": answer,
        "digest": "abcd", "node": {},
    } | more  # fmt: skip


def explanation(requests, key="k", **more):
    request = {
        "operation": "get", "bucket": "b", "versioning": "vector", "n": 3, "level": 2, "token": "00ff", "partition": 1,
        "partitions": 8, "owners": ["n1", "n2", "n3"], "epoch": 1, "moving": [], "leader": "", "took_ms": 3.0,
        "outcome": "1 version", "requests": requests,
    } | more  # fmt: skip
    return SimpleNamespace(operation="get", key=key, error=None, took_ms=3.0, requests=[request])


LOOKS = {
    "looks": [[
        {"source": "memtable", "filter": "", "block": "", "found": False, "us": 1.0},
        {"source": "run 7", "filter": "no", "block": "", "found": False, "us": 1.0},
        {"source": "run 4", "filter": "maybe", "block": "cached", "found": False, "us": 2.0},
        {"source": "run 2", "filter": "maybe", "block": "read", "found": True, "us": 42.0},
    ]],
    "looked_us": 46.0, "handled_us": 10.0, "waited_us": 1500.0, "omitted": 0,
}  # fmt: skip


def test_the_text_is_in_the_order_of_what_happened():
    lines = viz.ladder_text(explanation([sent("n1", 0.0, 2.0, node=LOOKS), sent("n2", 0.0, 1.0)])).splitlines()
    assert "token 00ff, partition 1 of 8, owners n1, n2, n3" in lines[1]
    assert [line.split("ms  ")[1][:5] for line in lines[2:6]] == ["-> n1", "-> n2", "<- n2", "<- n1"]
    assert "the same as n2" in lines[5]
    assert "56 us in the node, then waited 1.50 ms" in lines[5]
    assert "memtable no, run 7 filter no, run 4 filter maybe block cached false positive (2 us)" in lines[5]
    assert "run 2 filter maybe block read found (42 us)" in lines[5]


def test_the_picture_is_xml_with_an_arrow_each_way_and_red_for_silence():
    silent = sent("n2", 0.0, None, "no answer in time", digest="")
    svg = viz.ladder_svg(explanation([sent("n1", 0.0, 2.0), silent]))
    tree = ET.fromstring(svg)
    assert len(tree.findall(".//{*}path")) == 3
    assert svg.count("#D55E00") >= 2


@pytest.mark.parametrize("key", ["<script>alert(1)</script>", "a\x1b[2Jb", "\u202egnp", b"\xff<b>"])
def test_keys_and_answers_are_escaped(key):
    shown = explanation([sent("n1", 0.0, 1.0, "<b>\x1b</b>")], key=key)
    html = viz.ladder_html(shown)
    assert "<script>" not in html
    assert "<b>" not in html
    ET.fromstring(viz.ladder_svg(explanation([sent("n1", 0.0, 1.0, "<b>")], key=key)))
    assert "\x1b" not in viz.ladder_text(shown)


def test_a_long_ladder_stays_small():
    many = explanation([sent(f"n{number % 5}", number, number + 0.5) for number in range(500)])
    assert len(viz.ladder_html(many)) < 64_000
    assert "940 more messages" in viz.ladder_svg(many)


def test_moves_leaders_and_several_requests_are_shown():
    moving = explanation([], moving=[["n1"], ["n2"]], leader="n1")
    moving.requests.append(moving.requests[0])
    text = viz.ladder_text(moving)
    assert "moves from n1 to n2" in text
    assert "leader n1" in text
    assert "2. after 3.00 ms" in text
    assert "<svg" in viz.ladder_svg(SimpleNamespace(operation="get", key="k", error=None, took_ms=0.0, requests=[]))

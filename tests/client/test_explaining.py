"""Explained operations, on a simulated cluster: what they say is what the network has carried."""

from __future__ import annotations

import pytest

from raykv import sim
from raykv.errors import InvalidKey, InvalidOption, QuorumNotMet


@pytest.fixture
def world():
    with sim.start(seed=3, nodes=3) as world:
        yield world


def kinds(explanation, number=0):
    return [(each["kind"], each["why"]) for each in explanation.requests[number]["requests"]]


def test_a_get_asks_r_owners_and_returns_the_value(world):
    store = world.connect()
    store.put("a", 1, w="all")
    explanation = store.explain_get("a")
    assert explanation.result == 1
    assert explanation.error is None
    (request,) = explanation.requests
    assert kinds(explanation) == [("Read", "")] * 2
    assert {*explanation.nodes} <= {*request["owners"]}
    assert request["partition"] == store.locate("a").partition == store.ring().partition("a")
    assert request["owners"] == store.locate("a").owners == store.ring().owners("a")
    assert request["token"] == store.locate("a").token
    assert len({each["digest"] for each in request["requests"]}) == 1
    assert all(0 <= each["sent_ms"] <= each["answered_ms"] for each in request["requests"])
    assert len(store.explain_get("a", r="all").nodes) == 3
    assert store.explain_get("nothing").result is None


def test_a_put_reserves_a_dot_and_writes_to_all_owners(world):
    store = world.connect()
    explanation = store.explain_put("a", {"x": 1})
    assert sorted(explanation.result.acks) == sorted({*explanation.result.acks})
    assert kinds(explanation) == [("ReserveDots", "")] * 2 + [("Write", "")] * 3
    assert store.get("a") == {"x": 1}
    assert all(each["node"]["waited_us"] >= 0 for each in explanation.requests[0]["requests"])


def test_a_frozen_owner_shows_as_no_answer_and_as_a_hedge(world):
    store = world.connect()
    store.put("a", 1, w="all")
    world.freeze(store.explain_get("a").nodes[0], for_s=30)
    explanation = store.explain_get("a")
    assert explanation.result == 1
    whys = [why for _, why in kinds(explanation)]
    assert "hedge" in whys
    assert "no answer in time" in repr(explanation)
    assert any(each["answered_ms"] is None for each in explanation.requests[0]["requests"])


def test_a_read_repair_is_seen(world):
    store = world.connect()
    store.put("a", 1, w="all")
    behind = store.explain_get("a").nodes[0]
    world.lose(world.place_of(store), behind, messages=50)
    store.put("a", 2)
    world.heal()
    found = store.explain_get("a", r="all")
    assert found.result == 2
    repairs = [each for each in found.requests[0]["requests"] if each["why"] == "read repair"]
    assert {each["node_id"] for each in repairs} == {behind}
    assert len({each["digest"] for each in found.requests[0]["requests"] if each["kind"] == "Read"}) == 2


def test_an_error_comes_with_the_ladder_that_led_to_it(world):
    store = world.connect()
    store.put("a", 1, w="all")
    owners = store.explain_get("a", r="all").nodes
    for node_id in owners[:2]:
        world.freeze(node_id, for_s=60)
    explanation = store.explain_get("a", timeout=2)
    assert isinstance(explanation.error, QuorumNotMet)
    assert explanation.result is None
    assert "QuorumNotMet" in repr(explanation)
    assert explanation._repr_html_().count("<svg") == 1


def test_bad_input_is_refused_as_by_the_operation_itself(world):
    store = world.connect()
    with pytest.raises(InvalidKey):
        store.explain_get(3)
    with pytest.raises(InvalidKey):
        store.locate(3)
    with pytest.raises(InvalidOption):
        store.explain_get("a", r=9)
    with pytest.raises(InvalidOption):
        store.explain_put("a", 1, if_absent=True)


def test_an_update_shows_each_of_its_tries(world):
    store = world.connect()
    stock = store.bucket("stock", versioning="linearizable")
    stock.put("pears", 1)
    calls = []

    def change(value):
        calls.append(value)
        if len(calls) == 1:
            stock.add("pears", 10)  # another comes first
        return value + 1

    explanation = stock.explain_update("pears", change)
    assert explanation.result == 12
    assert stock.get("pears") == 12
    assert len(explanation.requests) >= 3
    outcomes = [request["outcome"] for request in explanation.requests]
    assert any(outcome.startswith("conflict") for outcome in outcomes)
    assert all(request["leader"] for request in explanation.requests if request["operation"] == "change")
    assert explanation.took_ms == pytest.approx(sum(request["took_ms"] for request in explanation.requests))


def test_awaitable_and_grouped(world):
    store = world.connect()
    orders = store.bucket("orders", group=":")

    async def story():
        await orders.aio.put("user:1", 1)
        explanation = await orders.aio.explain_get("user:1")
        place = await orders.aio.locate("user:2")
        return explanation, place

    explanation, place = world.run(story())
    assert explanation.result == 1
    assert place.token == explanation.requests[0]["token"], "of the group"
    assert "orders" in repr(place)


def test_it_changes_nothing_for_later_operations(world):
    """The explained operation shares health, clock and leaders with the others."""
    store = world.connect()
    lww = store.bucket("lww", versioning="lww")
    for turn in range(5):
        lww.explain_put("k", turn)
        assert lww.get("k") == turn
        lww.put("k", -turn)
        assert lww.explain_get("k").result == -turn

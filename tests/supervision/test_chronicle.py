"""What has happened is told with its cause, also what began and ended between two looks; and the list stays short."""

from __future__ import annotations

from raykv import sim
from raykv.sim.host import EPOCH_MS
from raykv.supervision.chronicle import MAX_CHARS, MOST, Chronicle


class Clock:
    def wall_ms(self):
        return EPOCH_MS


def told(store, start=0):
    return [(event["kind"], event["what"], event["cause"]) for event in store.status()["events"][start:]]


def test_only_the_latest_are_kept_and_each_is_short():
    chronicle = Chronicle(Clock())
    for number in range(MOST + 5):
        chronicle.note("note", f"event {number} " + "x" * 1000, "y" * 1000)
    events = chronicle.figures()
    assert [event["number"] for event in events] == [*range(6, MOST + 6)]
    assert events[0]["at_ms"] == EPOCH_MS
    assert {len(event["what"]) for event in events} == {len(event["cause"]) for event in events} == {MAX_CHARS}


def test_deaths_verdicts_buckets_and_a_new_supervisor_are_told_with_their_causes():
    with sim.start(seed=11, nodes=3) as world:
        store = world.connect()
        store.bucket("carts")
        store.drop_bucket("carts")
        assert told(store) == [
            ("note", "bucket 'carts' was created", "a client opened it"),
            ("note", "bucket 'carts' was dropped", "on command"),
        ]
        world.kill("n2")
        world.sleep(10)
        (down, up) = told(store, 2)
        assert down[:2] == ("bad", "node n2 is down")
        assert down[2], "with its cause"
        assert up[:2] == ("good", "node n2 is up")
        assert up[2].startswith("it was started anew, after ")
        world.freeze("n3", for_s=6)
        world.sleep(15)
        suspected, verdict = told(store, 4)[:2]
        assert suspected[1] == "node n3 is suspected"
        assert verdict[:2] == ("bad", "node n3 is down")
        assert "say so" in verdict[2], "by whom"
        assert "n1" in verdict[2]
        world.kill_supervisor()
        world.sleep(10)
        assert told(store)[0][1] == "a supervisor has taken over"


def test_moves_are_told_with_what_began_them():
    with sim.start(seed=12, nodes=3) as world:
        store = world.connect()
        store.rebalance("pause")
        node_id = store.add_node(wait=False)
        host = next(node["host"] for node in store.status()["nodes"] if node["node_id"] == node_id)
        joined = f"node {node_id} has joined on host {host}"
        assert store.status()["rebalancing"]["why"] == f"{joined}, on command"
        store.rebalance("resume")
        world.sleep(60)
        events = told(store)
        assert events[:2] == [("note", "moves are paused", "on command"), ("note", joined, "on command")]
        assert events[2][1].endswith("partitions begin to move")
        assert events[2][2] == f"{joined}, on command"
        assert events[3] == ("note", "moves are resumed", "on command")
        assert events[4][:2] == ("good", "all partitions have moved")
        store.set_weight(node_id, 0.5)
        store.remove_node(node_id)
        said = [what for _, what, _ in told(store, 5)]
        assert f"node {node_id} gets weight 0.5 instead of 1" in said
        assert f"node {node_id} is leaving" in said
        assert said[-1] == f"node {node_id} has left"

"""A client's requests for nodes to come and go, and its waiting."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import raykv
import raykv.sim
from raykv.client import elastic
from raykv.client.driver import run
from raykv.errors import InvalidOption, Overloaded, QuorumNotMet, RaykvError, StoreUnavailable, WriteOutcomeUnknown
from raykv.ports import PeerSilent
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from raykv.client.exchange import Steps


def moving(left: int | None, waits_for: str = "") -> f.Info:
    rebalancing = None if left is None else {"partitions_left": left, "waits_for": waits_for}
    return f.Info({"rebalancing": rebalancing})


def test_what_is_asked_for(link: Any) -> None:
    link.script = [f.Info("n4"), f.Info("n5"), f.Info(None), f.Info(None), f.Info(None)]
    assert run(elastic.add_node("auto", None, None), link) == "n4"
    assert run(elastic.add_node(2, "a", "h"), link) == "n5"
    run(elastic.remove_node("n1"), link)
    run(elastic.set_weight("n2", 3.0), link)
    run(elastic.rebalance("pause"), link)
    wait_s = elastic.ASK_TIMEOUT_S
    assert link.requests == [
        f.AddNode(0.0, "", "", wait_s), f.AddNode(2.0, "a", "h", wait_s), f.RemoveNode("n1", wait_s),
        f.SetWeight("n2", 3.0, wait_s), f.Rebalance("pause", wait_s),
    ]  # fmt: skip


def test_a_lost_node_is_replaced(link: Any, both: Any) -> None:
    link.script = [f.Info("n4"), moving(None)]
    assert both("replace_node", "n2", host="h", timeout=30) == "n4"
    assert link.requests[0] == f.ReplaceNode("n2", "h", 30.0)


def test_autoscaling_is_set_tried_and_asked(link: Any, both: Any) -> None:
    figures = {
        "on": True, "dry_run": False, "limits": {}, "action": "add", "would": "add 2 nodes", "why": "it is <full>",
        "hot": [{"bucket": "b", "key": "k"}], "failed": "",
        "nodes": [{"node_id": "n1", "ops_per_s": 5.0, "disk_bytes": 2048, "p99_ms": 1.234, "used": 0.25}],
    }  # fmt: skip
    link.script = [f.Info(figures)] * 4
    view = both("autoscale", ops_per_s=100, cool_down=9.0)
    both("autoscale", ops_per_s=100, dry_run=True)
    both("autoscale", off=True)
    both("autoscale")
    wait_s = elastic.ASK_TIMEOUT_S
    assert link.requests == [
        f.Autoscale({"ops_per_s": 100, "cool_down_s": 9.0}, False, False, wait_s),
        f.Autoscale({"ops_per_s": 100}, True, False, wait_s), f.Autoscale(None, False, True, wait_s),
        f.Autoscale(None, False, False, wait_s),
    ]  # fmt: skip
    lines = repr(view).splitlines()
    assert lines[:2] == ["autoscaling (on) would add 2 nodes: it is <full>", "hot: 'k' in bucket 'b'"]
    assert "25%" in lines[-1]
    assert "&lt;full&gt;" in view._repr_html_()
    for wrong in ({"off": True, "ops_per_s": 1}, {"most": 5}, {"speed": 3}, {"off": True, "dry_run": True}):
        with pytest.raises(InvalidOption):
            both("autoscale", **wrong)


def test_waiting_tells_how_far_it_is(link: Any) -> None:
    link.script = [moving(5), moving(7), moving(3), moving(None)]
    seen: list[tuple[int, int]] = []
    run(elastic.until_balanced(lambda done, every: seen.append((done, every)), 10, link.monotonic_s), link)
    assert seen == [(0, 5), (0, 7), (4, 7), (7, 7)]
    assert link.slept == [elastic.LOOK_EVERY_S] * 3


def test_waiting_ends(link: Any) -> None:
    link.script = [moving(5, "n4 does not answer")] * 100
    with pytest.raises(StoreUnavailable, match=r"still moving after 1 s \(n4 does not answer\); the moves continue"):
        run(elastic.until_balanced(None, 1, link.monotonic_s), link)
    assert len(link.requests) == 4


def refused_after(link: Any, seconds: float, error: RaykvError | PeerSilent) -> Any:
    """Return a step of the link's script."""

    def step(_: Any) -> Any:
        link.now_s += seconds
        return error if isinstance(error, PeerSilent) else f.Refused(f.Failed.of(error))

    return step


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("it restarts"), QuorumNotMet("too late"), Overloaded("too much"), PeerSilent("no answer")],
)
def test_a_supervisor_that_restarts_is_waited_for(link: Any, both: Any, error: RaykvError | PeerSilent) -> None:
    link.script = [f.Info("n4"), moving(5), refused_after(link, 10, error), moving(2), moving(None)]
    seen: list[tuple[int, int]] = []
    assert both("add_node", timeout=30, progress=lambda done, every: seen.append((done, every))) == "n4"
    assert seen == [(0, 5), (3, 5), (5, 5)]


def test_the_time_in_which_nobody_answers_counts_and_the_new_nodes_id_is_told(link: Any, both: Any) -> None:
    for change, given in (("add_node", ()), ("replace_node", ("n2",))):
        link.script = [f.Info("n4"), *[refused_after(link, 10, StoreUnavailable("it restarts"))] * 100]
        began_s = link.now_s
        with pytest.raises(
            StoreUnavailable, match=r"node n4 was added, and partitions are still moving after 60 s \(it restarts\)"
        ) as caught:
            both(change, *given, timeout=60)
        assert caught.value.details["node_id"] == "n4"
        assert 60 <= link.now_s - began_s <= 71
    link.script = [f.Info(None), *[moving(5)] * 10]
    with pytest.raises(StoreUnavailable, match=r"^partitions are still moving") as caught:
        both("remove_node", "n1", timeout=1)
    assert caught.value.details == {}


def test_a_node_is_added_though_the_supervisor_restarts_meanwhile() -> None:
    with raykv.sim.start(seed=3) as world:
        world.store.put_many({f"k{number}": number for number in range(100)})
        killed: list[int] = []

        def progress(done: int, every: int) -> None:
            if not killed:
                killed.append(every - done)
                world.kill_supervisor()

        assert world.store.add_node(progress=progress) == "n4"
        assert killed[0]
        assert world.store.status()["rebalancing"] is None


def test_a_lost_answer_is_no_reason_to_add_another_node() -> None:
    with raykv.sim.start(seed=3) as world:
        world.delay("supervisor", "coordinator", by_s=300, for_s=60)
        with pytest.raises(WriteOutcomeUnknown, match=r"check status\(\) before repeating it"):
            world.store.add_node(timeout=30)
        world.heal()
        world.sleep(30)
        assert [node["node_id"] for node in world.store.status()["nodes"]] == ["n1", "n2", "n3", "n4"]


@pytest.mark.parametrize(
    "steps",
    [
        lambda: elastic.add_node(0, None, None), lambda: elastic.add_node(-1.0, None, None),
        lambda: elastic.add_node(True, None, None), lambda: elastic.add_node(float("nan"), None, None),
        lambda: elastic.add_node("auto", "", None), lambda: elastic.add_node("auto", None, "h" * 201),
        lambda: elastic.add_node("heavy", None, None), lambda: elastic.remove_node(""), lambda: elastic.remove_node(7),
        lambda: elastic.set_weight("n1", "2"), lambda: elastic.rebalance("dance"),
        lambda: elastic.until_balanced(None, 0, lambda: 0.0),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_sent(link: Any, steps: Any) -> None:
    wrong: Steps[Any] = steps()
    with pytest.raises(InvalidOption):
        run(wrong, link)
    assert link.requests == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_nodes_join_and_leave_under_writes_and_reads(store_name: str, tmp_path: Any) -> None:
    store = raykv.start(store_name, nodes=3, path=str(tmp_path), partitions=16)
    try:
        items = {f"k{number}": number for number in range(300)}
        store.put_many(items)
        seen: list[tuple[int, int]] = []
        assert store.add_node(weight=0.25, progress=lambda done, every: seen.append((done, every))) == "n4"
        assert seen[-1][0] == seen[-1][1] > 0
        status = store.status()
        assert [node["state"] for node in status["nodes"]] == ["up"] * 4
        assert status["rebalancing"] is None
        store.put("k0", "again")
        store.set_weight("n4", 0.5)
        store.remove_node("n1", wait=False)
        for number in range(100):
            store.put(f"w{number}", number)
            assert store.get(f"w{number}") == number
        with raykv.connect(store_name) as other:
            run(elastic.until_balanced(None, 60, time.monotonic), other._session.link)
        assert [node["node_id"] for node in store.status()["nodes"]] == ["n2", "n3", "n4"]
        assert store.get("k0") == "again"
        assert all(store.get(key) == value for key, value in items.items() if key != "k0")
        with pytest.raises(raykv.NotEnoughNodes, match="3 copies"):
            store.remove_node("n2")
        assert sorted(entry.name for entry in (tmp_path / "nodes").iterdir()) == ["n1.left-0", "n2", "n3", "n4"]
    finally:
        raykv.shutdown(store_name)

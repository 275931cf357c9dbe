"""A client's requests for nodes to come and go, and its waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import raykv
from raykv.client import elastic
from raykv.client.driver import run
from raykv.errors import InvalidOption, StoreUnavailable
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
    run(elastic.until_balanced(lambda done, every: seen.append((done, every)), 10), link)
    assert seen == [(0, 5), (0, 7), (4, 7), (7, 7)]
    assert link.slept == [elastic.LOOK_EVERY_S] * 3


def test_waiting_ends(link: Any) -> None:
    link.script = [moving(5, "n4 does not answer")] * 100
    with pytest.raises(StoreUnavailable, match=r"still moving after 1 s \(n4 does not answer\); the moves continue"):
        run(elastic.until_balanced(None, 1), link)
    assert len(link.requests) == 4


@pytest.mark.parametrize(
    "steps",
    [
        lambda: elastic.add_node(0, None, None), lambda: elastic.add_node(-1.0, None, None),
        lambda: elastic.add_node(True, None, None), lambda: elastic.add_node(float("nan"), None, None),
        lambda: elastic.add_node("auto", "", None), lambda: elastic.add_node("auto", None, "h" * 201),
        lambda: elastic.add_node("heavy", None, None), lambda: elastic.remove_node(""), lambda: elastic.remove_node(7),
        lambda: elastic.set_weight("n1", "2"), lambda: elastic.rebalance("dance"),
        lambda: elastic.until_balanced(None, 0),
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
            run(elastic.until_balanced(None, 60), other._session.link)
        assert [node["node_id"] for node in store.status()["nodes"]] == ["n2", "n3", "n4"]
        assert store.get("k0") == "again"
        assert all(store.get(key) == value for key, value in items.items() if key != "k0")
        with pytest.raises(raykv.NotEnoughNodes, match="3 copies"):
            store.remove_node("n2")
        assert sorted(entry.name for entry in (tmp_path / "nodes").iterdir()) == ["n1.left-0", "n2", "n3", "n4"]
    finally:
        raykv.shutdown(store_name)

"""A rolling restart: all nodes, one after the other, under load, and what it says when it stops."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from typing import Any

import pytest

import raykv
import raykv.sim
from raykv.client import restarts
from raykv.errors import InvalidOption, QuorumNotMet, RaykvError, StoreUnavailable, WriteOutcomeUnknown
from raykv.protocol import frames as f

KEYS = 24


def incarnations(store: raykv.Store) -> dict[str, int]:
    return {node["node_id"]: node["incarnation"] for node in store.status()["nodes"]}


@pytest.mark.parametrize(("seed", "place"), [(1, "coordinator"), (2, "direct")])
def test_all_nodes_are_restarted_under_load_and_no_operation_fails(seed: int, place: str) -> None:
    with raykv.sim.start(seed=seed) as world:
        store = world.connect(place) if place != "coordinator" else world.store
        loaded = [store.bucket("carts"), store.bucket("last", versioning="lww")]
        counted = store.bucket("counts", versioning="linearizable")
        for bucket in loaded:
            bucket.put_many({f"k{number}": -1 for number in range(KEYS)})
        before = incarnations(store)
        seen: list[tuple[int, int]] = []
        begun: list[float] = []
        over = asyncio.Event()
        failed: list[BaseException] = []
        done: list[int] = []
        took: list[tuple[float, float]] = []

        async def client(number: int) -> None:
            count = 0
            while not over.is_set():
                key, began_s = f"k{(count * 7 + number) % KEYS}", world.now_s
                try:
                    for bucket in loaded:
                        await bucket.aio.put(key, count)
                        assert await bucket.aio.get(key) is not None
                    await counted.aio.add(key, 1)
                    assert await counted.aio.get(key) >= 1
                except (RaykvError, AssertionError) as error:
                    failed.append(error)
                count += 1
                took.append((began_s, world.now_s - began_s))
                await asyncio.sleep(0.3)
            done.append(count)

        async def story() -> list[str]:
            clients = [asyncio.ensure_future(client(number)) for number in range(2)]
            await asyncio.sleep(4)
            begun.append(world.now_s)
            restarted = await store.aio.restart_nodes(progress=lambda now, of: seen.append((now, of)))
            await asyncio.sleep(2)
            over.set()
            await asyncio.gather(*clients)
            return restarted

        assert world.run(story()) == list(world.nodes)
        assert failed == []
        assert incarnations(store) == {node_id: run + 1 for node_id, run in before.items()}
        assert seen == [(number, 3) for number in range(4)]
        assert sum(counted.get(f"k{number}", 0) for number in range(KEYS)) == sum(done), "each counted once"
        assert store.status().healthy
        # In virtual time: what it costs beyond the processors that a process takes to start.
        before_s = [each for at, each in took if at < begun[0]]
        during_s = [each for at, each in took if at >= begun[0]]
        assert statistics.quantiles(during_s, n=100)[98] < 3 * statistics.quantiles(before_s, n=100)[98]


def test_with_failures_meanwhile_it_ends_and_nothing_is_lost() -> None:
    with raykv.sim.start(seed=3, faults=True) as world:
        acknowledged: dict[str, int] = {}

        async def writer() -> None:
            for number in range(120):
                with contextlib.suppress(RaykvError):
                    await world.store.aio.put(f"k{number}", number)
                    acknowledged[f"k{number}"] = number
                await asyncio.sleep(0.2)

        async def story() -> None:
            writing = asyncio.ensure_future(writer())
            while not writing.done():
                with contextlib.suppress(RaykvError):
                    await world.store.aio.restart_nodes(timeout=30)
                await asyncio.sleep(1)

        world.run(story())
        world.heal()
        for _ in range(100):  # what the faults have set off comes to its end
            world.sleep(10)
            with contextlib.suppress(StoreUnavailable):
                before = incarnations(world.store)
                restarted = world.store.restart_nodes()
                break
        assert restarted == list(before)
        assert incarnations(world.store) == {node_id: run + 1 for node_id, run in before.items()}
        assert len(acknowledged) > 30
        assert world.store.get_many(acknowledged) == acknowledged


def test_it_refuses_at_the_start_with_nothing_done() -> None:
    with raykv.sim.start() as world:
        world.store.put("k", 1)
        before = incarnations(world.store)
        world.wipe("n2")
        with pytest.raises(StoreUnavailable, match=r"nothing was restarted: .*n2") as caught:
            world.store.restart_nodes()
        assert caught.value.details == {"restarted": [], "left": ["n1", "n2", "n3"]}
        world.sleep(60)
        after = incarnations(world.store)
        assert (after["n1"], after["n3"]) == (before["n1"], before["n3"])
        world.store.bucket("one", n=1)
        with pytest.raises(InvalidOption, match="bucket 'one'"):
            world.store.restart_nodes()
        assert world.store.restart_nodes(force=True) == ["n1", "n2", "n3"]


def test_it_stops_half_way_when_a_node_does_not_come_back_and_the_rest_is_done_later() -> None:
    with raykv.sim.start() as world:
        world.store.put("k", 1)
        before = incarnations(world.store)

        async def story() -> StoreUnavailable:
            restarting = asyncio.ensure_future(
                world.store.aio.restart_nodes(progress=lambda done, _: seen.append(done), timeout=30)
            )
            while seen[-1] < 1:  # noqa: ASYNC110 - in virtual time
                await asyncio.sleep(0.05)
            world.power_cut("n3", for_s=45)
            with pytest.raises(StoreUnavailable) as caught:
                await restarting
            return caught.value

        seen = [0]
        stopped = world.run(story())
        assert "the restart stops here: node n2" in stopped.message
        assert "n3" in stopped.message
        assert stopped.details == {"restarted": ["n1"], "left": ["n2", "n3"]}
        world.store.put("k", 2)
        world.sleep(60)
        assert world.store.restart_nodes(stopped.details["left"]) == ["n2", "n3"]
        assert world.store.get("k") == 2
        assert incarnations(world.store)["n1"] == before["n1"] + 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nodes": "n1"}, "a list of node ids"),
        ({"nodes": []}, "a list of node ids"),
        ({"nodes": [1]}, "a list of node ids"),
        ({"nodes": 7}, "a list of node ids"),
        ({"nodes": ["n9"]}, "no node n9; there are n1, n2, n3"),
        ({"force": 1}, "force must be True or False"),
        ({"outdated": "yes"}, "outdated must be True or False"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_wrong_options(given: dict[str, Any], said: str) -> None:
    with raykv.sim.start() as world, pytest.raises(InvalidOption, match=said):
        world.store.restart_nodes(**given)


@pytest.mark.parametrize(
    "error", [StoreUnavailable("it restarts"), QuorumNotMet("too late"), WriteOutcomeUnknown("it did not answer")]
)
def test_the_time_in_which_nobody_answers_counts(link: Any, both: Any, error: RaykvError) -> None:
    def refused(_: Any) -> Any:
        link.now_s += 10
        return f.Refused(f.Failed.of(error))

    nodes = [{"node_id": node_id, "incarnation": 1, "storage": None} for node_id in ("n1", "n2")]
    link.script = [f.Info({"nodes": nodes}), refused, f.Info({"phase": "done", "why": "", "blocked": False})]
    link.script += [refused] * 100
    began_s = link.now_s
    with pytest.raises(StoreUnavailable, match="Restarted before it: n1; left as they were: none") as caught:
        both("restart_nodes", timeout=300)
    assert caught.value.details == {"restarted": ["n1"], "left": ["n2"]}
    assert 310 <= link.now_s - began_s <= 325


def test_only_those_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    with raykv.sim.start() as world:
        assert world.store.restart_nodes(outdated=True) == []
        monkeypatch.setattr(restarts, "VERSION", "9.9.9")
        assert world.store.restart_nodes(["n3", "n1"], outdated=True) == ["n3", "n1"]


def test_after_an_interrupted_call_the_node_comes_back_and_no_other_is_restarted() -> None:
    with raykv.sim.start() as world:
        world.store.put("k", 1)
        before = incarnations(world.store)

        async def story() -> None:
            restarting = asyncio.ensure_future(world.store.aio.restart_nodes())
            await asyncio.sleep(1.6)  # n1 is drained, or starts
            restarting.cancel()
            await asyncio.sleep(30)

        world.run(story())
        after = incarnations(world.store)
        assert after == before | {"n1": before["n1"] + 1}
        assert world.store.status().healthy
        assert world.store.restart_nodes() == ["n1", "n2", "n3"]


def test_it_goes_on_with_another_supervisor() -> None:
    with raykv.sim.start() as world:
        world.store.put("k", 1)
        before = incarnations(world.store)

        async def story() -> list[str]:
            restarting = asyncio.ensure_future(world.store.aio.restart_nodes())
            await asyncio.sleep(2.0)
            world.kill_supervisor()
            return await restarting

        assert world.run(story()) == ["n1", "n2", "n3"]
        assert incarnations(world.store) == {node_id: run + 1 for node_id, run in before.items()}

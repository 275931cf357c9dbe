"""The simulated store that users' tests get."""

from __future__ import annotations

import asyncio
import doctest
import subprocess
import sys
import time
import warnings

import pytest

import raykv
import raykv.sim
from raykv.sim import world as world_module


def test_the_example_does_what_it_says():
    results = doctest.testmod(world_module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert results.attempted >= 2
    assert results.failed == 0


def test_an_hour_passes_at_once_and_every_operation_is_there():
    began_s = time.monotonic()
    with raykv.sim.start(seed=1) as world:
        store = world.store
        store["a"] = {"x": (1, 2)}
        assert store["a"] == {"x": (1, 2)}
        assert store.put_many({f"k{number}": number for number in range(50)}).keys() == {f"k{n}" for n in range(50)}
        store.put("soon", "gone", ttl=60)
        world.sleep(600)
        assert store.get("soon") is None
        assert store.count() == 51
        assert [key for key, _ in store.scan(prefix="k1", limit=3)] == ["k1", "k10", "k11"]
        del store["a"]
        assert "a" not in store
        bucket = store.bucket("b", w="all", codec="msgpack")
        bucket.put(b"bytes", [1])
        assert world.connect().bucket("b").get(b"bytes") == [1]
        assert {node["state"] for node in store.status()["nodes"]} == {"up"}
        assert store.ring()["members"]
        assert world.now_s > 600
    assert time.monotonic() - began_s < 60


def test_what_is_broken_by_hand_is_ridden_out_and_told():
    with raykv.sim.start(seed=2, nodes=5) as world:
        store = world.store
        store.put("k", 0)
        breaks = [
            lambda: world.kill("n1"),
            lambda: world.power_cut("n2", 3),
            lambda: world.freeze("n3", 4),
            lambda: world.cut("n4", 4),
            lambda: world.slow("n5", 0.5, 3),
            lambda: world.fill_disk("n1", 3),
            world.kill_coordinator,
            world.kill_supervisor,
        ]
        for number, break_something in enumerate(breaks, start=1):
            break_something()
            for _ in range(5):
                try:
                    store.put("k", number)
                    break
                except raykv.RaykvError:
                    world.sleep(1)
            else:
                pytest.fail(f"break {number} was not ridden out")
            assert store.get("k") == number
            world.sleep(20)
        told = "\n".join(world.told())
        for word in ("kill", "power", "freeze", "cut", "slow node", "disk full", "runs as incarnation 2"):
            assert word in told
        assert {node["state"] for node in store.status()["nodes"]} == {"up"}
        world.wipe("n5")
        world.sleep(20)
        assert store.get("k") == len(breaks), "the copies on other nodes answer"


def test_the_minority_refuses_and_says_so():
    with raykv.sim.start(seed=3) as world:
        world.store.put("k", 1)
        world.cut("n1", 30)
        world.cut("n2", 30)
        with pytest.raises(raykv.QuorumNotMet):
            world.store.get("k", timeout=2)
        with pytest.raises(raykv.StoreUnavailable, match="nothing was written"):
            world.store.put("k", 2, timeout=2)
        world.heal()
        assert world.store.get("k") == 1


def test_a_seed_gives_the_same_world_under_any_hash_seed():
    code = (
        "import raykv, raykv.sim, logging; logging.disable(50)\n"
        "with raykv.sim.start(seed=11, faults=True) as world:\n"
        "    for n in range(40):\n"
        "        try: world.store.put(f'k{n % 5}', n)\n"
        "        except raykv.RaykvError as error: print(type(error).__name__)\n"
        "        world.sleep(0.5)\n"
        "    world.heal(); world.sleep(30); print(world.now_s, sorted(world.store.items()), *world.told(), sep='\\n')\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "77")
    ]
    assert outputs[0] == outputs[1]
    assert "fault" in outputs[0]


def test_clients_at_once_and_inside_a_running_loop():
    async def story(world):
        stores = [world.connect_aio() for _ in range(4)]
        clients = await asyncio.gather(*stores)
        await asyncio.gather(*(store.put(f"k{number}", number) for number, store in enumerate(clients)))
        return sorted([key async for key in world.store.aio.keys()])  # noqa: SIM118

    with raykv.sim.start(seed=4) as world:
        assert world.run(story(world)) == ["k0", "k1", "k2", "k3"]

    async def notebook():
        with raykv.sim.start(seed=5) as world:
            world.store.put("k", 1)
            return world.store.get("k")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that a blocking call holds the outer loop up
        assert asyncio.run(notebook()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [({"nodes": 0}, "nodes must be"), ({"nodes": 3, "n": 4}, "n must be"), ({"partitions": 9}, "power of two")],
)
def test_bad_input(options, words):
    with pytest.raises(raykv.InvalidOption, match=words):
        raykv.sim.start(**options)


def test_bad_names_and_times():
    with raykv.sim.start(seed=6) as world:
        with pytest.raises(
            raykv.InvalidOption, match="there is no 'n9'; there are n1, n2, n3, coordinator, supervisor"
        ):
            world.kill("n9")
        for seconds in (-1, 0, float("nan"), "1"):
            with pytest.raises(raykv.InvalidOption, match="seconds"):
                world.sleep(seconds)
    world.close()
    with pytest.raises(raykv.StoreClosed):
        world.store.get("k")


def test_a_network_cut_in_two_and_a_client_on_each_side():
    with raykv.sim.start(seed=2, coordinators=2) as world:
        here = world.connect().bucket("carts", r=1, w=1)
        there = world.connect("coordinator2").bucket("carts")
        here.put("cart", ["book"])
        world.sleep(1)
        world.split(["n1", "coordinator"], for_s=60)
        for bucket, item in ((here, "lamp"), (there, "pen")):
            assert bucket.modify("cart", lambda cart, item=item: [*cart, item])
        assert here.get("cart") == ["book", "lamp"]
        assert there.get("cart") == ["book", "pen"]
        world.heal()
        world.sleep(5)
        found = here.get_versions("cart", r="all")
        assert sorted(found.values) == [["book", "lamp"], ["book", "pen"]]
        here.put("cart", ["book", "lamp", "pen"], context=found.context)
        assert there.get_versions("cart", r="all").values == [["book", "lamp", "pen"]]


def test_a_split_is_over_when_its_time_is():
    with raykv.sim.start(seed=2, coordinators=2) as world:
        world.split(["n1", "coordinator2"], for_s=20)
        assert world.store.put("k", 1).acks
        cut_off = world.connect("coordinator2")
        with pytest.raises(raykv.QuorumNotMet):
            cut_off.get("k", timeout=2)
        world.sleep(30)
        assert cut_off.get("k") == 1
        with pytest.raises(raykv.InvalidOption, match="no 'n9'"):
            world.split(["n9"], for_s=1)
        with pytest.raises(raykv.InvalidOption, match="no 'n1'"):
            world.connect("n1")


@pytest.mark.parametrize("versioning", ["vector", "lww"])
def test_one_slow_replica_hardly_shows_in_quorum_reads(versioning):
    with raykv.sim.start(seed=1) as world:
        bucket = world.store.bucket("b", versioning=versioning)
        bucket.put_many({f"k{number}": number for number in range(50)})
        world.sleep(1)

        def p99_s():
            taken_s = []
            for number in range(1000):
                began_s = world.now_s
                assert bucket.get(f"k{number % 50}") == number % 50
                taken_s.append(world.now_s - began_s)
            return sorted(taken_s)[990]

        healthy_s = p99_s()
        world.slow("n2", by_s=0.2, for_s=600)
        assert p99_s() <= 3 * healthy_s

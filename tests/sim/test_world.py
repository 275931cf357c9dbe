"""The simulated store that users' tests get."""

from __future__ import annotations

import asyncio
import copy
import doctest
import gc
import pickle
import subprocess
import sys
import threading
import time
import traceback
import warnings

import pytest

import raykv
import raykv.sim
from raykv.records.keys import encode_key
from raykv.ring import partition_of_key
from raykv.sim import world as world_module


def test_a_node_is_added_that_carries_as_much_as_the_others():
    with raykv.sim.start(seed=3) as world:
        world.store["a"] = 1
        added = world.store.add_node()
        weights = {member["node_id"]: member["weight"] for member in world.store.ring()["members"]}
        assert weights == dict.fromkeys([*world.nodes, added], 1.0)
        assert world.store["a"] == 1


def test_a_leader_serves_keys_that_it_has_not_touched_before_its_partition_moved():
    """The owners that joined have not promised its term yet, and no round of the partition is due that would ask them."""
    with raykv.sim.start(seed=3) as world:
        bucket = world.store.bucket("jobs", versioning="linearizable")
        for number in range(200):
            bucket.put(f"k{number}", number)
        for node_id in world.nodes:  # new terms, which have touched nothing
            world.kill(node_id)
        world.sleep(30)
        for number in range(100):
            assert bucket.add(f"k{number}", 1) == number + 1
        added = world.store.add_node()
        for number in range(100, 150):
            assert bucket.add(f"k{number}", 1) == number + 1
        world.store.remove_node(added)
        for number in range(150, 200):
            assert bucket.add(f"k{number}", 1) == number + 1


@pytest.mark.parametrize("versioning", ["vector", "lww", "linearizable"])
def test_a_group_lies_on_the_owners_of_one_partition(versioning):
    """What does not own it may be away: neither its keys nor a scan of it need that. All three owners are asked."""
    with raykv.sim.start(seed=5, nodes=5, partitions=64) as world:
        orders = world.store.bucket("orders", group="/", versioning=versioning)
        with pytest.raises(raykv.BucketMismatch, match="group is '/', asked ':'"):
            world.store.bucket("orders", group=":")
        keys = ["user:1", *(f"user:1/{number:03}" for number in range(120))]
        orders.put_many({key: key for key in keys[:60]})
        for key in keys[60:]:
            orders.put(key, key)
        orders.put_many({f"user:{other}/1": other for other in range(2, 30)})
        orders.put(b"user:1/000", "of the bytes key")
        owners = world.store.ring().owners(partition_of_key(encode_key("user:1"), 64))
        everyone = 3 if versioning != "linearizable" else None
        for node_id in {*world.nodes} - {*owners}:
            world.cut(node_id, 600)
        assert [key for key, _ in orders.scan(prefix="user:1/", r=everyone)] == keys[1:]
        assert [key for key, _ in orders.scan(prefix="user:1/00", r=everyone)] == keys[1:11]
        assert [key for key, _ in orders.scan(prefix="user:1/", start="user:1/100", limit=5, r=everyone)] == keys[
            101:106
        ]
        back = orders.scan(prefix="user:1/", after="user:1/050", reverse=True, limit=7, r=everyone)
        assert [key for key, _ in back] == keys[50:43:-1]
        assert orders.get_many(keys, r=everyone) == {key: key for key in keys}
        assert all(orders.get(key, r=everyone) == key for key in keys[::20])
        if everyone:
            with pytest.raises(raykv.QuorumNotMet):
                list(orders.scan(prefix="user:", r=everyone, timeout=2))
        world.heal()
        status = world.store.status()
        assert status.largest_groups()["orders"][0] == "user:1"
        assert "bucket 'orders': the largest group is 'user:1', about" in repr(status)
        added = world.store.add_node()
        world.store.remove_node(next(node_id for node_id in owners if node_id != added))
        world.sleep(60)
        assert [key for key, _ in orders.scan(prefix="user:1/")] == keys[1:]
        assert [key for key, _ in orders.scan(prefix="user:1")][:121] == keys
        assert orders.get(b"user:1/000") == "of the bytes key"
        orders.delete_many(keys[:100])
        assert [key for key, _ in orders.scan(prefix="user:1/")] == keys[100:]


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


def test_faults_by_hand_are_ridden_out_and_listed():
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
        events = "\n".join(world.events())
        for word in ("kill", "power", "freeze", "cut", "slow node", "disk full", "runs as incarnation 2"):
            assert word in events
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
        "    world.heal(); world.sleep(30); print(world.now_s, sorted(world.store.items()), *world.events(), sep='\\n')\n"
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
    [
        ({"nodes": 0}, "nodes must be"), ({"nodes": 3, "n": 4}, "n must be"), ({"partitions": 9}, "power of two"),
        ({"faults": "no"}, "faults must be True or False; got 'no'"), ({"coordinators": 1.5}, "coordinators must be"),
        ({"gc_grace_s": float("nan")}, "gc_grace_s must be"), ({"replace_after": True}, "replace_after_s must be"),
    ],
)  # fmt: skip
def test_bad_input(options, words):
    with pytest.raises(raykv.InvalidOption, match=words):
        raykv.sim.start(**options)


def test_bad_names_and_times():
    with raykv.sim.start(seed=6) as world:
        with pytest.raises(raykv.InvalidOption, match=r"there is no 'n9'; there are n1, n2, n3$"):
            world.kill("n9")
        with pytest.raises(
            raykv.InvalidOption, match="there is no 'n9'; there are n1, n2, n3, coordinator, supervisor"
        ):
            world.freeze("n9", 1)
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


def test_one_direction_of_one_pair_is_cut():
    with raykv.sim.start(seed=4) as world:
        mine = world.connect("direct")
        place = world.place_of(mine)
        mine["a"] = 1
        for node_id in world.nodes:
            world.cut(node_id, 30, direction="from", peer=place)
        with pytest.raises(raykv.RaykvError):
            mine.get("a", timeout=1.0)
        assert world.store["a"] == 1, "others reach the nodes"
        world.sleep(31)
        assert mine["a"] == 1


def test_a_message_is_lost_and_another_takes_long():
    with raykv.sim.start(seed=4) as world:
        mine = world.connect("direct")
        place = world.place_of(mine)
        mine["a"] = 1
        for node_id in world.nodes:
            world.lose(node_id, place)
        before_s = world.now_s
        assert mine["a"] == 1
        assert world.now_s - before_s > 0.01, "the first answers did not come"
        for node_id in world.nodes:
            world.delay(node_id, place, 0.3, 10)
        before_s = world.now_s
        assert mine["a"] == 1
        assert 0.3 <= world.now_s - before_s < 1
        world.heal()
        before_s = world.now_s
        assert mine["a"] == 1
        assert world.now_s - before_s < 0.1


def test_a_client_stands_still_and_the_supervisor_too():
    with raykv.sim.start(seed=4) as world:
        mine = world.connect("direct")
        mine["a"] = 1
        world.freeze(world.place_of(mine), 5)
        world.freeze("supervisor", 2)
        world.freeze("coordinator", 1)
        before_s = world.now_s
        assert mine.get("a", timeout=30) == 1
        assert 5 <= world.now_s - before_s < 7


def test_a_client_that_was_healed_and_stands_still_again_does_so_for_all_of_its_time():
    with raykv.sim.start(seed=4) as world:
        mine = world.connect("direct")
        mine["a"] = 1
        world.freeze(world.place_of(mine), 5)
        world.heal()
        world.sleep(1)
        world.freeze(world.place_of(mine), 10)
        before_s = world.now_s
        assert mine.get("a", timeout=30) == 1
        assert 10 <= world.now_s - before_s < 12


def test_a_fault_without_its_place_is_refused():
    with raykv.sim.start(seed=4) as world:
        for wrong in (
            lambda: world.freeze("n9", 1),
            lambda: world.freeze("client99", 1),
            lambda: world.cut("n1", 1, direction="sideways"),
            lambda: world.cut("n1", 1, peer="n9"),
            lambda: world.delay("n1", "nobody", 1, 1),
            lambda: world.delay("n1", "n2", -1, 1),
            lambda: world.lose("n1", "n2", 0),
        ):
            with pytest.raises(raykv.InvalidOption):
                wrong()


@pytest.fixture(scope="module")
def whole():
    """A world in which no fault begins."""
    with raykv.sim.start(seed=4, coordinators=2) as world:
        world.direct = world.place_of(world.connect("direct"))
        yield world


def refused(world, fault, words):
    before = world.events(), world.now_s
    with pytest.raises(raykv.InvalidOption, match=words):
        fault(world)
    assert (world.events(), world.now_s) == before
    network = world._cluster.network
    assert not world._nemesis.hurting
    assert not world._undo
    assert not network.delays
    assert not any(network.slow.values())


ON_NODES = {
    "kill": lambda world, name: world.kill(name),
    "power_cut": lambda world, name: world.power_cut(name, 1),
    "cut": lambda world, name: world.cut(name, 1),
    "cut from one": lambda world, name: world.cut(name, 1, peer="n1"),
    "slow": lambda world, name: world.slow(name, 0.1, 1),
    "fill_disk": lambda world, name: world.fill_disk(name, 1),
    "wipe": lambda world, name: world.wipe(name),
}


@pytest.mark.parametrize("fault", ON_NODES.values(), ids=ON_NODES)
def test_a_fault_of_nodes_is_refused_for_what_it_would_do_nothing_to(whole, fault):
    for name in ("coordinator", "coordinator2", "supervisor", whole.direct):
        refused(
            whole,
            lambda world, name=name: fault(world, name),
            rf"for nodes: n1, n2, n3; got '{name}'.*kill_coordinator\(\), kill_supervisor\(\), freeze\(\) and split\(\)",
        )
    for name in ("n9", "", 1, None, ["n1"]):
        refused(whole, lambda world, name=name: fault(world, name), "there is no .*; there are n1, n2, n3$")


@pytest.mark.parametrize(
    "fault",
    [
        lambda world: world.cut("n1", 1, peer="n1"), lambda world: world.delay("n1", "n1", 1, 1),
        lambda world: world.lose("n1", "n1"), lambda world: world.split([], 1), lambda world: world.split("n1", 1),
        lambda world: world.split(1, 1), lambda world: world.split(iter(()), 1),
    ],
)  # fmt: skip
def test_a_fault_between_nobody_is_refused(whole, fault):
    refused(whole, fault, "two processes are needed|side is a list")


TIMES = {
    "power_cut": lambda world, for_s: world.power_cut("n1", for_s),
    "freeze a node": lambda world, for_s: world.freeze("n1", for_s),
    "freeze a coordinator": lambda world, for_s: world.freeze("coordinator", for_s),
    "freeze the supervisor": lambda world, for_s: world.freeze("supervisor", for_s),
    "freeze a client": lambda world, for_s: world.freeze(world.direct, for_s),
    "cut": lambda world, for_s: world.cut("n1", for_s),
    "delay": lambda world, for_s: world.delay("n1", "n2", 1, for_s),
    "delay by": lambda world, by_s: world.delay("n1", "n2", by_s, 1),
    "split": lambda world, for_s: world.split(["n1"], for_s),
    "slow": lambda world, for_s: world.slow("n1", 0.1, for_s),
    "slow by": lambda world, by_s: world.slow("n1", by_s, 1),
    "fill_disk": lambda world, for_s: world.fill_disk("n1", for_s),
    "sleep": lambda world, seconds: world.sleep(seconds),
}


@pytest.mark.parametrize("fault", TIMES.values(), ids=TIMES)
def test_a_wrong_time_is_refused_before_anything_begins(whole, fault):
    for wrong in (float("nan"), float("inf"), -1, 0, True, "60", None, [1], 10**5000, 31 * 86_400):
        refused(whole, lambda world, wrong=wrong: fault(world, wrong), "must be a number of seconds above 0")


def test_a_split_is_of_what_a_generator_names_too():
    with raykv.sim.start(seed=2) as world:
        world.split((name for name in ("n1", "n2")), for_s=20)
        with pytest.raises(raykv.QuorumNotMet):
            world.store.get("k", timeout=2)


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


# ---- a seed's failure ----


def test_what_leaves_the_block_carries_the_line_that_replays_it():
    options = {"nodes": 5, "faults": True, "durability": "always", "node": raykv.NodeConfig(memtable_bytes=2**20)}
    seen = []

    def story(world):
        world.sleep(3)
        seen.append((world.events(), world.now_s))

    def failing():
        with raykv.sim.start(seed=12, **options) as world:
            story(world)
            assert world.store.get("k") == 1

    with pytest.raises(AssertionError) as caught:
        failing()
    (note,) = caught.value.__notes__
    assert f"raykv {raykv.__version__}" in note
    assert note in "".join(traceback.format_exception(caught.value))
    line = note.partition("the same again: ")[2]
    assert line == (
        "raykv.sim.start(seed=12, nodes=5, faults=True, durability='always', node=raykv.NodeConfig(memtable_bytes=1048576))"
    )
    with eval(line) as again:
        story(again)
        assert seen[0] == seen[1]
        assert again.replay == line


def test_each_option_stands_in_the_line_unless_it_is_as_always():
    other = {
        "nodes": 4, "n": 2, "coordinators": 2, "faults": True, "durability": "interval", "partitions": 64,
        "gc_grace_s": 60.0, "replace_after": 30.0, "node": raykv.NodeConfig(block_cache_bytes=2**20, memtable_bytes=2**20),
    }  # fmt: skip
    assert world_module.Options.__annotations__.keys() == other.keys()
    line = world_module.replay_line(7, **other)
    assert eval(f"dict({line.removeprefix('raykv.sim.start(')}") == {"seed": 7, **other}
    with raykv.sim.start(seed=-3) as world:
        assert world.replay == "raykv.sim.start(seed=-3)"


@pytest.mark.parametrize("seed", [1.5, "7", None, True, 2**70])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(raykv.InvalidOption, match="seed must be"):
        raykv.sim.start(seed)


# ---- misuse of a world is reported in a sentence, and does no harm ----


@pytest.fixture
def two_worlds():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # what other tests have left is not what these find
    with raykv.sim.start(seed=1) as world, raykv.sim.start(seed=2) as other:
        world.store.put("k", "old")
        other.store.put("k", "old")
        yield world, other


BLOCKING = {
    "get": lambda world: world.store.get("k"),
    "put": lambda world: world.store.put("k", "new"),
    "scan": lambda world: list(world.store),
    "status": lambda world: world.store.status(),
    "direct": lambda world: world.directly.put("k", "new"),
    "connect": lambda world: world.connect(),
    "sleep": lambda world: world.sleep(1),
    "run": lambda world: world.run(world.store.aio.get("k")),
    "close": lambda world: world.close(),
}


@pytest.mark.filterwarnings("ignore:a blocking raykv call")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BLOCKING)
def test_a_blocking_call_inside_run_says_what_to_do_instead(two_worlds, name):
    world, other = two_worlds
    world.directly = world.connect("direct")

    async def story(each):
        BLOCKING[name](each)

    with pytest.raises(RuntimeError, match=r"await it instead \(world.store.aio") as caught:
        world.run(story(world))
    assert not isinstance(caught.value, raykv.RaykvError), "a program that tries again on raykv's errors would hide it"
    assert world.store.get("k") == "old", "nothing was sent"
    other.run(story(world))  # while another world's time stands still, this one's may pass
    gc.collect()  # a coroutine that was never awaited would be reported now


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("direct", [False, True])
def test_an_awaitable_handle_in_another_loop_says_where_it_belongs(two_worlds, direct):
    world, other = two_worlds
    store = world.connect("direct") if direct else world.store
    for run in (asyncio.run, other.run):
        with pytest.raises(RuntimeError, match=r"await it inside world.run"):
            run(store.aio.put("k", "new"))
    assert world.store.get("k") == "old"
    gc.collect()


@pytest.mark.filterwarnings("error")
def test_nothing_real_is_awaited_in_virtual_time(two_worlds):
    world, _ = two_worlds

    async def threads():
        await asyncio.to_thread(time.time)

    async def sockets():
        await asyncio.open_connection("127.0.0.1", 9)

    async def processes():
        await asyncio.create_subprocess_exec("true")

    for story in (threads, sockets, processes):
        with pytest.raises(RuntimeError, match="nothing real can be awaited in a simulated world"):
            world.run(story())
    assert world.store.get("k") == "old"


def test_another_thread_waits_its_turn_or_gets_an_error(two_worlds):
    world, _ = two_worlds
    answers = []

    def elsewhere():
        try:
            answers.append(world.store.put("k", "there"))
        except RuntimeError as error:
            answers.append(str(error))

    def in_a_thread():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    in_a_thread()
    assert world.store.get("k") == "there", "one after the other, as a web framework's test client does it"

    async def at_the_same_time():
        in_a_thread()

    world.run(at_the_same_time())
    assert "in use by another thread" in answers[1]
    assert world.store.get("k") == "there"


def test_what_never_comes_is_given_up():
    async def story():
        await asyncio.Event().wait()

    with raykv.sim.start(seed=3) as world:
        with pytest.raises(TimeoutError, match="not done after 60 s of virtual time"):
            world.run(story(), timeout=60)
        assert 60 <= world.now_s < 70
        with pytest.raises(raykv.InvalidOption, match=r"world\.run takes a coroutine"):
            world.run(story)
        coroutine = story()
        with pytest.raises(raykv.InvalidOption, match="timeout"):
            world.run(coroutine, timeout=0)

        async def own():
            raise TimeoutError("the program's own")

        with pytest.raises(TimeoutError, match="the program's own"):
            world.run(own())


def test_a_handle_stays_in_its_world(two_worlds):
    world, _ = two_worlds
    bucket = world.store.bucket("b", ttl=60)
    for handle in (world.store, world.store.aio, bucket, bucket.aio):
        with pytest.raises(TypeError, match="lives in this process alone"):
            pickle.dumps(handle)
    for copied in (copy.copy(world.store), copy.deepcopy({"store": world.store})["store"]):
        assert copied.get("k") == "old"


def test_after_its_end_a_world_says_so():
    with raykv.sim.start(seed=6) as world:
        awaitable = world.run(world.connect_aio())
    calls = [
        lambda: world.store.get("k"), lambda: world.connect(), lambda: world.sleep(1), lambda: world.kill("n1"),
        lambda: world.run(asyncio.sleep(1)), lambda: asyncio.run(awaitable.get("k")), world.heal,
        lambda: asyncio.run(world.store.aio.get("k")),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(raykv.StoreClosed, match=r"has ended; raykv\.sim\.start"):
            call()
    assert world.events()


def test_a_task_that_failed_unseen_is_logged_with_the_line_that_replays_it(caplog):
    tasks = []

    async def story():
        async def fails():
            raise ValueError("nobody looks")

        tasks.append(asyncio.ensure_future(asyncio.sleep(1e6)))  # is ended with the world
        failed = asyncio.ensure_future(fails())
        await asyncio.sleep(1)
        del failed

    with raykv.sim.start(seed=8) as world:
        world.run(story())
    assert tasks[0].cancelled()
    assert "nobody looks" in caplog.text
    assert "raykv.sim.start(seed=8)" in caplog.text

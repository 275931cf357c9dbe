"""The replicated register (P5): one value, held by a majority, that never goes back."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.cluster.register import Register, Superseded, latest, missing_for_majority
from raykv.cluster.state import encode_state
from raykv.config import BucketConfig
from raykv.errors import StoreUnavailable
from raykv.protocol import frames as f
from raykv.records.limits import MAX_BALLOT_STEP

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture(autouse=True)
def _nobody_tells(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TELLS", False)


def bucket(name: str) -> BucketConfig:
    return BucketConfig(name=name, n=3, r=2, w=2)


def cut_off(cluster: Any, name: str, *nodes: str) -> None:
    for node_id in nodes:
        cluster.cut(name, f"node/{node_id}")


def world_clock(cluster: Any) -> Any:
    return cluster.clock


async def founded(world: ModuleType, nodes: int = 5, *, name: str = "s1") -> tuple[Any, Register]:
    cluster = world.Cluster(nodes).start()
    register = Register(cluster.transport(name), world_clock(cluster))
    await register.accept(cluster.state)
    return cluster, register


async def take_over(cluster: Any, name: str) -> Register:
    register = Register(cluster.transport(name), world_clock(cluster))
    await register.take_over(await register.read(cluster.ids))
    return register


def answer(generation: int, version: int, state: Any = None) -> f.AcceptorAnswer:
    data = (
        None if state is None else encode_state(msgspec.structs.replace(state, generation=generation, version=version))
    )
    return f.AcceptorAnswer(True, generation, generation, version, data)


# ---- decisions ----


def test_the_latest_is_the_greatest_pair_and_none_of_nothing(world: ModuleType) -> None:
    async def story() -> None:
        state = world.Cluster(3).state
        assert latest({}) is None
        assert latest({"n1": answer(0, 0)}) is None
        answers = {"n1": answer(2, 1, state), "n2": answer(1, 9, state), "n3": answer(0, 0), "n4": answer(2, 0, state)}
        found = latest(answers)
        assert found is not None
        assert found.ballot == (2, 1)

    world.run(story())


@pytest.mark.parametrize(
    ("nodes", "answered", "missing"),
    [
        (5, ["n1", "n2", "n3"], []),
        (5, ["n1", "n2"], ["n3", "n4", "n5"]),
        (4, ["n1", "n2"], ["n3", "n4"]),
        (3, ["n1", "n3"], []),
        (3, ["n1", "stranger"], ["n2", "n3"]),
        (1, [], ["n1"]),
    ],
)
def test_the_nodes_missing_for_a_majority(
    world: ModuleType, nodes: int, answered: list[str], missing: list[str]
) -> None:
    async def story() -> None:
        state = world.Cluster(nodes, copies=1).state
        assert missing_for_majority(state, {node_id: answer(1, 1) for node_id in answered}) == missing

    world.run(story())


# ---- storing ----


def test_a_state_is_the_registers_only_once_a_majority_holds_it(world: ModuleType) -> None:
    async def story() -> None:
        cluster, register = await founded(world)
        before = register.state
        cut_off(cluster, "s1", "n1", "n2", "n3")
        with pytest.raises(StoreUnavailable, match="2 of 5"):
            await register.accept(cluster.state.with_bucket(bucket("a")))
        assert register.state == before
        cluster.mend()
        cut_off(cluster, "s1", "n4", "n5")
        changed = msgspec.structs.replace(cluster.state, version=9)
        await register.accept(changed)
        assert register.state == changed

    world.run(story())


def test_reading_brings_those_that_answer(world: ModuleType) -> None:
    async def story() -> None:
        cluster, register = await founded(world)
        cluster.kill("n2")
        cluster.freeze("n4")
        answers = await register.read(["n1", "n2", "n3", "n4", "stranger"])
        assert sorted(answers) == ["n1", "n3"]
        assert {answer.ballot for answer in [latest(answers)] if answer} == {(1, 1)}

    world.run(story())


# ---- taking over ----


@pytest.mark.parametrize("away", [[], ["n1"], ["n1", "n5"], ["n4", "n5"]])
def test_the_next_supervisor_takes_over_with_a_minority_missing(world: ModuleType, away: list[str]) -> None:
    async def story() -> None:
        cluster, first = await founded(world)
        await first.accept(cluster.state.with_bucket(bucket("a")))
        for node_id in away:
            cluster.kill(node_id)
        second = await take_over(cluster, "s2")
        assert second.state is not None
        assert second.state.generation == 2
        assert second.state.bucket("a") is not None
        third = await take_over(cluster, "s3")
        assert third.state is not None
        assert third.state.ballot > second.state.ballot

    world.run(story())


def test_a_supervisor_that_died_between_promise_and_store_is_passed_by(world: ModuleType) -> None:
    async def story() -> None:
        cluster, _ = await founded(world)
        for node_id in ("n1", "n2", "n3", "n4"):
            assert (await cluster.ask(node_id, f.PrepareState(2))).granted
        third = await take_over(cluster, "s3")
        assert third.state is not None
        assert third.state.generation == 3

    world.run(story())


def test_without_a_majority_nobody_takes_over(world: ModuleType) -> None:
    async def story() -> None:
        cluster, _ = await founded(world)
        for node_id in ("n1", "n2", "n3"):
            cluster.kill(node_id)
        with pytest.raises(StoreUnavailable, match="majority"):
            await take_over(cluster, "s2")
        empty = world.Cluster(3).start()
        with pytest.raises(StoreUnavailable, match="no node holds"):
            await take_over(empty, "s1")

    world.run(story())


def test_p5_epoch_7_on_three_of_five_of_which_two_die(world: ModuleType) -> None:
    """What {2, 4, 5} hold by majority is the older state; the later one, on 2, was handed out and must live on."""

    async def story() -> None:
        cluster, first = await founded(world)
        cut_off(cluster, "s1", "n4", "n5")
        seventh = cluster.state.with_bucket(bucket("seven"))
        await first.accept(seventh)
        cluster.mend()
        cluster.kill("n1")
        cluster.kill("n3")
        second = await take_over(cluster, "s2")
        assert second.state is not None
        assert second.state.bucket("seven") is not None
        assert second.state.next_bucket_id == seventh.next_bucket_id
        for node_id in ("n4", "n5"):
            kept = await cluster.ask(node_id, f.ReadState())
            assert (kept.generation, kept.version) == second.state.ballot, "stored anew on a majority, before all else"

    world.run(story())


def test_a_supervisor_that_was_replaced_is_refused(world: ModuleType) -> None:
    async def story() -> None:
        cluster, first = await founded(world)
        await take_over(cluster, "s2")
        before = first.state
        with pytest.raises(Superseded):
            await first.accept(cluster.state.with_bucket(bucket("late")))
        assert first.state == before
        third = await take_over(cluster, "s3")
        assert third.state is not None
        assert third.state.bucket("late") is None

    world.run(story())


def test_of_two_that_take_over_at_once_at_most_one_does(world: ModuleType) -> None:
    async def story() -> None:
        for seed in range(20):
            rng = random.Random(seed)
            cluster, _ = await founded(world)
            for name in ("s2", "s3"):
                for node_id in cluster.ids:
                    cluster.network.delays[(name, f"node/{node_id}")] = rng.random() * 0.1
            registers = [Register(cluster.transport(name), world_clock(cluster)) for name in ("s2", "s3")]

            async def attempt(register: Register, name: str, cluster: Any = cluster) -> str:
                try:
                    await register.take_over(await register.read(cluster.ids))
                    await register.accept(register.state.with_bucket(bucket(name)))  # type: ignore[union-attr]
                except (Superseded, StoreUnavailable):
                    return "refused"
                return "owner"

            outcomes = await world.asyncio.gather(*(attempt(r, n) for r, n in zip(registers, ["a", "b"], strict=True)))
            owners = [register for register, outcome in zip(registers, outcomes, strict=True) if outcome == "owner"]
            last = await take_over(cluster, "s4")
            assert last.state is not None
            newest = max((owner.state for owner in owners), key=lambda state: state.ballot, default=None)
            if newest is not None:
                assert {entry.config.name for entry in newest.buckets} <= {
                    entry.config.name for entry in last.state.buckets
                }, "what the later owner stored lives on"

    world.run(story())


def test_a_node_that_was_away_is_brought_up_to_date(world: ModuleType) -> None:
    async def story() -> None:
        cluster, register = await founded(world, 3)
        cluster.kill("n3")
        await register.accept(cluster.state.with_bucket(bucket("a")))
        cluster.revive("n3")
        assert (await cluster.ask("n3", f.ReadState())).version == 1
        await register.bring_up_to_date("n3")
        assert (await cluster.ask("n3", f.ReadState())).version == 2
        cluster.kill("n3")
        await register.bring_up_to_date("n3")  # not reaching it is fine

    world.run(story())


def test_a_state_on_a_minority_that_dies_meanwhile_does_not_stop_the_take_over(world: ModuleType) -> None:
    """n1 alone holds version 2 (its supervisor died while storing); it answers the read, and dies before the promise."""

    async def story() -> None:
        cluster, first = await founded(world, 3)
        cut_off(cluster, "s1", "n2", "n3")
        with pytest.raises(StoreUnavailable):
            await first.accept(cluster.state.with_bucket(bucket("a")))
        cluster.mend()
        second = Register(cluster.transport("s2"), world_clock(cluster))
        answers = await second.read(cluster.ids)
        cluster.kill("n1")
        state = await second.take_over(answers)
        assert state.generation == 2

    world.run(story())


def lost_on_the_way(world: ModuleType) -> Any:
    """A change that fails on a majority, then another one that does not; then another supervisor."""

    async def story() -> tuple[Any, Any]:
        cluster, first = await founded(world, 3)
        assert first.state is not None
        cut_off(cluster, "s1", "n2", "n3")
        with pytest.raises(StoreUnavailable):
            await first.accept(first.state.with_bucket(bucket("a")))  # stands on n1 only
        cluster.mend()
        cut_off(cluster, "s1", "n1")
        await first.accept(first.state.with_bucket(bucket("b")))  # stands on n2 and n3: handed out
        handed_out = first.state
        cluster.mend()
        cluster.kill("n3")
        second = await take_over(cluster, "s2")
        return handed_out, second.state

    return world.run(story())


def test_a_change_that_failed_never_wins_over_one_that_was_handed_out(world: ModuleType) -> None:
    handed_out, taken = lost_on_the_way(world)
    assert handed_out.bucket("b") is not None
    assert taken.bucket("b") is not None, "bucket b was handed out, with data in it under its id"


def test_a_host_that_is_down_does_not_hold_up_a_majority(world: ModuleType) -> None:
    """A supervisor that starts asks four times: waiting for the silent each time would keep the store from serving."""

    async def story() -> None:
        cluster, _ = await founded(world, 3)
        cut_off(cluster, "s2", "n3")
        began_s = world.asyncio.get_running_loop().time()
        second = await take_over(cluster, "s2")
        assert second.state is not None
        assert world.asyncio.get_running_loop().time() - began_s < 1.5
        assert await second.owned()

    world.run(story())


def test_a_register_is_owned_until_somebody_later_is_promised_to(world: ModuleType) -> None:
    async def story() -> None:
        cluster, first = await founded(world, 3)
        assert await first.owned()
        await take_over(cluster, "s2")
        assert not await first.owned()

    world.run(story())


def test_without_a_majority_nothing_tells_the_owner_of_a_register(world: ModuleType) -> None:
    async def story() -> None:
        cluster, first = await founded(world, 3)
        cut_off(cluster, "s1", "n2", "n3")
        with pytest.raises(StoreUnavailable):
            await first.owned()

    world.run(story())


def test_a_supervisor_hears_from_a_node_that_it_is_no_longer_the_one(world: ModuleType) -> None:
    async def story() -> None:
        cluster, first = await founded(world, 3)
        await first.bring_up_to_date("n1")
        await take_over(cluster, "s2")
        with pytest.raises(Superseded):
            await first.bring_up_to_date("n1")

    world.run(story())


def test_of_two_founders_at_most_one_owns_the_store(world: ModuleType) -> None:
    """Simulated seed 311609: both stored the same first state, and each took an empty directory for a new one."""

    async def story() -> None:
        for seed in range(20):
            rng = random.Random(seed)
            cluster = world.Cluster(3).start()
            for name in ("s1", "s2"):
                for node_id in cluster.ids:
                    cluster.network.delays[(name, f"node/{node_id}")] = rng.random() * 0.1
            registers = [Register(cluster.transport(name), world_clock(cluster)) for name in ("s1", "s2")]

            async def attempt(register: Register, cluster: Any = cluster) -> bool:
                try:
                    await register.found(cluster.state, {})
                except (Superseded, StoreUnavailable):
                    return False
                return True

            founded_by = await world.asyncio.gather(*map(attempt, registers))
            assert sum(founded_by) <= 1
            if not any(founded_by):  # each got a promise or two; the next one goes beyond
                third = Register(cluster.transport("s3"), world_clock(cluster))
                await third.found(cluster.state, await third.read(cluster.ids))
                assert await third.owned()

    world.run(story())


def test_what_another_founder_has_stored_stands(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        first, second = (Register(cluster.transport(name), world_clock(cluster)) for name in ("s1", "s2"))
        await first.found(cluster.state, {})
        cluster.kill("n1")
        another = cluster.state.with_bucket(bucket("of another plan"))
        await second.found(another, await second.read(["n2"]))
        assert second.state is not None
        assert second.state.bucket("of another plan") is None
        assert await second.owned()
        assert not await first.owned()

    world.run(story())


def test_a_register_that_no_member_has_kept_is_lost_and_one_that_one_has_is_not(world: ModuleType) -> None:
    async def story() -> None:
        cluster, register = await founded(world, 3)
        for node_id in ("n1", "n2"):
            cluster.wipe(node_id)
            cluster.start_node(node_id)
        state = register.state.with_bucket(bucket("a"))
        with pytest.raises(StoreUnavailable, match="1 of 3 nodes hold it"):
            await register.accept(state)
        assert not register.lost
        await register.accept(state)  # by now it knows who has lost it
        assert (await register.read(["n1"]))["n1"].voter
        for node_id in cluster.ids:
            cluster.wipe(node_id)
            cluster.start_node(node_id)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="of all 3 nodes are gone"):
                await register.accept(state.with_bucket(bucket("b")))
            assert register.lost

    world.run(story())


def test_p5_a_lost_promise_is_not_made_good_by_what_was_decided_before(world: ModuleType) -> None:
    """S3 is promised n1 and n3; n1 is wiped; S2 tells n1 what was decided, and must not get a change past S3 with it."""

    async def story() -> None:
        cluster, second = await founded(world, 3)
        third = Register(cluster.transport("s3"), world_clock(cluster))
        cut_off(cluster, "s3", "n2")
        answers = await third.read(cluster.ids)
        granted = await third._prepare(cluster.ids, 9)
        assert sorted(granted) == ["n1", "n3"]
        cluster.kill("n1")
        cluster.disks["n1"] = world.SimDisk()
        cluster.revive("n1")
        assert not await second.bring_up_to_date("n1")
        with pytest.raises(Superseded):
            await second.accept(second.state.with_bucket(bucket("gone")))
        cluster.network.cuts.clear()
        await third.take_over(answers | await third.read(cluster.ids))  # and what n2 accepted may be taken or not
        assert (await third.read(["n1"]))["n1"].voter

    world.run(story())


def test_p5_a_promise_that_was_lost_before_the_last_one_came_does_not_count(world: ModuleType) -> None:
    """S3 is promised n1, n1 loses its register, and only then comes the promise of n3: that is no majority."""

    async def story() -> None:
        cluster, _ = await founded(world, 3)
        third = Register(cluster.transport("s3"), world_clock(cluster))
        answers = await third.read(cluster.ids)
        cut_off(cluster, "s3", "n2")
        cluster.network.delays["s3", "node/n3"] = 1.0
        taking = asyncio.ensure_future(third.take_over(answers))
        await asyncio.sleep(0.5)
        assert (await Register(cluster.transport("s4"), world_clock(cluster)).read(["n1"]))["n1"].promised == 2
        cluster.node("n1")._replica.mark_incomplete()
        with pytest.raises(StoreUnavailable):
            await taking

    world.run(story())


# ---- how far a generation may jump ----


def test_nobody_takes_the_last_number_and_with_it_all_later_supervisors(world: ModuleType) -> None:
    async def story() -> None:
        cluster, register = await founded(world)
        state = register.state
        assert state is not None
        for node_id in cluster.ids:
            for attack in (
                f.PrepareState((1 << 62) - 1),
                f.PrepareState(state.generation + MAX_BALLOT_STEP + 1),
                f.AcceptState((1 << 62) - 1, 1, encode_state(state), decided=True),
            ):
                answer = await cluster.ask(node_id, attack)
                assert not answer.granted
                assert answer.promised == state.generation
        later = await take_over(cluster, "s2")
        assert later.state is not None
        assert later.state.generation == state.generation + 1

    world.run(story())


@pytest.mark.parametrize("pushed", [["n1"], ["n1", "n2"], ["n1", "n2", "n3", "n4", "n5"]])
def test_a_supervisor_leads_those_up_that_were_not_pushed_ahead(world: ModuleType, pushed: list[str]) -> None:
    async def story() -> None:
        cluster, register = await founded(world)
        assert register.state is not None
        top = register.state.generation
        for _ in range(3):
            top += MAX_BALLOT_STEP
            for node_id in pushed:
                assert (await cluster.ask(node_id, f.PrepareState(top))).granted
        later = await take_over(cluster, "s2")
        assert later.state is not None
        assert later.state.generation == top + 1
        await later.accept(later.state.with_bucket(bucket("after")))
        held = await later.read(cluster.ids)
        assert {answer.generation for answer in held.values()} == {top + 1}
        assert (await take_over(cluster, "s3")).state.bucket("after") is not None  # type: ignore[union-attr]

    world.run(story())

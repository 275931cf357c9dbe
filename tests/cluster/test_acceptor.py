"""A node's side of the replicated register: promises, accepted states, votes (P5)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raykv.cluster.state import encode_state
from raykv.protocol import frames as f
from raykv.storage import DiskFull

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture(autouse=True)
def _nobody_tells(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TELLS", False)


def accept(world_cluster: Any, generation: int, version: int) -> f.AcceptState:
    state = msgspec.structs.replace(world_cluster.state, generation=generation, version=version)
    return f.AcceptState(generation, version, encode_state(state))


def test_a_node_without_a_cluster_state_says_so(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        answer = await cluster.ask("n1", f.ReadState())
        assert answer == f.AcceptorAnswer(True, 0, 0, 0, None, directory_id=answer.directory_id)
        assert answer.directory_id

    world.run(story())


def test_promise_and_accept_by_the_rules_and_over_restarts(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()

        async def step(body: Any, granted: bool, promised: int, held: tuple[int, int]) -> None:
            answer = await cluster.ask("n1", body)
            assert (answer.granted, answer.promised, (answer.generation, answer.version)) == (granted, promised, held)
            cluster.kill("n1", "drop")
            cluster.revive("n1")
            kept = await cluster.ask("n1", f.ReadState())
            assert (kept.promised, (kept.generation, kept.version)) == (promised, held), "durable before it is answered"

        await step(accept(cluster, 1, 1), True, 1, (1, 1))
        await step(accept(cluster, 1, 2), True, 1, (1, 2))
        await step(accept(cluster, 1, 1), False, 1, (1, 2))  # older than what is held
        await step(accept(cluster, 1, 2), True, 1, (1, 2))  # the same again
        await step(f.PrepareState(1), False, 1, (1, 2))  # a generation is promised once
        await step(f.PrepareState(3), True, 3, (1, 2))
        await step(f.PrepareState(2), False, 3, (1, 2))
        await step(accept(cluster, 2, 9), False, 3, (1, 2))  # a former supervisor
        await step(accept(cluster, 3, 2), True, 3, (3, 2))
        await step(accept(cluster, 4, 3), True, 4, (4, 3))  # a later one that this node did not promise
        await step(accept(cluster, 3, 9), False, 4, (4, 3))
        await step(f.PrepareState(5), True, 5, (4, 3))

    world.run(story())


def test_a_promise_brings_the_state_along(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        kept = accept(cluster, 1, 1)
        await cluster.ask("n1", kept)
        assert (await cluster.ask("n1", f.PrepareState(2))).state == kept.state
        assert (await cluster.ask("n1", f.PrepareState(2))).state == kept.state

    world.run(story())


def test_a_state_that_cannot_be_read_is_not_kept(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        answer = await cluster.ask("n1", f.AcceptState(1, 1, b"nonsense"))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "corrupt"
        assert (await cluster.ask("n1", f.ReadState())).state is None
        assert await cluster.ask("n1", f.Ping()) == f.Pong()

    world.run(story())


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_register_is_a_paxos_acceptor(world: ModuleType, data: st.DataObject) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        promised, held = 0, (0, 0)
        for _ in range(data.draw(st.integers(1, 12))):
            generation = data.draw(st.integers(1, 5))
            if data.draw(st.booleans()):
                answer = await cluster.ask("n1", f.PrepareState(generation))
                assert answer.granted == (generation > promised)
                promised = max(promised, generation)
            else:
                version = data.draw(st.integers(1, 4))
                answer = await cluster.ask("n1", accept(cluster, generation, version))
                fine = generation >= promised and (generation, version) >= held
                assert answer.granted == fine
                if fine:
                    promised, held = generation, (generation, version)
            assert answer.promised == promised
            assert (answer.generation, answer.version) == held

    world.run(story())


def test_one_ballot_has_one_state(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        state = cluster.state
        other = msgspec.structs.replace(state.without_bucket("default"), version=state.version + 5)
        first = msgspec.structs.replace(state, version=other.version)
        assert (await cluster.ask("n1", f.AcceptState(1, first.version, encode_state(first)))).granted
        assert (await cluster.ask("n1", f.AcceptState(1, first.version, encode_state(first)))).granted, "repeated"
        refused = await cluster.ask("n1", f.AcceptState(1, other.version, encode_state(other)))
        assert not refused.granted
        assert refused.state == encode_state(first)

    world.run(story())


def test_a_node_that_lost_its_directory_has_no_vote_until_a_later_decision_names_its_life(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        assert (await cluster.ask("n1", f.ReadState())).voter
        cluster.kill("n1")
        cluster.disks["n1"] = world.SimDisk()
        cluster.revive("n1")
        assert not (await cluster.ask("n1", f.ReadState())).voter
        accept = f.AcceptState(1, cluster.state.version, encode_state(cluster.state))
        answer = await cluster.ask("n1", accept)
        assert not answer.voter
        assert answer.state is None
        assert not (await cluster.ask("n1", f.PrepareState(7))).voter
        decided = msgspec.structs.replace(accept, generation=7, decided=True)
        answer = await cluster.ask("n1", decided)
        assert not answer.voter  # it may have been decided before the vote was lost
        await cluster.ask("n1", msgspec.structs.replace(decided, directory_ids=[answer.directory_id + 1]))
        assert not (await cluster.ask("n1", f.ReadState())).voter
        assert (await cluster.ask("n1", msgspec.structs.replace(decided, directory_ids=[answer.directory_id]))).voter
        cluster.kill("n1")
        cluster.revive("n1")
        assert (await cluster.ask("n1", f.ReadState())).voter

    world.run(story())


def test_a_directory_whose_loss_could_not_be_recorded_gets_no_vote_by_its_former_id(world: ModuleType) -> None:
    """P5: what it accepts by that id goes with it, and it would be a voter that has forgotten what it promised."""

    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        await cluster.ask("n1", accept(cluster, 1, 1))
        node = cluster.node("n1")
        former = node._replica.directory_id
        cluster.disks["n1"].fail("create", "identity", error=errno.ENOSPC, lasting=True)
        with pytest.raises(DiskFull):
            node._replica.mark_incomplete()
        listed = msgspec.structs.replace(accept(cluster, 5, 1), decided=True, directory_ids=[former])
        assert isinstance(await cluster.ask("n1", listed), f.NodeRefused), "it cannot be recorded yet"
        cluster.disks["n1"].stop_failing()
        answer = await cluster.ask("n1", listed)
        assert not answer.voter
        assert answer.directory_id != former
        again = msgspec.structs.replace(listed, directory_ids=[answer.directory_id])
        assert (await cluster.ask("n1", again)).voter
        cluster.kill("n1", "drop")
        cluster.revive("n1")
        kept = await cluster.ask("n1", f.ReadState())
        assert (kept.voter, kept.promised, kept.generation) == (True, 5, 5)

    world.run(story())

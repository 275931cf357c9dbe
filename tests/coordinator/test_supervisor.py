"""How a coordinator asks the supervisor: what may be asked twice is, where nothing is heard."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from raykv.cluster.background import Background
from raykv.coordinator.supervisor import ASK_AGAIN_S, Supervisor
from raykv.errors import RaykvError, StoreUnavailable, WriteOutcomeUnknown
from raykv.ports import PeerAbsent, PeerDead, PeerFailure, PeerSilent, PeerUnreachable
from raykv.protocol import frames as f
from raykv.protocol.requests import SUPERVISOR

if TYPE_CHECKING:
    from types import ModuleType

OPEN, STATUS, DROP = f.OpenBucket("b", {}, 60.0), f.GetInfo("status", 60.0), f.DropBucket("b", 60.0)


class Line:
    """The way to a supervisor. ``plan``: for each call when it ends, and with what; "lost": not before its time-out."""

    def __init__(self, world: ModuleType, *plan: tuple[float, int | PeerFailure] | str) -> None:
        self.clock = world.Clock()
        self.plan = list(plan)
        self.asked_s: list[float] = []
        self.ended = 0
        self.tasks = Background()
        self.supervisor = Supervisor(self, self.clock, self.tasks)

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        assert peer == "supervisor"
        self.asked_s.append(round(self.clock.monotonic_s(), 3))
        step = self.plan.pop(0)
        try:
            if isinstance(step, str) or step[0] > timeout_s:
                await asyncio.sleep(timeout_s)
                raise PeerSilent("no answer in time")
            after_s, what = step
            await asyncio.sleep(after_s)
            if isinstance(what, PeerFailure):
                raise what
            return f.supervisor_answers.encode(f.Info(what))
        finally:
            self.ended += 1

    async def ask(
        self, request: f.SupervisorRequest = STATUS, timeout_s: float = 60.0
    ) -> tuple[object, float, list[float]]:
        """Return the answer or the error, how long it took, and when each question was sent, from the first one on."""
        began_s = round(self.clock.monotonic_s(), 3)
        try:
            answer = await self.supervisor.ask(request, timeout_s)
            assert isinstance(answer, f.Info)
            found = answer.data
        except RaykvError as error:
            found = str(error)
        for _ in range(2):  # what is cancelled ends, and is then let go of
            await asyncio.sleep(0)
        assert not self.tasks
        assert self.ended == len(self.asked_s), "what lost the race is called off"
        took_s = round(self.clock.monotonic_s() - began_s, 3)
        return found, took_s, [round(at_s - began_s, 3) for at_s in self.asked_s]


@pytest.mark.parametrize("request_", [OPEN, STATUS, f.GetClusterUpdate()])
def test_a_lost_message_costs_a_second_and_not_the_time_out(world: ModuleType, request_: f.SupervisorRequest) -> None:
    async def story() -> None:
        assert await Line(world, "lost", (0.1, 7)).ask(request_) == (7, ASK_AGAIN_S + 0.1, [0, ASK_AGAIN_S])

    world.run(story())


def test_a_slow_supervisor_is_waited_for_and_asked_ever_less_often(world: ModuleType) -> None:
    async def story() -> None:
        late = (100.0, 8)
        assert await Line(world, (20.0, 7), late, late, late, late).ask() == (7, 20.0, [0, 1, 3, 7, 15])

    world.run(story())


def test_what_may_not_be_asked_twice_is_not(world: ModuleType) -> None:
    async def story() -> None:
        answer, took_s, asked_s = await Line(world, "lost").ask(DROP)
        assert "no answer in time" in str(answer)
        assert (took_s, asked_s) == (60.0, [0])

    world.run(story())


CHANGES = [
    DROP, f.AddNode(0.0, "", "", 60.0), f.RemoveNode("n1", 60.0), f.ReplaceNode("n1", "", 60.0),
    f.RestartNode("n1", 1, False, 60.0), f.SetWeight("n1", 2.0, 60.0), f.Rebalance("pause", 60.0),
    f.Autoscale(None, False, False, 60.0),
]  # fmt: skip


@pytest.mark.parametrize("request_", CHANGES, ids=lambda request: type(request).__name__)
def test_a_lost_answer_to_a_change_leaves_its_outcome_unknown(world: ModuleType, request_: f.SupervisorRequest) -> None:
    async def story() -> None:
        for plan in ("lost", (0.1, PeerDead("it has ended")), (0.1, PeerUnreachable("cut off"))):
            with pytest.raises(WriteOutcomeUnknown, match=r"may have been carried out; check status\(\) before"):
                await Line(world, plan).supervisor.ask(request_, 60.0)
        with pytest.raises(StoreUnavailable, match="the supervisor does not answer: none runs"):
            await Line(world, (0.1, PeerAbsent("none runs"))).supervisor.ask(request_, 60.0)

    world.run(story())


def test_every_request_that_may_not_be_asked_twice_is_among_these_changes() -> None:
    assert {type(each) for each in CHANGES} == {kind for kind, traits in SUPERVISOR.items() if not traits.repeatable}


@pytest.mark.parametrize("request_", [OPEN, STATUS, f.GetClusterUpdate()])
def test_a_question_that_nobody_answers_may_be_asked_again(world: ModuleType, request_: f.SupervisorRequest) -> None:
    async def story() -> None:
        with pytest.raises(StoreUnavailable, match="the supervisor does not answer: no answer in time"):
            await Line(world, *["lost"] * 4).supervisor.ask(request_, 5.0)

    world.run(story())


def test_silence_ends_with_the_time_that_was_given(world: ModuleType) -> None:
    async def story() -> None:
        answer, took_s, asked_s = await Line(world, *["lost"] * 4).ask(timeout_s=5.0)
        assert "no answer in time" in str(answer)
        assert (took_s, asked_s) == (5.0, [0, 1, 3])

    world.run(story())


def test_an_end_is_asked_past_once_and_then_told(world: ModuleType) -> None:
    async def story() -> None:
        dead = PeerDead("it has ended")
        assert await Line(world, (0.1, dead), (0.1, 7)).ask() == (7, 0.2, [0, 0.1])
        answer, took_s, _ = await Line(world, (0.1, dead), (0.0, PeerAbsent("none runs"))).ask()
        assert (answer, took_s) == ("the supervisor does not answer: none runs", 0.1)

    world.run(story())


def test_an_end_of_the_one_that_was_frozen_ends_no_question_to_its_successor(world: ModuleType) -> None:
    async def story() -> None:
        line = Line(world, (1.5, PeerDead("it has ended")), (2.0, 7))
        assert await line.ask() == (7, 3.0, [0, 1])

    world.run(story())


def test_a_bucket_is_opened_though_a_message_to_the_supervisor_is_lost(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        peer = cluster.coordinator()
        await peer.ask(f.GetInfo("ring", 5.0))
        heard = []

        async def supervise(frame: bytes) -> bytes:
            request = f.supervisor_requests.decode(frame)
            if isinstance(request, f.OpenBucket):
                heard.append(request)
                if len(heard) == 1:
                    await asyncio.sleep(1000.0)
                return f.supervisor_answers.encode(f.BucketOpened(1, {"name": "b"}))
            return f.supervisor_answers.encode(cluster.cluster_update())

        cluster.answer_as("supervisor", supervise)
        began_s = cluster.clock.monotonic_s()
        answer = await peer.ask(OPEN)
        assert isinstance(answer, f.BucketOpened)
        assert cluster.clock.monotonic_s() - began_s < 2 * ASK_AGAIN_S
        assert heard == [OPEN, OPEN]

    world.run(story())

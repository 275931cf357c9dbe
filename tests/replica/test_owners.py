"""How a leader asks the owners, itself among them (L14)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from led_nodes import Leaders, run

from raykv.protocol import frames as f
from raykv.records.linear_record import pack_term
from raykv.replica import owners
from raykv.storage import EngineFailed

ASKED = f.Promise(5, 3, pack_term(3, 7), "n1")


def asker(cluster: Leaders) -> owners.Owners:
    found: owners.Owners = cluster.node("n1")._leaders._owners
    return found


def test_all_are_asked_and_what_is_enough_ends_it() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        cluster.wire.hold(target="n3")
        answers: dict[str, Any] = {}
        await asker(cluster).ask(
            dict.fromkeys(cluster.ids, ASKED), answers.__setitem__, lambda: len(answers) == 2, cluster.state.epoch
        )
        assert {node_id: answer.granted for node_id, answer in answers.items()} == {"n1": True, "n2": True}

    run(story())


def test_an_answer_that_comes_later_is_taken_too() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        late = cluster.wire.hold(target="n3")
        answers: dict[str, Any] = {}
        await asker(cluster).ask(
            dict.fromkeys(cluster.ids, ASKED), answers.__setitem__, lambda: len(answers) == 2, cluster.state.epoch
        )
        late.release()
        await asyncio.sleep(0.1)
        assert len(answers) == 3

    run(story())


def test_where_it_is_never_enough_all_have_answered_or_failed() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        cluster.kill("n3")
        answers: dict[str, Any] = {}
        await asker(cluster).ask(
            dict.fromkeys(cluster.ids, ASKED), answers.__setitem__, lambda: False, cluster.state.epoch
        )
        assert answers.keys() == {"n1", "n2"}

    run(story())


def test_its_own_answer_is_durable_like_any() -> None:
    async def story() -> None:
        cluster = Leaders().start()
        answer = await asker(cluster).ask_one("n1", ASKED, 1, cluster.state.epoch)
        assert answer.granted
        cluster.kill("n1", "drop")
        cluster.start_node("n1")
        assert cluster.replica("n1").promises.of(5, 3).leader == "n1"

    run(story())


def test_a_failed_disk_is_no_answer() -> None:
    async def story() -> None:
        cluster = Leaders().start()

        async def failed(_: int) -> None:
            raise EngineFailed("the disk")

        asker(cluster)._durable = failed
        assert await asker(cluster).ask_one("n1", ASKED, 1, cluster.state.epoch) is None
        assert await asker(cluster).accept_here(f.Accept(3, "n1", 0, [(5, pack_term(4, 7), [])])) is None

    run(story())


@pytest.mark.parametrize("late", [False, True])
def test_a_node_that_did_not_answer_a_ping_is_taken_for_gone_for_a_second(late: bool) -> None:
    async def story() -> None:
        cluster = Leaders().start()
        cluster.freeze("n2")
        assert not await asker(cluster).is_alive("n2")
        cluster.thaw(cluster.process("n2"))
        await asyncio.sleep(owners.SILENT_S if late else owners.SILENT_S / 2)
        assert await asker(cluster).is_alive("n2") == late
        assert len(cluster.wire.of(f.Ping)) == 1 + late

    run(story())


def test_a_suspected_node_has_less_time_for_a_ping() -> None:
    """What has ended is noticed by the break of its connection; a call of what starts in its place waits for that."""

    async def story() -> None:
        cluster = Leaders().start()
        cluster.freeze("n2")
        await asker(cluster).ask_one("n2", ASKED, 1, cluster.state.epoch, 0.5)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert not await asker(cluster).is_alive("n2")
        assert loop.time() - began_s == pytest.approx(owners.SUSPECTED_PING_S)

    run(story())


def test_a_disk_that_is_full_when_an_answer_brings_a_later_state_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """*Schedule without: the leader's round has no end, and its partition no round any more.*"""

    async def story() -> None:
        cluster = Leaders().start()
        leader = asker(cluster)

        async def full(*_: Any) -> Any:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(leader._peers, "call", full)
        assert await leader.ask_one("n2", ASKED, 1, cluster.state.epoch) is None
        assert not await leader.is_alive("n2")

    run(story())

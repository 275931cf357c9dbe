"""Hints on their way: collected, given to the first holder that has room."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from raykv.cluster.background import Background
from raykv.coordinator import hint_sender as module
from raykv.coordinator.hint_sender import COLLECT_S, HintSender
from raykv.ports import PeerSilent
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from types import ModuleType


class Peers:
    """Nodes with scripted answers."""

    def __init__(self, said: dict[str, object]) -> None:
        self.said = said
        self.asked: list[tuple[str, f.Hint]] = []

    async def call(self, node_id: str, body: f.Hint, items: int, timeout_s: float) -> object:
        assert items == len(body.items)
        assert timeout_s > 0
        self.asked.append((node_id, body))
        said = self.said.get(node_id)
        if said is None:
            return f.WriteDone([0] * len(body.items))
        if isinstance(said, Exception):
            raise said
        return said


def deliver(world: ModuleType, peers: Peers, *hints: tuple[tuple[str, ...], int, str]) -> Counter[str]:
    """Give hints to a courier: (holders, bucket, key); n1 and n2 are primaries. Return what it counted."""
    metrics = world.Metrics()

    async def story() -> None:
        tasks = Background()
        carrying = HintSender(peers, world.Clock(), metrics, tasks)  # type: ignore[arg-type]
        for number, (holders, bucket_id, key) in enumerate(hints):
            carrying.take(holders, ("n1", "n2"), bucket_id, (key.encode(), b"record", ["n9"]), 100 + number)
        await asyncio.sleep(COLLECT_S / 2)
        assert peers.asked == [], "they are collected for a moment"
        await asyncio.sleep(COLLECT_S)
        assert not tasks

    world.run(story())
    return Counter(metrics)


def test_hints_for_one_holder_travel_together(world: ModuleType) -> None:
    peers = Peers({})
    counted = deliver(world, peers, (("n1",), 1, "a"), (("n1",), 1, "b"), (("n1",), 2, "c"), (("n2",), 1, "d"))
    assert [(node_id, body.bucket_id, len(body.items)) for node_id, body in peers.asked] == [
        ("n1", 1, 2), ("n1", 2, 1), ("n2", 1, 1),
    ]  # fmt: skip
    assert peers.asked[0][1].made_ms == 100, "as old as the oldest"
    assert counted["hints"] == 4


def test_a_primary_is_not_sent_what_it_holds_and_a_fallback_is(world: ModuleType) -> None:
    peers = Peers({"n1": PeerSilent("away")})
    deliver(world, peers, (("n1", "n5"), 1, "a"))
    assert [(node_id, body.items) for node_id, body in peers.asked] == [
        ("n1", [(b"a", b"", ["n9"])]),
        ("n5", [(b"a", b"record", ["n9"])]),
    ]


def test_what_a_holder_has_no_room_for_goes_to_the_next(world: ModuleType) -> None:
    peers = Peers({"n1": f.WriteDone([0, f.FULL]), "n2": f.WriteDone([f.NO_ROOM])})
    counted = deliver(world, peers, (("n1", "n2"), 1, "a"), (("n1", "n2"), 1, "b"))
    assert [(node_id, [key for key, _, _ in body.items]) for node_id, body in peers.asked] == [
        ("n1", [b"a", b"b"]), ("n2", [b"b"]),
    ]  # fmt: skip
    assert counted["hints"] == 1


@pytest.mark.parametrize("said", [f.WriteDone([]), f.Pong(), f.NodeRefused("old", "")])
def test_an_answer_that_does_not_fit_is_none(world: ModuleType, said: object) -> None:
    peers = Peers({"n1": said})
    assert deliver(world, peers, (("n1", "n2"), 1, "a"))["hints"] == 1
    assert [node_id for node_id, _ in peers.asked] == ["n1", "n2"]


def test_there_is_a_bound_on_what_waits(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    peers = Peers({})
    counted = deliver(world, peers, *[(("n1",), 1, key) for key in "abcd"])
    assert (counted["hints"], counted["hints_let_go"]) == (2, 2)


def test_there_is_a_bound_on_a_message(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 3)
    peers = Peers({})
    deliver(world, peers, *[(("n1",), 1, str(number)) for number in range(7)])
    assert [len(body.items) for _, body in peers.asked] == [3, 3, 1]

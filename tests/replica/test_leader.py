"""Leaders: each rule with the schedule that breaks a store without it (L1, L4 to L7, L9 to L12, L14)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from led_nodes import BUCKET, WALL_MS, Caller, Leaders, cell, run

from raykv.cluster import moves
from raykv.cluster.state import Move
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.linear_record import MAX_RECEIPTS, pack_term, term_number

KEY = "k"


def value_of(settled: f.Settled) -> bytes | None:
    assert settled.status == c.DONE, settled
    return settled.payload


# ---- a term is bound to the sets that promised it (L9) ----


async def pull(cluster: Leaders, node_id: str, key: str = KEY) -> None:
    """Have a new owner take the partition over."""
    answer = await cluster.ask(node_id, f.PullPartition(cluster.partition(key), 60.0))
    assert isinstance(answer, f.Repaired), answer


def test_who_slept_through_a_move_does_not_go_on_where_it_was() -> None:
    """B, superseded by C among the old owners, sleeps through the whole move. The new owners have not voted for C."""

    async def story() -> None:
        cluster = Leaders(5).start()
        sleeper, other, third = cluster.owners(KEY)
        new = (sleeper, *(node_id for node_id in cluster.ids if node_id not in cluster.owners(KEY)))
        caller = Caller()
        assert (await cluster.one(sleeper, caller.put(KEY, "before"))).status == c.DONE
        former = cluster.process(sleeper)
        cluster.freeze(sleeper)
        assert (await cluster.one(other, caller.put(KEY, "after"), silent=[sleeper])).status == c.DONE
        awake = [node_id for node_id in cluster.ids if node_id != sleeper]
        for state in (moves.begun(cluster.state, (Move(cluster.partition(KEY), new),)), None, None):
            cluster.state = state or (
                moves.ended(cluster.state) if cluster.state.moves[0].reads_new else moves.reading_new(cluster.state)
            )
            cluster.tell(*awake)
            if state is not None:
                for node_id in new[1:]:
                    await pull(cluster, node_id)
        cluster.thaw(former)
        cluster.tell(sleeper)
        read = await cluster.one(sleeper, caller.read(KEY))
        assert read.payload in {None, b"after"}, "what C has written is passed over"
        assert read.payload == b"after" or read.status in {c.ELSEWHERE, c.NO_QUORUM}

    run(story())

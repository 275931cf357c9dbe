"""Writes that nobody waits for any more: those after them wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from raykv.coordinator.abandoned import Abandoned, written
from raykv.errors import StoreUnavailable
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body

if TYPE_CHECKING:
    from types import ModuleType

A, B, C = (encode_key(name) for name in "abc")


def write(*keys: bytes, bucket_id: int = 1) -> f.WriteMany:
    return f.WriteMany(bucket_id, [(key, pack_body(bytes(16), b"v"), None) for key in keys], 3, 5.0)


def change(*keys: bytes) -> f.ChangeMany:
    return f.ChangeMany(1, [f.Change(key, f.PUT, b"1", bytes(8), 1) for key in keys], 5.0)


def test_a_later_write_waits_for_each_former_one_of_its_keys() -> None:
    async def story() -> None:
        abandoned, loop = Abandoned(), asyncio.get_running_loop()
        over_one, over_other = abandoned.add(write(A, B), loop), abandoned.add(change(B), loop)
        assert len(abandoned.before(write(A))) == len(abandoned.before(change(A))) == 1
        assert len(abandoned.before(write(A, B, B, C))) == 2
        assert abandoned.before(write(C)) == abandoned.before(write(A, bucket_id=2)) == []
        assert abandoned.before(f.GetMany(1, [A], 2, 5.0)) == []
        ends = abandoned.before(write(B))
        over_one()
        over_one()
        assert [end.done() for end in ends] == [True, False]
        assert abandoned.before(write(A)) == []
        over_other()
        assert not abandoned

    asyncio.run(story())


@pytest.mark.parametrize("keys", [(A,), (A, B)], ids=["one key", "many keys"])
@pytest.mark.parametrize("versioning", ["lww", "vector"])
def test_a_write_after_one_that_was_given_up_stands(
    world: ModuleType, keys: tuple[bytes, ...], versioning: str
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning=versioning).start()
        service = cluster.coordinator().front
        former = f.WriteMany(1, [(key, body(1), None) for key in keys], 2, 5.0)
        await service.answer_together(f.WriteMany(1, [(A, body(0), None)], 2, 5.0))
        for node_id in ("n1", "n2", "n3"):
            cluster.network.slow[f"node/{node_id}"] = 0.2
        given_up = asyncio.ensure_future(service.answer_together(former))
        await asyncio.sleep(0.15)  # on the quorum path by now, with all that it has sent on its way
        given_up.cancel()
        await asyncio.sleep(0)
        cluster.network.slow.clear()
        await service.answer_together(f.WriteMany(1, [(A, body(2), None)], 2, 5.0))
        await asyncio.sleep(2.0)
        got = await service.answer_together(f.GetMany(1, [A], 2, 5.0))
        assert shown(got.items[0]) == [b"2"]

    world.run(story())


def test_a_write_waits_no_longer_than_its_own_time(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3).start()
        service = cluster.coordinator().front
        await service.answer_together(f.WriteMany(1, [(A, body(0), None)], 2, 5.0))
        for node_id in ("n1", "n2", "n3"):
            cluster.network.slow[f"node/{node_id}"] = 100.0
        given_up = asyncio.ensure_future(service.answer_together(f.WriteMany(1, [(A, body(1), None)], 2, 5.0)))
        await asyncio.sleep(0.15)
        given_up.cancel()
        await asyncio.sleep(0)
        began_s = asyncio.get_running_loop().time()
        answer = await service.answer_together(f.WriteMany(1, [(A, body(2), None)], 2, 1.0))
        assert 0.9 < asyncio.get_running_loop().time() - began_s < 1.1
        with pytest.raises(StoreUnavailable, match="nothing was written: a former write of the key that was given up"):
            raise answer.failed.error()

    world.run(story())


def body(number: int) -> bytes:
    return pack_body(bytes([number]) * 16, b"%d" % number)


def shown(item: Any) -> list[bytes]:
    return [item] if isinstance(item, bytes) else list(item.payloads)


def test_what_a_client_writes_is_a_trait_and_looked_for_in_what_is_explained() -> None:
    write = f.WriteMany(3, [(A, b"body", None), (B, b"body", None)], 2, 5.0)
    change = f.ChangeMany(4, [f.Change(A, 1), f.Change(A, 2)], 5.0)
    assert written(write) == [(3, A), (3, B)]
    assert written(change) == [(4, A)]
    assert written(f.ExplainOperation(f.coordinator_requests.encode(write), 5.0)) == [(3, A), (3, B)]
    assert written(f.ExplainOperation(b"no frame", 5.0)) == []
    nested = f.coordinator_requests.encode(f.ExplainOperation(f.coordinator_requests.encode(write), 5.0))
    assert written(f.ExplainOperation(nested, 5.0)) == []
    assert written(f.GetMany(3, [A], 2, 5.0)) == []

"""Combined updates: each sees what it replaces and counts once, and whatever ends one of them takes no other along."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import raykv.sim
from raykv.client import combining
from raykv.errors import Conflict, PairTooLarge, RaykvError, StoreUnavailable, WriteOutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

TASKS = 12


class Many:
    """A linearizable bucket, and tasks of one program that update it."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.blocking = world.store.bucket("jobs", versioning="linearizable", timeout=60)
        self.bucket = self.blocking.aio
        self.writes: list[Any] = []
        operations = self.bucket._operations
        replace = operations.replace

        def counted(key: Any, applied: Any, timeout_s: float) -> Any:
            self.writes.append(applied)
            return replace(key, applied, timeout_s)

        operations.replace = counted

    def updates(self, *changes: Callable[[Any], Any], **options: Any) -> list[Any]:
        """Update one key at the same time; return what came of each, its error too."""

        async def work() -> list[Any]:
            tasks = [self.bucket.update("k", change, **options) for change in changes]
            return await asyncio.gather(*tasks, return_exceptions=True)

        found: list[Any] = self.world.run(work())
        return found

    @property
    def left(self) -> int:
        """What is left of updates that are over."""
        updates = self.bucket._session.updates
        return len(updates._lines) + len(updates._tasks)


@pytest.fixture
def many() -> Iterator[Many]:
    with raykv.sim.start(seed=4) as world:
        many = Many(world)
        yield many
        assert many.left == 0


def plus_one(count: Any) -> Any:
    return (count or 0) + 1


def test_tasks_that_update_one_key_share_their_writes(many: Many) -> None:
    async def client() -> list[int]:
        return [await many.bucket.update("k", plus_one) for _ in range(10)]

    async def work() -> list[list[int]]:
        return await asyncio.gather(*(client() for _ in range(TASKS)))

    found = many.world.run(work())
    assert sorted(itertools.chain(*found)) == [*range(1, 10 * TASKS + 1)], "each has replaced another one's value"
    assert all(sorted(each) == each for each in found)
    assert len(many.writes) < 10 * TASKS / 3
    assert many.blocking.get("k") == 10 * TASKS


def test_an_update_that_is_alone_is_a_batch_of_nobody(many: Many) -> None:
    assert many.updates(plus_one) == [1]
    assert not isinstance(many.writes[0], combining._Batch)


def test_other_keys_and_other_buckets_do_not_wait(many: Many) -> None:
    other = many.world.store.bucket("others", versioning="linearizable").aio

    async def work() -> list[Any]:
        return await asyncio.gather(
            many.bucket.update("k", plus_one), many.bucket.update("m", plus_one), other.update("k", plus_one)
        )

    assert many.world.run(work()) == [1, 1, 1]
    assert not any(isinstance(write, combining._Batch) for write in many.writes)


def test_what_each_returns_is_read_as_it_would_be_stored(many: Many) -> None:
    """The next one gets no object of the former one's, which either of them may change later."""

    def longer(name: str) -> Callable[[Any], Any]:
        def change(names: Any) -> Any:
            assert isinstance(names, list)
            names.append(name)
            return names

        return change

    found = many.updates(*map(longer, "abcd"), default=[])
    assert found == [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]]
    assert len(many.writes) == 2


def test_each_has_its_own_default(many: Many) -> None:
    """The first two write nothing, so the third one finds none either."""

    def own(default: int) -> Any:
        def change(value: Any) -> Any:
            if value < 2:
                raise KeyError(value)
            return [value]

        return many.bucket.update("k", change, default)

    async def work() -> list[Any]:
        return await asyncio.gather(*map(own, range(4)), return_exceptions=True)

    *failed, third, fourth = many.world.run(work())
    assert [error.args for error in failed] == [(0,), (1,)]
    assert third == [2]
    assert isinstance(fourth, TypeError), "it has found the third one's list"


def test_the_error_of_one_is_its_own(many: Many) -> None:
    error = KeyError("own")

    def fails(_: Any) -> Any:
        raise error

    found = many.updates(plus_one, plus_one, fails, plus_one)
    assert found[2] is error
    assert [found[0], found[1], found[3]] == [1, 2, 3]
    assert many.blocking.get("k") == 3


def test_where_all_fail_nothing_is_written(many: Many) -> None:
    many.blocking.put("k", 7)
    before = many.blocking.get_versioned("k")
    errors = [KeyError("first"), ValueError("second"), StopIteration("third")]

    def failing(error: Exception) -> Callable[[Any], Any]:
        def change(_: Any) -> Any:
            raise error

        return change

    found = many.updates(lambda value: value, *map(failing, errors))
    assert found[0] == 7
    assert found[1:3] == errors[:2]
    assert isinstance(found[3], RuntimeError), "as any StopIteration that leaves a coroutine"
    assert found[3].__cause__ is errors[2]
    assert many.blocking.get("k") == 7
    assert many.updates(*map(failing, errors[:2])) == errors[:2]
    assert many.blocking.get_versioned("k")[0] == before[0]


def test_one_that_is_too_large_hurts_no_other(many: Many) -> None:
    found = many.updates(plus_one, plus_one, lambda _: b"x" * 20_000, plus_one)
    assert isinstance(found[2], PairTooLarge)
    assert [found[0], found[1], found[3]] == [1, 2, 3]


def test_what_others_write_meanwhile_is_seen(many: Many) -> None:
    """A batch that came second is applied anew, and each of its members counts once."""
    other = many.world.connect().bucket("jobs").aio

    async def work() -> list[Any]:
        adding = [asyncio.create_task(other.add("k", 1000)) for _ in range(3)]
        found = await asyncio.gather(*(many.bucket.update("k", plus_one, 0) for _ in range(TASKS)))
        await asyncio.gather(*adding)
        return found

    found = many.world.run(work())
    assert sorted(each % 1000 for each in found) == [*range(1, TASKS + 1)]
    assert many.blocking.get("k") == 3000 + TASKS


@pytest.mark.parametrize("ended", [0, 1, 2])
def test_one_that_is_cancelled_takes_no_other_along(many: Many, ended: int) -> None:
    """The first one is alone, the others wait for it; later they are carried out together."""

    async def work(turns: int) -> list[Any]:
        tasks = [asyncio.create_task(many.bucket.update("k", plus_one)) for _ in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0.001)
        tasks[ended].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for turns in range(12):
        many.blocking.put("k", 0)
        found = many.world.run(work(turns))
        counts = [each for number, each in enumerate(found) if number != ended]
        assert all(isinstance(each, int) for each in counts)
        assert len({*counts}) == 3
        assert max(counts) <= many.blocking.get("k") <= 4
        assert isinstance(found[ended], int | asyncio.CancelledError)


def test_one_whose_time_is_over_while_it_waits_has_written_nothing(many: Many) -> None:
    async def work() -> list[Any]:
        many.world.freeze("n1", 3.0)
        many.world.freeze("n2", 3.0)
        tasks = [many.bucket.update("k", plus_one, timeout=20), many.bucket.update("k", plus_one, timeout=0.5)]
        return await asyncio.gather(*tasks, many.bucket.update("k", plus_one, timeout=20), return_exceptions=True)

    first, late, last = many.world.run(work())
    assert (first, last) == (1, 2)
    assert isinstance(late, Conflict)
    assert "'k' was changed by others for all of the 0.5 s" in str(late)


def test_one_whose_time_is_over_while_its_write_is_under_way_does_not_know(many: Many) -> None:
    def freezing(count: Any) -> Any:
        if count == 1:
            many.world.freeze("n1", 3.0)
            many.world.freeze("n2", 3.0)
        return plus_one(count)

    async def work() -> list[Any]:
        changes = [(plus_one, 20), (freezing, 1), (plus_one, 20)]
        tasks = [many.bucket.update("k", change, timeout=timeout) for change, timeout in changes]
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, late, last = many.world.run(work())
    assert isinstance(late, WriteOutcomeUnknown)
    assert (first, last) == (1, 3)
    assert many.blocking.get("k") == 3, "it stands, as it may"


def test_a_batch_that_fails_tells_each_of_its_members(many: Many) -> None:
    async def work() -> list[Any]:
        for node_id in ("n1", "n2"):
            many.world.freeze(node_id, 30.0)
        tasks = [many.bucket.update("k", plus_one, timeout=each) for each in (0.5, 3, 3, 3)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = many.world.run(work())
    assert all(isinstance(each, RaykvError) for each in found)
    assert len({id(each) for each in found}) == 4, "each has one of its own"


def test_one_that_was_not_sent_knows_that_it_has_written_nothing(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody knows what became of what was sent."""
    usual = many.bucket._operations.replace

    def lost(key: Any, applied: Any, timeout_s: float) -> Any:
        if not isinstance(applied, combining._Batch):
            return (yield from usual(key, applied, timeout_s))
        applied(None)
        raise WriteOutcomeUnknown("lost on the way", acks=[])

    def fails(_: Any) -> Any:
        raise KeyError("own")

    monkeypatch.setattr(many.bucket._operations, "replace", lost)
    first, *sent, failed = many.updates(plus_one, plus_one, plus_one, fails)
    assert first == 1
    assert [type(error) for error in sent] == [WriteOutcomeUnknown] * 2
    assert sent[0] is not sent[1], "each has one of its own"
    assert isinstance(failed, StoreUnavailable)
    assert "nothing was written" in str(failed)


def test_who_has_left_or_is_late_is_not_applied() -> None:
    async def work() -> None:
        calls: list[bytes | None] = []

        def apply(payload: bytes | None) -> tuple[int, bytes]:
            calls.append(payload)
            if len(calls) == 1:
                raise KeyError("at first")
            return len(calls), b"new"

        member = combining.Member(apply, until_s=5.0)
        assert member.applied(b"old", 1.0) == b"old"
        assert isinstance(member.error, KeyError)
        assert not member.is_sent
        assert member.applied(b"old", 2.0) == b"new"
        assert member.is_sent
        assert member.error is None, "of a value that never was"
        assert member.applied(b"old", 5.0) == b"old"
        assert not member.is_sent, "what was sent before was refused"
        member.future.cancel()
        assert member.applied(b"old", 3.0) == b"old"
        assert calls == [b"old"] * 2

    asyncio.run(work())


def test_an_outcome_that_comes_as_the_time_ends_counts(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    class Over(contextlib.AbstractAsyncContextManager[None]):
        def __init__(self, _: float) -> None: ...

        async def __aexit__(self, *_: object) -> None:
            raise TimeoutError

    monkeypatch.setattr(combining, "asyncio", SimpleNamespace(**vars(asyncio) | {"timeout": Over}))
    assert many.updates(plus_one, plus_one, plus_one) == [1, 2, 3]


def test_a_change_is_called_in_its_callers_context(many: Many) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")

    async def client(name: str) -> list[str]:
        who.set(name)
        found: list[str] = await many.bucket.update("k", lambda names: [*names, who.get()], [])
        return found

    async def work() -> list[list[str]]:
        return await asyncio.gather(*map(client, "abc"))

    assert many.world.run(work()) == [["a"], ["a", "b"], ["a", "b", "c"]]


def test_more_than_a_batch_takes_are_carried_out_in_several(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combining, "MOST_MEMBERS", 3)
    assert many.updates(*[plus_one] * 11) == [*range(1, 12)]
    assert len(many.writes) == 1 + 4


def test_a_loop_that_is_closed_amid_updates_leaves_nothing(store: Any, recwarn: pytest.WarningsRecorder) -> None:
    """As ``asyncio.run`` that is interrupted: nothing is begun anew in a loop that has ended."""
    del recwarn
    updates = combining.Updates()

    async def never() -> Any:
        await asyncio.get_running_loop().create_future()

    class Session:
        def run_async(self, _: Any) -> Awaitable[Any]:
            return never()

    operations = store.bucket("jobs", versioning="linearizable")._operations
    loop = asyncio.new_event_loop()
    works = [updates.update(Session(), operations, "k", plus_one, None, 5) for _ in range(3)]  # type: ignore[arg-type]
    tasks = [loop.create_task(work) for work in works]
    loop.run_until_complete(asyncio.sleep(0))
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    del tasks, task, works
    gc.collect()
    assert updates._lines == {}
    assert not updates._tasks


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_each_update_counts_once(seed: int, long: bool) -> None:
    """Programs with several tasks each, nodes and coordinators that fail, tasks that are cancelled."""
    for number in range(20 if long else 1):
        with raykv.sim.start(seed=seed + 100 * number, faults=True) as world:
            told, maybe = world.run(counted(world, random.Random(f"{seed} {number}")), timeout=3600)
            world.heal()
            world.sleep(10)
            stands = world.store.bucket("jobs").get("k", timeout=20) or 0
        assert len({*told}) == len(told), "two updates have replaced one value"
        assert max(told, default=0) <= stands
        assert len(told) <= stands <= len(told) + maybe


async def opened(store: Any) -> Any:
    while True:
        try:
            return await store.bucket("jobs", versioning="linearizable")
        except RaykvError:
            await asyncio.sleep(0.5)


async def counted(world: Any, rng: random.Random) -> tuple[list[int], int]:
    """Count up in several programs for a while; return what was told, and how many outcomes are unknown."""
    told: list[int] = []
    maybe = 0

    async def task(bucket: Any) -> None:
        nonlocal maybe
        for _ in range(20):
            work = asyncio.ensure_future(bucket.update("k", plus_one, timeout=rng.choice((0.05, 1.0, 5.0))))
            if rng.random() < 0.1:
                asyncio.get_running_loop().call_later(rng.uniform(0.0, 0.02), work.cancel)
            try:
                told.append(await work)
            except (WriteOutcomeUnknown, asyncio.CancelledError):
                maybe += 1
            except RaykvError:
                await asyncio.sleep(rng.uniform(0.0, 0.5))

    buckets = [await opened(await world.connect_aio()) for _ in range(2)]
    await asyncio.gather(*(task(bucket) for bucket in buckets for _ in range(4)))
    return told, maybe

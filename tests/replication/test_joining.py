"""Operations that begin in one turn of the loop leave together, and each gets its own part."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raykv.errors import CorruptData, StoreUnavailable
from raykv.records import frames as f
from raykv.replication.joining import (
    CROWDED_S,
    LATER,
    MOST_TOGETHER,
    MOST_UNDER_WAY,
    InTasks,
    Joining,
    Traffic,
    is_about_one_key,
)


class Clock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return 0

    async def sleep(self, delay_s: float) -> None:
        raise AssertionError("nobody waits on a timer")


CLOCK = Clock()


class Answers:
    """Answers requests and keeps them."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.error: Exception | None = None

    async def __call__(self, request: Any) -> Any:
        self.asked.append(request)
        await self.hold.wait()
        if self.error is not None:
            raise self.error
        if isinstance(request, f.GetMany):
            return f.GotMany([f.Found([b"of " + key]) for key in request.keys], 7)
        return f.WroteMany([f.Acked(body, ["n1"], b"") for _, body, _ in request.items], 9)


def get(key: bytes, **others: Any) -> f.GetMany:
    return f.GetMany(others.pop("bucket_id", 1), [key], others.pop("r", 2), others.pop("timeout_s", 5.0), **others)


def write(key: bytes, body: bytes, **others: Any) -> f.WriteMany:
    return f.WriteMany(1, [(key, body, None)], others.pop("w", 2), 5.0, **others)


def test_reads_of_one_turn_are_one_request_and_each_has_its_answer() -> None:
    async def story() -> None:
        answers = Answers()
        joining = Joining(InTasks(answers, set()), CLOCK)
        keys = [b"%d" % number for number in range(10)] + [b"3"]
        got = await asyncio.gather(*(joining.answer(get(key)) for key in keys))
        assert [request.keys for request in answers.asked] == [keys]
        assert got == [f.GotMany([f.Found([b"of " + key])], 7) for key in keys]
        assert await joining.answer(get(b"alone")) == f.GotMany([f.Found([b"of alone"])], 7)
        assert answers.asked[-1] == get(b"alone"), "who is alone goes as it is"
        await asyncio.sleep(0)
        assert not joining.busy

    asyncio.run(story())


def test_nobody_waits_for_those_who_come_later() -> None:
    async def story() -> None:
        answers = Answers()
        answers.hold.clear()
        joining = Joining(InTasks(answers, set()), CLOCK)
        first = asyncio.ensure_future(joining.answer(get(b"a")))
        await asyncio.sleep(0.001)
        second = asyncio.ensure_future(joining.answer(get(b"b")))
        await asyncio.sleep(0.001)
        assert [request.keys for request in answers.asked] == [[b"a"], [b"b"]]
        assert joining.busy
        answers.hold.set()
        await asyncio.gather(first, second)

    asyncio.run(story())


@pytest.mark.parametrize("other", [{"r": 1}, {"bucket_id": 2}, {"timeout_s": 1.0}, {"causality": True}])
def test_only_what_asks_for_the_same_goes_together(other: dict[str, Any]) -> None:
    async def story() -> None:
        answers = Answers()
        joining = Joining(InTasks(answers, set()), CLOCK)
        await asyncio.gather(joining.answer(get(b"a")), joining.answer(get(b"b", **other)))
        assert sorted(len(request.keys) for request in answers.asked) == [1, 1]

    asyncio.run(story())


def test_a_group_has_a_bound() -> None:
    async def story() -> None:
        answers = Answers()
        joining = Joining(InTasks(answers, set()), CLOCK)
        await asyncio.gather(*(joining.answer(get(b"%d" % number)) for number in range(MOST_TOGETHER + 5)))
        assert sorted(len(request.keys) for request in answers.asked) == [5, MOST_TOGETHER]

    asyncio.run(story())


def test_writes_go_together_under_the_strictest_of_their_terms() -> None:
    async def story() -> None:
        answers = Answers()
        joining = Joining(InTasks(answers, set()), CLOCK)
        wrote = await asyncio.gather(
            joining.answer(write(b"a", b"1", after=5, run=3, expires_s=20.0)),
            joining.answer(write(b"b", b"2", after=8, run=3, expires_s=19.0)),
            joining.answer(write(b"c", b"3", run=4, expires_s=30.0)),
        )
        joined, alone = sorted(answers.asked, key=lambda request: -len(request.items))
        assert joined == f.WriteMany(1, [(b"a", b"1", None), (b"b", b"2", None)], 2, 5.0, 8, 3, 19.0)
        assert alone.run == 4, "another run's clock"
        assert [answer.items[0].operation_id for answer in wrote] == [b"1", b"2", b"3"]

    asyncio.run(story())


def test_two_writes_of_one_key_are_two_in_the_order_in_which_they_came() -> None:
    async def story() -> None:
        answers = Answers()
        joining = Joining(InTasks(answers, set()), CLOCK)
        writes = [write(b"a", b"1"), write(b"b", b"2"), write(b"a", b"3"), write(b"c", b"4")]
        await asyncio.gather(*map(joining.answer, writes))
        assert [[body for _, body, _ in request.items] for request in answers.asked] == [[b"1", b"2"], [b"3", b"4"]]

    asyncio.run(story())


def test_an_error_of_the_group_is_everybodys() -> None:
    async def story() -> None:
        answers = Answers()
        answers.error = StoreUnavailable("away")
        joining = Joining(InTasks(answers, set()), CLOCK)
        got = await asyncio.gather(*(joining.answer(get(key)) for key in (b"a", b"b")), return_exceptions=True)
        assert got == [f.Refused(f.Failed.of(StoreUnavailable("away")))] * 2

        async def wrong(_: Any) -> Any:
            return f.Told(None)

        joining = Joining(InTasks(wrong, set()), CLOCK)
        got = await asyncio.gather(*(joining.answer(get(key)) for key in (b"a", b"b")), return_exceptions=True)
        assert [type(each.failed.error()) for each in got] == [CorruptData] * 2

    asyncio.run(story())


def test_who_gives_up_does_not_end_it_for_the_others() -> None:
    async def story() -> None:
        answers = Answers()
        answers.hold.clear()
        joining = Joining(InTasks(answers, set()), CLOCK)
        one, other = (asyncio.ensure_future(joining.answer(get(key))) for key in (b"a", b"b"))
        await asyncio.sleep(0.001)
        one.cancel()
        answers.hold.set()
        assert await other == f.GotMany([f.Found([b"of b"])], 7)
        with pytest.raises(asyncio.CancelledError):
            await one

    asyncio.run(story())


def test_while_many_are_under_way_those_who_come_wait_together() -> None:
    async def story() -> None:
        answers = Answers()
        answers.hold.clear()
        joining = Joining(InTasks(answers, set()), CLOCK)
        waiting = []
        for number in range(MOST_UNDER_WAY + 10):
            waiting.append(asyncio.ensure_future(joining.answer(get(b"%d" % number))))
            await asyncio.sleep(0.001)
        assert [len(request.keys) for request in answers.asked] == [1] * MOST_UNDER_WAY
        answers.hold.set()
        got = await asyncio.gather(*waiting)
        assert [len(request.keys) for request in answers.asked] == [1] * MOST_UNDER_WAY + [10]
        assert got[-1] == f.GotMany([f.Found([b"of %d" % (MOST_UNDER_WAY + 9)])], 7)
        await asyncio.sleep(0)
        assert not joining.busy

    asyncio.run(story())


def test_batches_and_other_requests_go_their_own_way() -> None:
    assert is_about_one_key(get(b"a"))
    assert is_about_one_key(write(b"a", b"1"))
    assert not is_about_one_key(f.GetMany(1, [b"a", b"b"], 2, 5.0))
    assert not is_about_one_key(f.GetMany(1, [], 2, 5.0))
    assert not is_about_one_key(f.Tell("ring", 5.0))


def test_no_more_go_together_than_one_request_may_be_of() -> None:
    async def story() -> None:
        answers = Answers()
        joining = Joining(InTasks(answers, set()), CLOCK, {1: 3, 2: 10_000}.__getitem__)
        await asyncio.gather(*(joining.answer(get(b"%d" % number)) for number in range(7)))
        assert [len(request.keys) for request in answers.asked] == [3, 3, 1]
        answers.asked.clear()
        await asyncio.gather(*(joining.answer(write(b"%d" % number, b"x")) for number in range(4)))
        assert [len(request.items) for request in answers.asked] == [3, 1]
        answers.asked.clear()
        await asyncio.gather(*(joining.answer(get(b"%d" % number, bucket_id=2)) for number in range(MOST_TOGETHER + 1)))
        assert [len(request.keys) for request in answers.asked] == [MOST_TOGETHER, 1]

    asyncio.run(story())


def test_a_mistake_of_ours_leaves_nobody_waiting() -> None:
    async def story() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        answers = Answers()
        answers.error = ZeroDivisionError()
        joining = Joining(InTasks(answers, set()), CLOCK)
        async with asyncio.timeout(1.0):
            outcomes = await asyncio.gather(*(joining.answer(get(key)) for key in (b"a", b"b")), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError] * 2

    asyncio.run(story())


def test_thousands_that_wait_and_end_at_once_are_all_answered() -> None:
    """Each ends where it begins; from there the next must not begin."""

    async def story() -> None:
        slow: list[Any] = []

        def begin(request: Any, done: Any) -> None:
            if len(slow) < MOST_UNDER_WAY:
                slow.append(done)
            else:
                done(StoreUnavailable("its clock is far ahead"))

        joining = Joining(begin, CLOCK)
        waiting = [joining.answer(write(b"a", b"%d" % number)) for number in range(5000)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(slow) == MOST_UNDER_WAY
        assert joining.busy
        for done in slow:
            done(f.WroteMany([f.Acked(b"", ["n1"], b"")], 9))
        async with asyncio.timeout(5.0):
            got = await asyncio.gather(*waiting)
        assert [type(each) for each in got].count(f.Refused) == 5000 - MOST_UNDER_WAY
        assert not joining.busy

    asyncio.run(story())


def test_what_cannot_begin_leaves_nobody_waiting_and_holds_nobody_up() -> None:
    async def story() -> None:
        def begin(request: Any, done: Any) -> None:
            if request.keys == [b"told twice"]:
                done(f.GotMany([f.Found([b"x"])], 7))
            raise ZeroDivisionError

        joining = Joining(begin, CLOCK)
        got = await asyncio.gather(
            *(joining.answer(get(b"%d" % number, r=1 + number % 2)) for number in range(4)), return_exceptions=True
        )
        assert [type(each) for each in got] == [ZeroDivisionError] * 4
        assert await joining.answer(get(b"told twice")) == f.GotMany([f.Found([b"x"])], 7)
        assert not joining.busy
        assert joining._reads.traffic.straight == joining._reads.traffic.later == 0

    asyncio.run(story())


def test_groups_that_take_several_times_longer_than_they_did_wait_in_line() -> None:
    traffic = Traffic()
    traffic.took(CROWDED_S / 10)
    for _ in range(30):
        traffic.took(CROWDED_S)
    traffic.straight = 1
    assert not traffic.crowded, "several times longer, and quick all the same"
    for _ in range(30):
        traffic.took(2 * CROWDED_S)
    assert traffic.crowded
    assert not traffic.lets_go(joinable=True)
    assert traffic.lets_go(joinable=False), "it would wait for nobody"
    traffic.straight = 0
    assert traffic.lets_go(joinable=True), "there is nobody to wait for"
    traffic.straight, traffic.later = 0, MOST_UNDER_WAY
    assert not traffic.lets_go(joinable=False)
    for _ in range(30):
        traffic.took(CROWDED_S / 10)
    traffic.straight, traffic.later = 3, 0
    assert traffic.lets_go(joinable=True)
    far = Traffic()
    for taken_s in [0.02, 0.03] * 30:  # another continent: it was never quicker
        far.took(taken_s)
    far.straight = 1
    assert far.lets_go(joinable=True)


class Flights:
    """Groups that are under way until the test says that they are back."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.flights: list[tuple[Any, Any]] = []
        self.interrupted = False
        self.joining = Joining(self.begin, self.clock)

    def begin(self, request: Any, done: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.flights.append((request, done))

    @property
    def asked(self) -> list[list[bytes]]:
        return [
            request.keys if isinstance(request, f.GetMany) else [body for _, body, _ in request.items]
            for request, _ in self.flights
        ]

    async def leave(self, *requests: Any) -> list[asyncio.Future[Any]]:
        made = [self.joining.answer(request) for request in requests]
        await self.turns()
        return made

    async def back(self, after_s: float = 2 * CROWDED_S, *, place: int = 0) -> None:
        request, done = self.flights.pop(place)
        self.clock.now_s += after_s
        if isinstance(request, f.GetMany):
            done(f.GotMany([f.Found([])] * len(request.keys)))
        else:
            done(f.WroteMany([f.Acked(body, ["n1"], b"") for _, body, _ in request.items]))
        await self.turns()

    async def crowd(self, *requests: Any) -> None:
        for request in requests:
            for after_s in [CROWDED_S / 10] + [2 * CROWDED_S] * 30:
                await self.leave(request)
                await self.back(after_s)

    @staticmethod
    async def turns() -> None:
        for _ in range(4):
            await asyncio.sleep(0)


def test_while_nodes_have_a_queue_a_group_leaves_when_the_one_before_is_back() -> None:
    async def story() -> None:
        it = Flights()
        await it.crowd(get(b"a"))
        waiting = await it.leave(get(b"a"))
        for key in (b"b", b"c", b"d"):
            waiting += await it.leave(get(key))
        assert it.asked == [[b"a"]]
        waiting += await it.leave(write(b"e", b"1"))
        assert it.asked == [[b"a"], [b"1"]], "writes do not wait for reads"
        await it.back(place=1)
        await it.back()
        assert it.asked == [[b"b", b"c", b"d"]], "those that waited go together"
        waiting += await it.leave(get(b"f"))
        assert it.asked == [[b"b", b"c", b"d"]]
        done = it.flights[0][1]
        done(LATER)
        done(LATER)
        await it.turns()
        assert it.asked == [[b"b", b"c", b"d"], [b"f"]], "nobody waits for who takes his time"
        await it.back(5.0)
        await it.back()
        await asyncio.gather(*waiting)
        assert not it.joining.busy

    asyncio.run(story())


def test_nobody_waits_in_a_group_that_no_other_can_join() -> None:
    async def story() -> None:
        it = Flights()
        await it.crowd(write(b"k", b"0"))
        waiting = []
        for number in range(1, 6):
            waiting += await it.leave(write(b"k", b"%d" % number))
        assert it.asked == [[b"1"], [b"2"], [b"3"], [b"4"]], "of one key each is a group; the last may yet be joined"
        waiting += await it.leave(write(b"l", b"6"))
        for _ in range(4):
            await it.back()
        assert it.asked == [[b"5", b"6"]]
        await it.back()
        await asyncio.gather(*waiting)
        waiting = await it.leave(*(get(b"%d" % number) for number in range(MOST_TOGETHER + 1)))
        assert [len(keys) for keys in it.asked] == [MOST_TOGETHER, 1]
        for _ in range(2):
            await it.back()
        await asyncio.gather(*waiting)

    asyncio.run(story())


def test_what_failed_before_anybody_was_asked_says_nothing_of_the_nodes() -> None:
    async def story() -> None:
        it = Flights()
        failed = f.Failed.of(StoreUnavailable("its clock is far ahead"))
        for outcome in (StoreUnavailable("away"), f.Refused(failed), f.WroteMany([failed])):
            waiting = await it.leave(write(b"a", b"1"))
            it.flights.pop()[1](outcome)
            await asyncio.gather(*waiting, return_exceptions=True)
        for _ in range(30):
            await it.leave(write(b"a", b"1"))
            await it.back(3 * CROWDED_S)
        assert not it.joining._writes.traffic.crowded, "it was never quicker"

    asyncio.run(story())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_holds_up_nobody_for_ever() -> None:
    it = Flights()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        async def ask() -> None:
            it.interrupted = True
            it.joining.answer(get(b"b"))

        runner.run(it.crowd(get(b"a")))
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(0.01, loop.create_task(ask())))
        it.interrupted = False

        async def story() -> None:
            waiting = await it.leave(get(b"c"))
            assert it.asked == [[b"c"]]
            await it.back()
            await asyncio.gather(*waiting)
            assert not it.joining.busy

        runner.run(story())

"""Operations that begin in one turn of the loop leave together, and each gets its own part."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raykv.coordinator.abandoned import Abandoned
from raykv.coordinator.batcher import MOST_TOGETHER, MOST_UNDER_WAY, Batcher, is_about_one_key
from raykv.errors import CorruptData, StoreUnavailable
from raykv.protocol import frames as f


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
            return f.GotMany([f.KeyVersions([b"of " + key]) for key in request.keys], 7)
        if isinstance(request, f.ChangeMany):
            return f.ChangedMany([f.Settled(f.DONE, b"", change.payload) for change in request.items])
        return f.WroteMany([f.Acked(body, ["n1"], b"") for _, body, _ in request.items], 9)


class InTasks:
    """Begins a request by a coroutine, in a task of its own."""

    def __init__(self, serve: Any, tasks: set[Any]) -> None:
        self.serve = serve
        self.tasks = tasks

    def __call__(self, request: Any, done: Any) -> None:
        task = asyncio.get_running_loop().create_task(self.answer(request, done))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def answer(self, request: Any, done: Any) -> None:
        try:
            outcome = await self.serve(request)
        except Exception as error:  # noqa: BLE001 - as a driver does
            outcome = error
        done(outcome)


def get(key: bytes, **others: Any) -> f.GetMany:
    return f.GetMany(others.pop("bucket_id", 1), [key], others.pop("r", 2), others.pop("timeout_s", 5.0), **others)


def write(key: bytes, body: bytes, **others: Any) -> f.WriteMany:
    return f.WriteMany(1, [(key, body, None)], others.pop("w", 2), 5.0, **others)


def change(key: bytes, number: int, **others: Any) -> f.ChangeMany:
    made = f.Change(key, f.PUT, b"%d" % number, bytes(8), number, turn=others.pop("turn", False))
    return f.ChangeMany(others.pop("bucket_id", 1), [made], others.pop("timeout_s", 5.0), **others)


def test_reads_of_one_turn_are_one_request_and_each_has_its_answer() -> None:
    async def story() -> None:
        answers = Answers()
        joining = Batcher(InTasks(answers, set()))
        keys = [b"%d" % number for number in range(10)] + [b"3"]
        got = await asyncio.gather(*(joining.answer(get(key)) for key in keys))
        assert [request.keys for request in answers.asked] == [keys]
        assert got == [f.GotMany([f.KeyVersions([b"of " + key])], 7) for key in keys]
        assert await joining.answer(get(b"alone")) == f.GotMany([f.KeyVersions([b"of alone"])], 7)
        assert answers.asked[-1] == get(b"alone"), "who is alone goes as it is"
        await asyncio.sleep(0)
        assert not joining.busy

    asyncio.run(story())


def test_nothing_waits_for_later_requests() -> None:
    async def story() -> None:
        answers = Answers()
        answers.hold.clear()
        joining = Batcher(InTasks(answers, set()))
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
        joining = Batcher(InTasks(answers, set()))
        await asyncio.gather(joining.answer(get(b"a")), joining.answer(get(b"b", **other)))
        assert sorted(len(request.keys) for request in answers.asked) == [1, 1]

    asyncio.run(story())


def test_a_group_has_a_bound() -> None:
    async def story() -> None:
        answers = Answers()
        joining = Batcher(InTasks(answers, set()))
        await asyncio.gather(*(joining.answer(get(b"%d" % number)) for number in range(MOST_TOGETHER + 5)))
        assert sorted(len(request.keys) for request in answers.asked) == [5, MOST_TOGETHER]

    asyncio.run(story())


def test_writes_go_together_under_the_strictest_of_their_terms() -> None:
    async def story() -> None:
        answers = Answers()
        joining = Batcher(InTasks(answers, set()))
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
        joining = Batcher(InTasks(answers, set()))
        writes = [write(b"a", b"1"), write(b"b", b"2"), write(b"a", b"3"), write(b"c", b"4")]
        await asyncio.gather(*map(joining.answer, writes))
        assert [[body for _, body, _ in request.items] for request in answers.asked] == [[b"1", b"2"], [b"3", b"4"]]

    asyncio.run(story())


def test_changes_go_together_under_the_strictest_of_their_terms_and_those_of_one_key_in_their_order() -> None:
    async def story() -> None:
        answers, tasks = Answers(), set()
        joining = Batcher(InTasks(answers, tasks))
        changes = [
            change(b"a", 1, run=7, expires_s=9.0),
            change(b"b", 2, run=7, expires_s=8.0),
            change(b"a", 3, run=7, expires_s=9.5),
        ]
        got = await asyncio.gather(*(joining.answer(each) for each in changes))
        (asked,) = answers.asked
        assert asked == f.ChangeMany(1, [each.items[0] for each in changes], 5.0, 7, 8.0)
        assert got == [f.ChangedMany([f.Settled(f.DONE, b"", b"%d" % number)]) for number in (1, 2, 3)]

    asyncio.run(story())


@pytest.mark.parametrize("other", [{"bucket_id": 2}, {"timeout_s": 4.0}, {"run": 8}])
def test_only_changes_on_the_same_terms_go_together(other: dict[str, Any]) -> None:
    async def story() -> None:
        answers, tasks = Answers(), set()
        joining = Batcher(InTasks(answers, tasks))
        await asyncio.gather(joining.answer(change(b"a", 1)), joining.answer(change(b"b", 2, **other)))
        assert len(answers.asked) == 2

    asyncio.run(story())


def test_what_waits_for_its_turn_goes_alone() -> None:
    """Those behind it would wait too."""
    assert is_about_one_key(change(b"a", 1))
    assert not is_about_one_key(change(b"a", 1, turn=True))
    assert not is_about_one_key(f.ChangeMany(1, [f.Change(b"a", f.READ), f.Change(b"b", f.READ)], 5.0))
    assert not is_about_one_key(f.ChangeMany(1, [], 5.0))


def test_an_error_of_the_group_is_everybodys() -> None:
    async def story() -> None:
        answers = Answers()
        answers.error = StoreUnavailable("away")
        joining = Batcher(InTasks(answers, set()))
        got = await asyncio.gather(*(joining.answer(get(key)) for key in (b"a", b"b")), return_exceptions=True)
        assert got == [f.Refused(f.Failed.of(StoreUnavailable("away")))] * 2

        async def wrong(_: Any) -> Any:
            return f.Info(None)

        joining = Batcher(InTasks(wrong, set()))
        got = await asyncio.gather(*(joining.answer(get(key)) for key in (b"a", b"b")), return_exceptions=True)
        assert [type(each.failed.error()) for each in got] == [CorruptData] * 2

    asyncio.run(story())


def test_a_caller_that_gives_up_does_not_end_it_for_the_others() -> None:
    async def story() -> None:
        answers = Answers()
        answers.hold.clear()
        joining = Batcher(InTasks(answers, set()))
        one, other = (asyncio.ensure_future(joining.answer(get(key))) for key in (b"a", b"b"))
        await asyncio.sleep(0.001)
        one.cancel()
        answers.hold.set()
        assert await other == f.GotMany([f.KeyVersions([b"of b"])], 7)
        with pytest.raises(asyncio.CancelledError):
            await one

    asyncio.run(story())


def test_what_is_given_up_before_its_group_leaves_is_not_begun() -> None:
    async def story() -> None:
        answers = Answers()
        joining = Batcher(InTasks(answers, set()))
        alone = joining.answer(write(b"a", b"1"))
        alone.cancel()
        one, other = joining.answer(get(b"a")), joining.answer(get(b"b"))
        one.cancel()
        assert await other == f.GotMany([f.KeyVersions([b"of b"])], 7)
        assert answers.asked == [get(b"b")]
        assert not joining.busy

    asyncio.run(story())


@pytest.mark.parametrize("make", [lambda key: write(key, b"1"), lambda key: change(key, 1)])
def test_a_write_under_way_that_is_given_up_is_known_until_it_is_over(make: Any) -> None:
    async def story() -> None:
        answers, abandoned = Answers(), Abandoned()
        answers.hold.clear()
        joining = Batcher(InTasks(answers, set()), abandoned=abandoned)
        one, other = joining.answer(make(b"a")), joining.answer(make(b"b"))
        await asyncio.sleep(0.001)
        assert not abandoned
        one.cancel()
        (end,) = abandoned.before(make(b"a"))
        assert abandoned.before(make(b"b")) == abandoned.before(get(b"a")) == []
        answers.hold.set()
        await other
        assert end.done()
        assert not abandoned

    asyncio.run(story())


def test_a_program_that_ends_in_the_middle_cancels_what_is_left_when_the_loop_does_not_run() -> None:
    answers, loop = Answers(), asyncio.new_event_loop()
    try:
        waiter = loop.run_until_complete(begun(answers))
        assert waiter.cancel()
    finally:
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


async def begun(answers: Answers) -> asyncio.Future[Any]:
    answers.hold.clear()
    waiter = Batcher(InTasks(answers, set())).answer(write(b"a", b"1"))
    await asyncio.sleep(0.001)
    assert answers.asked
    return waiter


def test_while_many_are_under_way_new_requests_wait_together() -> None:
    async def story() -> None:
        answers = Answers()
        answers.hold.clear()
        joining = Batcher(InTasks(answers, set()))
        waiting = []
        for number in range(MOST_UNDER_WAY + 10):
            waiting.append(asyncio.ensure_future(joining.answer(get(b"%d" % number))))
            await asyncio.sleep(0.001)
        assert [len(request.keys) for request in answers.asked] == [1] * MOST_UNDER_WAY
        answers.hold.set()
        got = await asyncio.gather(*waiting)
        assert [len(request.keys) for request in answers.asked] == [1] * MOST_UNDER_WAY + [10]
        assert got[-1] == f.GotMany([f.KeyVersions([b"of %d" % (MOST_UNDER_WAY + 9)])], 7)
        await asyncio.sleep(0)
        assert not joining.busy

    asyncio.run(story())


def test_batches_and_other_requests_go_their_own_way() -> None:
    assert is_about_one_key(get(b"a"))
    assert is_about_one_key(write(b"a", b"1"))
    assert not is_about_one_key(f.GetMany(1, [b"a", b"b"], 2, 5.0))
    assert not is_about_one_key(f.GetMany(1, [], 2, 5.0))
    assert not is_about_one_key(f.GetInfo("ring", 5.0))


def test_no_more_go_together_than_one_request_may_be_of() -> None:
    async def story() -> None:
        answers = Answers()
        joining = Batcher(InTasks(answers, set()), {1: 3, 2: 10_000}.__getitem__)
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
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        answers = Answers()
        answers.error = ZeroDivisionError()
        joining = Batcher(InTasks(answers, set()))
        async with asyncio.timeout(1.0):
            outcomes = await asyncio.gather(*(joining.answer(get(key)) for key in (b"a", b"b")), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError] * 2

    asyncio.run(story())


def test_those_behind_many_that_were_given_up_are_begun() -> None:
    """Each that returns makes room for one; what nobody waits for any more takes none of it."""

    async def story() -> None:
        slow: list[Any] = []
        joining = Batcher(lambda request, done: slow.append((request, done)))
        for number in range(MOST_UNDER_WAY):
            joining.answer(write(b"a", b"%d" % number))
        await asyncio.sleep(0)
        given_up = [joining.answer(write(b"b", b"%d" % number)) for number in range(2 * MOST_UNDER_WAY)]
        last = joining.answer(get(b"c"))
        await asyncio.sleep(0)
        for waiter in given_up:
            waiter.cancel()
        for _, done in slow[:MOST_UNDER_WAY]:
            done(f.WroteMany([f.Acked(b"", ["n1"], b"")], 9))
        for _ in range(3 * MOST_UNDER_WAY):
            await asyncio.sleep(0)
        assert [request.keys for request, _ in slow[MOST_UNDER_WAY:]] == [[b"c"]]
        slow[-1][1](f.GotMany([f.KeyVersions([])], 9))
        assert await last == f.GotMany([f.KeyVersions([])], 9)
        assert not joining.busy

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

        joining = Batcher(begin)
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
            if request.keys == [b"answered twice"]:
                done(f.GotMany([f.KeyVersions([b"x"])], 7))
            raise ZeroDivisionError

        joining = Batcher(begin)
        got = await asyncio.gather(
            *(joining.answer(get(b"%d" % number, r=1 + number % 2)) for number in range(4)), return_exceptions=True
        )
        assert [type(each) for each in got] == [ZeroDivisionError] * 4
        assert await joining.answer(get(b"answered twice")) == f.GotMany([f.KeyVersions([b"x"])], 7)
        assert not joining.busy
        assert joining._under_way == 0

    asyncio.run(story())

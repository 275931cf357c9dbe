"""Changes as a client sends them: each once (L10, L11), within bounds of time (L12), and by a fixed policy (L13)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import raykv
import raykv.sim
from raykv.client import atomic
from raykv.client.version import Version
from raykv.config import BucketConfig
from raykv.errors import (
    BatchError,
    Conflict,
    CorruptData,
    InvalidOption,
    Overloaded,
    RaykvError,
    StoreUnavailable,
    WriteOutcomeUnknown,
)
from raykv.ports import PeerAbsent, PeerDead, PeerSilent, PeerUnreachable
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.protocol.changes import cell
from raykv.records.keys import encode_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.client.conftest import FakeLink

VERSION = bytes(range(24))
LATER = bytes(range(1, 25))
DONE = f.ChangedMany([f.Settled(c.DONE, VERSION)])


@pytest.fixture
def config() -> BucketConfig:
    return BucketConfig(name="default", n=3, r=2, w=2, versioning="linearizable")


def sent(link: FakeLink) -> list[f.Change]:
    """All changes that the link was given, in order."""
    return [change for request in link.requests if isinstance(request, f.ChangeMany) for change in request.items]


def settled(status: int, payload: bytes | None = None) -> f.ChangedMany:
    return f.ChangedMany([f.Settled(status, VERSION, payload)])


# ---- once (L10, L11) ----


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("nothing was written: n2"), Overloaded("full"), InvalidOption("bad")],
    ids=["unavailable", "overloaded", "dropped"],
)
def test_what_a_second_coordinator_did_not_do_the_first_may_have_done(
    both: Callable[..., Any], link: FakeLink, error: RaykvError
) -> None:
    """*Schedule: one coordinator makes a claim of a queue and is killed; the next one reaches no leader, and says so. Told
    that nothing was written, the consumer claims again under the same name, and holds jobs that it does not know of.*"""
    failed = f.ChangedMany([f.Failed.of(error)])
    link.script = [PeerSilent("killed"), failed]
    with pytest.raises(WriteOutcomeUnknown, match="it was sent before"):
        both("add", "a", 1)
    link.script = [failed]
    with pytest.raises(type(error)):
        both("add", "a", 1)


@pytest.mark.parametrize("failure", [PeerSilent, PeerDead, PeerUnreachable])
def test_a_change_without_an_answer_is_sent_again_as_the_same_call(
    both: Callable[..., Any], link: FakeLink, failure: type[Exception]
) -> None:
    """L10: under another number it could count twice. L11: that it was sent before is said."""
    link.script = [failure("gone"), failure("gone"), f.ChangedMany([f.Settled(c.DONE, VERSION, cell(7))])]
    assert both("add", "n", 7) == 7
    first, second, third = sent(link)
    assert (first.lane, first.number) == (second.lane, second.number) == (third.lane, third.number)
    assert [each.resent for each in (first, second, third)] == [False, True, True]
    assert len(first.lane) == 8
    assert link.slept, "it waits before it sends again"


def test_calls_of_one_lane_are_numbered(both: Callable[..., Any], link: FakeLink) -> None:
    link.script = [DONE, settled(c.CONFLICT, b"\x01kept"), DONE]
    first = both("put", "a", 1)
    with pytest.raises(Conflict):
        both("put", "a", 2, if_absent=True)
    second = both("delete", "a")
    assert [each.number for each in sent(link)] == [1, 2, 3], "a refusal settles a call too"
    assert len({each.lane for each in sent(link)}) == 1
    assert first.operation_id == f"{sent(link)[0].lane.hex()}-1"
    assert second.operation_id.endswith("-3")


def test_a_call_whose_outcome_is_unknown_takes_its_lane_with_it(both: Callable[..., Any], link: FakeLink) -> None:
    """L10: a later call of the lane would say that this one is settled."""
    link.script = [b"junk", DONE]
    with pytest.raises(WriteOutcomeUnknown, match="outcome of the change is unknown"):
        both("put", "a", 1)
    both("put", "a", 2)
    first, second = sent(link)
    assert first.lane != second.lane


@pytest.mark.parametrize("name", ["put", "update"])
@pytest.mark.parametrize("where", ["by two coordinators", "by one to two nodes"])
def test_a_call_that_was_sent_twice_takes_its_lane_with_it(
    both: Callable[..., Any], link: FakeLink, name: str, where: str
) -> None:
    """L10: the sending that has brought no answer may arrive when the receipt is gone, for the lane has gone on."""
    twice = [PeerSilent("slow"), DONE]
    if where == "by one to two nodes":
        twice = [f.ChangedMany([f.Settled(c.DONE, VERSION, unanswered=True)])]
    read = f.GotMany([f.KeyVersions([], False, VERSION)])
    link.script = [*twice, DONE] if name == "put" else [read, *twice, read, DONE]
    for _ in range(2):
        both("put", "a", 1) if name == "put" else both("update", "a", lambda old: 1)
    *first, second = sent(link)
    assert len({each.lane for each in first}) == 1
    assert second.lane != first[0].lane
    assert (second.number, second.resent) == (1, False)


def test_a_conflict_that_was_sent_twice_is_followed_by_a_call_of_another_lane(
    both: Callable[..., Any], link: FakeLink
) -> None:
    conflict = f.ChangedMany([f.Settled(c.CONFLICT, LATER, cell(5), unanswered=True)])
    link.script = [f.GotMany([f.KeyVersions([cell(4)], False, VERSION)]), conflict, DONE]
    assert both("update", "a", lambda old: old + 1) == 6
    first, second = sent(link)
    assert first.lane != second.lane
    assert first.number == second.number == 1


def test_what_reached_nobody_is_refused_and_keeps_its_lane(both: Callable[..., Any], link: FakeLink) -> None:
    refused = f.Refused(f.Failed.of(Overloaded("nothing was written: full")))
    link.script = [refused, DONE]
    with pytest.raises(Overloaded):
        both("put", "a", 1)
    both("put", "a", 2)
    assert [each.number for each in sent(link)] == [1, 2]


def test_a_coordinator_that_cannot_be_reached(both: Callable[..., Any], link: FakeLink) -> None:
    link.script = [PeerAbsent("no such process")] * 1000
    with pytest.raises(StoreUnavailable, match="nothing was written: no coordinator"):
        both("put", "a", 1, timeout=2)


def test_a_change_that_was_sent_and_then_reaches_nobody_stays_unknown(both: Callable[..., Any], link: FakeLink) -> None:
    """The first sending may have been carried out, so "nothing was written" would be a lie."""
    link.script = [PeerSilent("frozen"), *[PeerAbsent("no such process")] * 1000]
    with pytest.raises(WriteOutcomeUnknown):
        both("put", "a", 1, timeout=2)
    link.script = [PeerSilent("frozen"), f.Refused(f.Failed.of(Overloaded("full")))]
    with pytest.raises(WriteOutcomeUnknown):
        both("put", "a", 1, timeout=2)


def test_awaited_calls_at_once_have_a_lane_each(store: Any, link: FakeLink) -> None:
    async def work() -> None:
        await asyncio.gather(*(store.aio.add("n") for _ in range(5)))

    link.script = [f.ChangedMany([f.Settled(c.DONE, VERSION, cell(1))])] * 5
    asyncio.run(work())
    assert len({each.lane for each in sent(link)}) == 5


def test_a_batch_is_one_call(both: Callable[..., Any], link: FakeLink) -> None:
    link.script = [f.ChangedMany([f.Settled(c.DONE, VERSION)] * 3)]
    results = both("put_many", {"a": 1, "b": 2, "c": 3})
    assert {each.number for each in sent(link)} == {1}
    assert len({each.lane for each in sent(link)}) == 1
    assert [*results] == ["a", "b", "c"]


def test_a_large_batch_goes_in_parts_and_only_what_has_no_answer_goes_again(
    both: Callable[..., Any], link: FakeLink
) -> None:
    def done(request: f.ChangeMany) -> f.ChangedMany:
        return f.ChangedMany([f.Settled(c.DONE, VERSION)] * len(request.items))

    link.script = [done, PeerSilent("gone"), done, done]
    both("put_many", {f"k{index}": index for index in range(2 * atomic.CHUNK_CHANGES + 1)})
    sizes = [len(request.items) for request in link.requests if isinstance(request, f.ChangeMany)]
    assert sizes == [250, 250, 1, 250]
    assert [request.items[0].resent for request in link.requests] == [False, False, False, True]


# ---- time (L12) ----


def test_a_change_carries_its_deadline_by_the_coordinator_s_clock(both: Callable[..., Any], link: FakeLink) -> None:
    link.script = [DONE]
    both("put", "a", 1, timeout=3)
    (request,) = link.requests
    assert request.run == link.run
    assert request.expires_s == pytest.approx(link.now_s + link.ahead_s + 3)


def test_a_change_that_comes_too_late_is_sent_again_by_the_clock_in_the_answer(
    both: Callable[..., Any], link: FakeLink
) -> None:
    """It did nothing, so it is no repetition: another run of the coordinator has another clock."""
    link.script = [f.DeadlinePassed(9, 5000.0), DONE]
    both("put", "a", 1, timeout=3)
    first, second = link.requests
    assert (second.run, second.items[0].resent, second.items[0].number) == (9, False, 1)
    assert first.run == 7
    assert second.expires_s > 5000


def test_a_change_that_always_comes_too_late(both: Callable[..., Any], link: FakeLink) -> None:
    link.script = [lambda _: f.DeadlinePassed(7, link.now_s + 5000.0)] * 1000
    with pytest.raises(StoreUnavailable, match="nothing was written: the request reached the coordinator too late"):
        both("put", "a", 1, timeout=2)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("put", ["a", 1]), ("delete", ["a"]), ("add", ["a"]), ("max", ["a", 1]), ("min", ["a", 1]), ("swap", ["a", 1]),
        ("update", ["a", len]), ("put_many", [{"a": 1}]), ("delete_many", [["a"]]),
    ],
)  # fmt: skip
def test_a_change_takes_a_minute_at_most(both: Callable[..., Any], link: FakeLink, name: str, args: list[Any]) -> None:
    """L12: its receipt is kept no longer, and a later repetition would count twice."""
    with pytest.raises(InvalidOption, match="takes 60 s at most; got timeout=61"):
        both(name, *args, timeout=61)
    assert link.sent == 0


def test_a_time_out_that_is_over_before_anything_is_sent(
    both: Callable[..., Any], store: Any, link: FakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store._session._session_clock, "now_s", iter(range(100)).__next__)
    with pytest.raises(StoreUnavailable, match=r"nothing was written: the time-out of 0\.5 s was over"):
        both("put", "a", 1, timeout=0.5)
    assert link.sent == 0


# ---- policy (L13) ----


@pytest.mark.parametrize(
    ("name", "args", "options", "why"),
    [
        ("get", ["a"], {"r": 1}, "takes no r: it reads a majority"),
        ("get_many", [["a"]], {"r": "all"}, "takes no r"),
        ("scan", [], {"r": 2}, "takes no r"),
        ("put", ["a", 1], {"w": 1}, "takes no w: it always writes a majority"),
        ("put", ["a", 1], {"ttl": 5}, "takes no ttl: when a value expires would depend on each reader's clock"),
        ("put", ["a", 1], {"context": b"x"}, "takes no context: it has one value a key: use if_version"),
        ("delete", ["a"], {"w": 2}, "takes no w"),
        ("delete", ["a"], {"context": b"x"}, "takes no context"),
        ("put_many", [{"a": 1}], {"w": 2}, "takes no w"),
        ("put_many", [{"a": 1}], {"ttl": 2}, "takes no ttl"),
        ("delete_many", [["a"]], {"w": 2}, "takes no w"),
        ("get_versions", ["a"], {}, "one value a key: use get_versioned"),
        ("modify", ["a", len], {}, "modify is no compare-and-set; a linearizable bucket has one: use update"),
    ],
)
def test_a_linearizable_bucket_leaves_no_choice(
    both: Callable[..., Any], link: FakeLink, name: str, args: list[Any], options: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidOption, match=why):
        both(name, *args, **options)
    assert link.sent == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"sloppy": True}, "cannot be sloppy"),
        ({"ttl": 5}, "has no ttl"),
        ({"r": 1}, "reads and writes a majority, 2 of n=3"),
        ({"w": "all"}, "reads and writes a majority, 2 of n=3"),
        ({"resolver": max}, "takes no resolver: it has one value a key; use update"),
    ],
)
def test_no_linearizable_bucket_is_made_with_a_choice(options: dict[str, Any], why: str) -> None:
    with raykv.sim.start(seed=1) as world:
        with pytest.raises(InvalidOption, match=why):
            world.store.bucket("jobs", versioning="linearizable", **options)
        assert world.store.buckets() == ["default"]


def test_no_handle_of_a_linearizable_bucket_resolves() -> None:
    with raykv.sim.start(seed=1) as world:
        world.store.bucket("jobs", versioning="linearizable", resolver="newest")
        with pytest.raises(InvalidOption, match="takes no resolver"):
            world.store.bucket("jobs", resolver=max)


@pytest.mark.parametrize(
    ("name", "args", "options"),
    [
        ("put", ["a", 1], {"if_absent": True}), ("put", ["a", 1], {"if_version": VERSION}), ("put", ["a", 1], {"fence": 1}),
        ("delete", ["a"], {"if_version": VERSION}), ("delete", ["a"], {"fence": 1}),
        ("put_many", [{"a": 1}], {"if_absent": True}),
        ("add", ["a"], {}), ("max", ["a", 1], {}), ("min", ["a", 1], {}), ("swap", ["a", 1], {}), ("update", ["a", len], {}),
        ("get_versioned", ["a"], {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("versioning", ["vector", "lww"])
def test_other_buckets_refuse_what_they_cannot_hold_to(
    versioning: Any, name: str, args: list[Any], options: dict[str, Any]
) -> None:
    from raykv.client.operations import Operations

    operations = Operations(1, BucketConfig(name="carts", n=3, r=2, w=2, versioning=versioning))
    given: dict[str, Any] = {"timeout": 5.0} | options
    if name in {"put", "delete", "put_many"}:
        given |= {"w": None} | ({"ttl": None} if name != "delete" else {})
    if name in {"add", "max", "min"}:
        name, args = "count", [args[0], {"add": c.ADD, "max": c.MAXIMUM, "min": c.MINIMUM}[name], 1]
    if name == "update":
        args = [*args, None]
    wanted = (
        f"needs a linearizable bucket, and 'carts' is {versioning}: store.bucket\\(name, versioning=\"linearizable\"\\)"
    )
    with pytest.raises(InvalidOption, match=wanted):
        next(iter(getattr(operations, name)(*args, **given)), None)


# ---- arguments ----


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"if_absent": 1}, "if_absent must be True or False; got 1"),
        ({"if_absent": True, "if_version": VERSION}, "exclude each other"),
        ({"if_version": "abc"}, "what get_versioned or a write returned; got str"),
        ({"if_version": b"abc"}, "not the bytes of a version"),
        ({"fence": 0}, "a fencing token is a positive number"),
        ({"fence": -1}, "a fencing token is a positive number"),
        ({"fence": True}, "fence takes a number"),
        ({"fence": "7"}, "fence takes a whole number"),
        ({"fence": 1 << 62}, "a fencing token is a positive number"),
        ({"fence": 10**5000}, "fence takes a number of at most 64 bits; got an enormous int"),
    ],
)
def test_malformed_conditions(both: Callable[..., Any], link: FakeLink, options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        both("put", "a", 1, **options)
    assert link.sent == 0


@pytest.mark.parametrize("given", [VERSION, Version(VERSION)])
def test_conditions_travel(both: Callable[..., Any], link: FakeLink, given: Any) -> None:
    link.script = [DONE] * 4
    both("put", "a", 1, if_version=given)
    both("put", "a", 1, if_absent=True, fence=7)
    both("put", "a", 1)
    both("delete", "a", if_version=given, fence=8)
    assert [(each.kind, each.condition, each.fence) for each in sent(link)] == [
        (c.PUT, VERSION, 0), (c.PUT, b"", 7), (c.PUT, None, 0), (c.DELETE, VERSION, 8),
    ]  # fmt: skip


@pytest.mark.parametrize("amount", [1.0, "1", None, True, 1 << 63, -(1 << 63) - 1])
@pytest.mark.parametrize("name", ["add", "max", "min"])
def test_arithmetic_takes_whole_numbers_of_64_bits(
    both: Callable[..., Any], link: FakeLink, name: str, amount: Any
) -> None:
    with pytest.raises(InvalidOption, match=f"{name} takes a"):
        both(name, "n", amount)
    assert link.sent == 0


# ---- answers ----


@pytest.mark.parametrize(
    ("status", "error", "why"),
    [
        (c.NO_NUMBER, InvalidOption, "nothing was written: what stands under 'n' is no 64-bit integer"),
        (c.OUT_OF_RANGE, InvalidOption, "nothing was written: 'n' would exceed 64 bits"),
        (c.TOO_LARGE, Overloaded, "nothing was written: too many callers have changed 'n'"),
        (c.STALE, WriteOutcomeUnknown, "not known any more; read the key"),
        (c.CONFLICT, Conflict, "nothing was written: 'n' has another version than the condition"),
        (c.FENCED, Conflict, "nothing was written: 'n' has seen a later fencing token; this holder's lock is lost"),
    ],
)
def test_each_refusal_says_what_happened(
    both: Callable[..., Any], link: FakeLink, status: int, error: type[Exception], why: str
) -> None:
    link.script = [settled(status, b"\x01kept")]
    with pytest.raises(error, match=why):
        both("add", "n")


def test_a_conflict_has_what_stands(both: Callable[..., Any], link: FakeLink) -> None:
    link.script = [settled(c.CONFLICT, b"\x01kept"), f.ChangedMany([f.Settled(c.CONFLICT)])]
    with pytest.raises(Conflict, match=r"nothing was written: b'raw' has a value$") as caught:
        both("put", b"raw", 1, if_absent=True)
    assert (caught.value.key, caught.value.value, caught.value.version) == (b"raw", "kept", Version(VERSION))
    with pytest.raises(Conflict, match="has no value, and the condition is a version of one") as caught:
        both("put", "a", 1, if_version=VERSION)
    assert (caught.value.value, caught.value.version) == (None, Version())


@pytest.mark.parametrize(
    "answer", [f.ChangedMany([]), f.ChangedMany([f.Settled(c.DONE)] * 2), f.Info(1), f.GotMany([]), b"junk"]
)
def test_an_answer_of_the_wrong_kind_leaves_the_outcome_unknown(
    both: Callable[..., Any], link: FakeLink, answer: Any
) -> None:
    link.script = [answer]
    with pytest.raises(WriteOutcomeUnknown, match="read the key, then decide"):
        both("put", "a", 1)


def test_a_status_that_is_for_coordinators_is_no_answer(both: Callable[..., Any], link: FakeLink) -> None:
    link.script = [settled(c.ELSEWHERE)]
    with pytest.raises(CorruptData, match="wrong kind of message"):
        both("put", "a", 1)


def test_a_batch_settles_each_item(both: Callable[..., Any], link: FakeLink) -> None:
    unknown = f.Failed.of(WriteOutcomeUnknown("unknown", acks=[]))
    items = [f.Settled(c.DONE, VERSION), f.Settled(c.CONFLICT, LATER, b"\x01kept"), unknown]
    link.script = [f.ChangedMany(items), DONE]
    with pytest.raises(BatchError, match="2 of 3 writes failed") as caught:
        both("put_many", {"a": 1, "b": 2, "c": 3}, if_absent=True)
    assert caught.value.results["a"].version == Version(VERSION)
    assert isinstance(caught.value.errors["b"], Conflict)
    assert caught.value.errors["b"].value == "kept"  # type: ignore[attr-defined]
    assert isinstance(caught.value.errors["c"], WriteOutcomeUnknown)
    assert all(each.condition == b"" for each in sent(link))
    both("put", "a", 1)
    assert len({each.lane for each in sent(link)}) == 2, "one item is unknown, so the lane is gone"


def test_integers_are_cells_and_other_values_are_not(both: Callable[..., Any], link: FakeLink) -> None:
    values = [5, -1, (1 << 63) - 1, 1 << 63, True, 1.5, "5", b"5", None]
    for value in values:
        link.script = [DONE]
        both("put", "a", value)
    payloads = [each.payload for each in sent(link)]
    assert payloads[:3] == [cell(5), cell(-1), cell((1 << 63) - 1)]
    assert not any(payload.startswith(c.CELL) for payload in payloads[3:])


# ---- update ----


@pytest.fixture
def jobs() -> Iterator[Any]:
    with raykv.sim.start(seed=7) as world:
        bucket = world.store.bucket("jobs", versioning="linearizable")
        bucket.other = world.connect().bucket("jobs")
        yield bucket


def test_update_sees_what_it_replaces(jobs: Any) -> None:
    assert jobs.update("n", lambda count: count + 1, 0) == 1
    assert jobs.update("n", lambda count: count + 1, 0) == 2
    jobs.delete("n")
    assert jobs.update("n", lambda value: [value]) == [None]


def test_update_runs_again_where_others_came_first(jobs: Any) -> None:
    jobs.put("n", 1)
    seen = []

    def change(count: int) -> int:
        seen.append(count)
        if len(seen) < 3:
            jobs.other.put("n", 10 * count)
        return count + 1

    assert jobs.update("n", change) == 101
    assert seen == [1, 10, 100]


def test_an_error_of_the_function_is_passed_on_and_nothing_is_written(jobs: Any) -> None:
    jobs.put("n", 1)
    before = jobs.get_versioned("n")
    for error in (KeyError("own"), StopIteration("own")):

        def fail(_: int, error: Exception = error) -> int:
            raise error

        with pytest.raises(type(error)) as caught:
            jobs.update("n", fail)
        assert caught.value is error
    assert jobs.get_versioned("n") == before


def test_an_update_that_never_comes_first_raises_what_stands(jobs: Any) -> None:
    jobs.put("n", 0)

    def change(count: int) -> int:
        jobs.other.add("n")
        return count

    with pytest.raises(Conflict, match=r"'n' was changed by others for all of the 0\.5 s") as caught:
        jobs.update("n", change, timeout=0.5)
    assert caught.value.value > 0
    assert caught.value.key == "n"


@pytest.mark.parametrize("change", [None, 5, "text"])
def test_update_takes_a_function(both: Callable[..., Any], link: FakeLink, change: Any) -> None:
    with pytest.raises(InvalidOption, match="update takes a function of the current value"):
        both("update", "n", change)
    assert link.sent == 0


def test_updates_of_many_clients_lose_nothing() -> None:
    with raykv.sim.start(seed=8) as world:
        world.store.bucket("jobs", versioning="linearizable")

        async def work() -> None:
            async def client(who: int) -> None:
                bucket = await (await world.connect_aio()).bucket("jobs")
                for turn in range(10):
                    await bucket.update("log", lambda log, turn=turn: [*log, (who, turn)], [], timeout=60)

            await asyncio.gather(*(client(who) for who in range(6)))

        world.run(work())
        log = world.store.bucket("jobs").get("log")
        assert sorted(log) == [(who, turn) for who in range(6) for turn in range(10)]
        for who in range(6):
            assert [turn for each, turn in log if each == who] == list(range(10)), "each client's in its order"


# ---- keys and versions ----


def test_versions_are_never_used_twice(jobs: Any) -> None:
    versions = [jobs.put("a", 1).version for _ in range(5)]
    jobs.delete("a")
    versions += [jobs.put("a", 1).version for _ in range(5)]
    assert len(set(versions)) == 10
    assert jobs.get_versioned("a") == (1, versions[-1])
    with pytest.raises(Conflict):
        jobs.put("a", 2, if_version=versions[0])


def test_the_context_of_a_write_is_refused_everywhere(jobs: Any) -> None:
    written = jobs.put("a", 1)
    with pytest.raises(InvalidOption, match="takes no context"):
        jobs.put("a", 2, context=written.context)
    with raykv.sim.start(seed=2) as world, pytest.raises(raykv.InvalidContext):
        world.store.put("a", 1, context=written.context)


def test_keys_travel_encoded(both: Callable[..., Any], link: FakeLink) -> None:
    link.script = [DONE] * 2
    both("put", "a", 1)
    both("put", b"a", 1)
    assert [each.key for each in sent(link)] == [encode_key("a"), encode_key(b"a")]

"""The books of shards, by hand and at random: each job is in one place, and what is done never comes back."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from raykv.client import shards
from raykv.client.shards import Book, Claim, Slot, Waiting, filled, job_id, jobs_of, parsed_id, places_of
from raykv.errors import CorruptData, InvalidOption


def slots_of(*sizes: int, due_ms: int = 0) -> dict[int, Slot]:
    slots, before = {}, 0
    for seq, size in enumerate(sizes):
        slots[seq] = Slot(seq, before, b"put", due_ms, [b"x"] * size)
        before += size
    return slots


def taken(book: Book, slots: dict[int, Slot], count: int, name: bytes, now_ms: int = 0) -> list[shards.Range]:
    ranges = book.take(slots, count, now_ms)
    if ranges:
        book.claims.append(Claim(name, "", 1000, 0, now_ms, ranges))
    return ranges


def test_a_claim_takes_what_comes_next_over_several_slots() -> None:
    book, slots = Book(), slots_of(3, 4, 2)
    assert taken(book, slots, 5, b"a") == [(0, 0, 3, 1), (1, 0, 2, 1)]
    assert (book.head, book.at, book.before, book.taken) == (1, 2, 3, 5)
    assert taken(book, slots, 100, b"b") == [(1, 2, 4, 1), (2, 0, 2, 1)]
    assert (book.head, book.at, book.before, book.tail, book.tail_before) == (3, 0, 9, 3, 9)
    assert taken(book, slots, 1, b"c") == []


def test_a_slot_is_freed_with_its_last_job() -> None:
    book, slots = Book(), slots_of(3)
    taken(book, slots, 2, b"a")
    taken(book, slots, 2, b"b")
    assert book.finish(b"a", {(0, 0), (0, 1)}) == 2
    assert book.freed == []
    assert book.finish(b"a", {(0, 0)}) == 0, "it is done"
    assert book.finish(b"b", {(0, 2), (0, 0)}) == 1, "of its own only"
    assert (book.freed, book.done, book.claims) == ([0], 3, [])


def test_what_is_given_back_comes_before_what_is_fresh_and_once_it_is_due() -> None:
    book, slots = Book(), slots_of(4)
    taken(book, slots, 3, b"a")
    assert book.give_back(b"a", {(0, 1)}, 500, 5) == 1
    assert book.claim_of(b"a") == Claim(b"a", "", 1000, 0, 0, [(0, 0, 1, 1), (0, 2, 3, 1)])
    assert taken(book, slots, 1, b"b", now_ms=499) == [(0, 3, 4, 1)]
    assert taken(book, slots, 1, b"c", now_ms=500) == [(0, 1, 2, 2)]
    assert book.redelivered == 1


def test_one_delivery_too_many_makes_a_dead_letter_unless_it_does_not_count() -> None:
    book, slots = Book(), slots_of(2)
    taken(book, slots, 2, b"a")
    book.give_back(b"a", {(0, 0)}, 0, 0)
    assert book.again == [Waiting(0, (0, 0, 1, 0))]
    book.expire([b"a", b"unknown"], 1)
    assert (book.dead, book.claims) == ([(0, 1, 2, 1)], [])
    assert book.revive({(0, 0)}) == 0
    assert book.revive({(0, 1)}) == 1
    assert (book.dead, len(book.again)) == ([], 2)
    taken(book, slots, 2, b"b")
    book.expire([b"b"], 1)
    assert book.bury({(0, 0)}) == 1
    assert (book.dead, book.freed) == ([(0, 1, 2, 1)], [])
    assert book.bury(None) == 1
    assert (book.dead, book.freed) == ([], [0])


def test_dead_letters_have_a_limit_beyond_which_jobs_are_delivered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_DEAD", 1)
    book, slots = Book(), slots_of(3)
    for name in (b"a", b"b"):
        taken(book, slots, 1, name)
    book.expire([b"a", b"b"], 1)
    assert (len(book.dead), len(book.again)) == (1, 1)


def test_a_book_that_is_full_gives_out_nothing_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_RANGES", 2)
    book, slots = Book(), slots_of(9)
    assert [len(taken(book, slots, 1, bytes([name]))) for name in range(4)] == [1, 1, 0, 0]
    book.finish(b"\0", {(0, 0)})
    assert taken(book, slots, 1, b"x") == [(0, 2, 3, 1)]


def test_what_is_not_due_is_passed() -> None:
    book, slots = Book(), slots_of(2, 3, due_ms=100)
    book.pass_delayed(slots, 99)
    assert (book.head, book.again) == (2, [Waiting(100, (0, 0, 2, 0)), Waiting(100, (1, 0, 3, 0))])
    assert taken(book, slots, 9, b"a", 99) == []
    assert taken(book, slots, 3, b"a", 100) == [(0, 0, 2, 1), (1, 0, 1, 1)]
    assert book.redelivered == 0


@pytest.mark.parametrize("seed", range(30))
def test_each_job_is_in_one_place(seed: int) -> None:
    rng = random.Random(seed)
    slots = slots_of(*(rng.randint(1, 6) for _ in range(12)))
    every = {(seq, at) for seq, slot in slots.items() for at in range(len(slot.jobs))}
    book, done = Book(), set()
    for number in range(400):
        book = Book.of(book.encoded(), "jobs")
        held = [(claim.id, {place for place, _ in places_of(claim.ranges)}) for claim in book.claims]
        what = rng.choice(["take", "finish", "back", "expire", "revive"])
        if what == "take":
            taken(book, slots, rng.randint(1, 5), number.to_bytes(4))
        elif what == "revive":
            book.revive(None)
        elif held:
            claim, places = rng.choice(held)
            some = {*rng.sample(sorted(places), rng.randint(1, len(places)))}
            if what == "finish":
                assert book.finish(claim, some) == len(some)
                done |= some
            elif what == "back":
                assert book.give_back(claim, some, 0, 3) == len(some)
            else:
                book.expire([claim], 3)
        ranges = [part for claim in book.claims for part in claim.ranges]
        ranges += [waiting.range for waiting in book.again] + book.dead
        where = Counter(place for place, _ in places_of(ranges))
        where.update(place for place in every if place >= (book.head, book.at))
        where.update(done)
        assert where == dict.fromkeys(every, 1)
        assert book.done == len(done)
        assert {*book.freed} == {seq for seq in slots if {(seq, at) for at in range(len(slots[seq].jobs))} <= done}
        assert book.taken == sum(place < (book.head, book.at) for place in every)
        assert all(book.has(place) == (place not in done) for place in every if place < (book.head, book.at))
        assert jobs_of(ranges) == len(every) - len(done) - sum(place >= (book.head, book.at) for place in every)


def test_jobs_are_dealt_out_by_number_and_size() -> None:
    assert [len(slot) for slot in filled([b"x"] * 250)] == [100, 100, 50]
    assert [len(slot) for slot in filled([b"x" * 20_000] * 5)] == [2, 2, 1]
    assert [len(slot) for slot in filled([b"x", b"y" * 900_000, b"z"])] == [1, 1, 1]
    assert filled([]) == []


def test_fences_grow_with_each_use_of_a_slot_s_key() -> None:
    fences = [
        fence(seq)
        for seq in (5, 5 + shards.RING, 5 + 2 * shards.RING)
        for fence in (shards.put_fence, shards.free_fence)
    ]
    assert fences == [1, 2, 3, 4, 5, 6]


def test_the_name_of_a_job() -> None:
    assert parsed_id(job_id(3, (170, 99))) == (3, (170, 99))
    for bad in ("", "1.2", "1.2.x", "1.2.3.4", "1.2.-3", 3, None, "1.2.٣", 10**5000, ["x" * 1000]):
        with pytest.raises(InvalidOption, match=r"a job's id is three numbers.{,120}$"):
            parsed_id(bad)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x93\x02\x00\x00", Book(format=9).encoded()])
def test_what_is_no_book_is_refused(data: bytes) -> None:
    if data == b"\x90":
        assert Book.of(data, "jobs") == Book(), "fields that are missing have their defaults"
        return
    with pytest.raises(CorruptData, match="book of queue 'jobs'"):
        Book.of(data, "jobs")


def test_what_is_no_slot_is_refused() -> None:
    slot = Slot(1, 2, b"id", 0, [b"a"])
    assert shards.slot_of(shards.encoded(slot), "jobs") == slot
    for data in (b"", b"\x90", shards.encoded(Slot(1, 2, b"id", 0, [b""] * 101))):
        with pytest.raises(CorruptData):
            shards.slot_of(data, "jobs")
    with pytest.raises(CorruptData):
        shards.Settings.of(b"\x92\x00\x00", "jobs")

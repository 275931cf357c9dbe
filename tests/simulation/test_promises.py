"""The nodes' promises: what they have acknowledged or shown."""

from __future__ import annotations

import pytest

from raykv.config import StoreConfig
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, pack_tombstone_body, stamp
from raykv.ring import partition_of_key
from raykv.sim.kernel import VirtualLoop
from simulation.promises import Promises

KEY = encode_key("k")
OLD, NEW = (stamp(pack_body(bytes([number]) * 16, b"v"), number << 16) for number in (1, 2))
READ = f.Read(1, [KEY])
SCAN = f.Scan(1, b"", b"\xff", 10, False, False, [partition_of_key(KEY, 8)])


class Bench:
    def __init__(self, forgiven=()):
        self.promises = Promises(VirtualLoop(), StoreConfig(name="sim", copies=3, partitions=8), set(forgiven), 0.0)

    def say(self, body, answer, before=None, wall_ms=0):
        self.promises.answered(
            "n1",
            f.node_requests.encode(f.NodeRequest(0, body)),
            f.node_answers.encode(f.NodeAnswer(1, answer)),
            self.promises.before("n1") if before is None else before,
            wall_ms,
        )
        return len(self.promises.broken)


@pytest.fixture
def bench():
    return Bench()


def test_more_is_fine_and_less_is_not(bench):
    assert bench.say(f.Write(1, [(KEY, OLD)]), f.WriteDone([0])) == 0
    assert bench.say(READ, f.ReadDone([OLD])) == 0
    assert bench.say(READ, f.ReadDone([NEW])) == 0
    assert bench.say(f.Read(2, [KEY]), f.ReadDone([None])) == 0, "another bucket"
    assert bench.say(READ, f.ReadDone([OLD])) == 1
    assert bench.say(READ, f.ReadDone([None])) == 2


def test_what_was_not_taken_is_not_promised(bench):
    assert bench.say(f.Write(1, [(KEY, NEW)]), f.WriteDone([7])) == 0
    assert bench.say(f.Write(1, [(KEY, NEW)]), f.NodeRefused("overloaded", "")) == 0
    assert bench.say(READ, f.ReadDone([None])) == 0


def test_saying_that_it_cannot_tell_is_keeping_ones_word(bench):
    bench.say(f.Write(1, [(KEY, NEW)]), f.WriteDone([0]))
    assert bench.say(READ, f.Incomplete("wiped")) == 0
    assert bench.say(READ, f.ReadDone([None], [0])) == 0


def test_what_was_promised_while_an_answer_was_on_its_way_does_not_bind_it(bench):
    before = bench.promises.before("n1")
    bench.say(f.Write(1, [(KEY, NEW)]), f.WriteDone([0]))
    assert bench.say(READ, f.ReadDone([None]), before) == 0


def test_a_scan_keeps_it_too(bench):
    bench.say(f.Write(1, [(KEY, NEW)]), f.WriteDone([0]))
    assert bench.say(SCAN, f.ScanDone([(KEY, NEW)], None)) == 0
    assert bench.say(SCAN, f.ScanDone([], b"\x00")) == 0, "it does not reach as far"
    assert bench.say(f.Scan(1, b"\xf0", b"\xff", 10, False, False, SCAN.partitions), f.ScanDone([], None)) == 0
    assert bench.say(f.Scan(1, b"", b"\xff", 10, False, False, []), f.ScanDone([], None)) == 0
    assert bench.say(SCAN, f.ScanDone([(KEY, OLD)], None)) == 1
    assert bench.say(SCAN, f.ScanDone([], None)) == 2


def test_a_copied_directory_is_forgiven_and_reports_are_few():
    forgiven = Bench(["n1"])
    forgiven.say(f.Write(1, [(KEY, NEW)]), f.WriteDone([0]))
    assert forgiven.say(READ, f.ReadDone([None])) == 0
    many = Bench()
    many.say(f.Write(1, [(KEY, NEW)]), f.WriteDone([0]))
    for _ in range(10):
        reported = many.say(READ, f.ReadDone([None]))
    assert reported == 3


def test_a_node_takes_nothing_from_far_ahead_of_its_clock(bench):
    late = stamp(pack_body(b"3" * 16, b"v"), 100_000 << 16)
    assert bench.say(f.Write(1, [(KEY, late)]), f.WriteDone([0]), wall_ms=50_000) == 0
    assert bench.say(f.Write(1, [(KEY, late)]), f.WriteDone([0]), wall_ms=30_000) == 1
    assert "70 s ahead" in bench.promises.broken[0].text


def test_a_write_counts_on_no_node_that_acknowledged_a_former_stamp_only(bench):
    bench.say(f.Write(1, [(KEY, OLD)]), f.WriteDone([0]))
    mark = NEW[1:25]
    bench.promises.check_held(KEY, mark, ["n2"], lambda _: False)
    assert bench.promises.broken == [], "of a node that was never heard nothing is known"
    bench.promises.check_held(KEY, mark, ["n1"], lambda _: False)
    assert [violation.rule for violation in bench.promises.broken] == ["counted under a former stamp"]
    bench.promises.broken.clear()
    bench.say(f.Write(1, [(KEY, NEW)]), f.WriteDone([0]))
    bench.promises.check_held(KEY, mark, ["n1"], lambda _: False)
    assert bench.promises.broken == []


def test_what_all_have_agreed_to_forget_is_no_promise_any_more_where_a_node_holds_another_by_now(bench):
    dead = stamp(pack_tombstone_body(bytes(16)), 1 << 16)
    for record in (dead, NEW):
        bench.promises = Bench().promises
        bench.promises._grace_ms = 1000
        bench.say(f.Write(1, [(KEY, record)]), f.WriteDone([0]))
        bench.promises.answered(
            "n2",
            f.node_requests.encode(f.NodeRequest(0, f.Purge([(1, KEY, 7)], sure=True))),
            f.node_answers.encode(f.NodeAnswer(1, f.Purged([]))),
            {},
            0,
        )
        assert bench.say(READ, f.ReadDone([None])) == (record == NEW)

"""The checkers' demands, each of which fails when it should."""

from __future__ import annotations

import pytest

from raykv.client.codecs import encode_value
from raykv.protocol import frames as f
from raykv.records.record import pack_body, pack_tombstone_body, stamp
from raykv.sim.host import EPOCH_MS
from raykv.versions import time_from_ms
from simulation.checkers import check_buckets, check_history
from simulation.history import BucketSeen, History, ScanSeen

LETTERS = "".join(map(chr, range(ord("a"), ord("z") + 1)))
"""All keys here are in the bucket where the last writer wins."""


class Book:
    """A history, written by hand. Times in seconds; ``stamp_s`` is the hybrid time that a write was given."""

    def __init__(self):
        self.history = History()
        self.operations = 0

    def write(
        self, kind, key, value, began, ended, stamp_s=None, outcome="ok", w=2, ttl_s=None, heard_s=None, acks=None
    ):
        self.operations += 1
        operation = self.operations.to_bytes(16, "big")
        stamps = stamp_s if isinstance(stamp_s, list) else [began if stamp_s is None else stamp_s]
        for at_s in stamps:
            if kind == "put":
                ttl_ms = None if ttl_s is None else int(ttl_s * 1000)
                body = pack_body(operation, encode_value(value, "auto"), ttl_ms)
            else:
                body = pack_tombstone_body(operation)
            record = stamp(body, time_from_ms(EPOCH_MS + int(at_s * 1000)))
            self.history.stamps.hear(began if heard_s is None else heard_s, f.Write(1, [(b"\x02k", record)]))
        self.history.add(
            "c",
            kind,
            key,
            began,
            ended,
            outcome,
            value=value,
            operation_id=operation.hex(),
            ttl_s=ttl_s,
            level=w,
            acks=acks,
        )

    def put(self, value, began, ended, key="k", **options):
        self.write("put", key, value, began, ended, **options)

    def delete(self, began, ended, key="k", **options):
        self.write("delete", key, None, began, ended, **options)

    def get(self, value, began, ended, key="k", r=2):
        self.history.add("d", "get", key, began, ended, "ok", value=value, level=r)

    def scan(self, keys, began, ended, prefix="", reverse=False):
        self.history.scans.append(ScanSeen("d", began, ended, prefix, reverse, keys, 2))

    def rules(self, copies=3, skew_ms=0.0, strict=True):
        found = check_history(self.history, copies, skew_ms, plain=LETTERS, strict=strict)
        return sorted({violation.rule for violation in found})


@pytest.fixture
def book():
    return Book()


def test_what_is_as_it_should_be(book):
    book.get(None, 0, 0.5)
    book.put("a", 1, 2)
    book.get("a", 3, 4)
    book.put("b", 3.5, 6)
    book.get("a", 5, 5.5)
    book.get("b", 5.6, 6.2)
    book.get("b", 7, 8)
    book.delete(9, 10)
    book.get(None, 11, 12)
    assert book.rules() == []


def test_an_acknowledged_write_that_is_not_read(book):
    book.put("a", 1, 2)
    book.put("b", 3, 4)
    book.get("a", 5, 6)
    assert book.rules() == ["lost or stale"]


def test_an_acknowledged_write_that_is_gone(book):
    book.put("a", 1, 2)
    book.get(None, 3, 4)
    assert book.rules() == ["lost or stale"]


def test_a_read_that_began_earlier_may_have_the_older(book):
    book.put("a", 1, 2)
    book.put("b", 3, 4)
    book.get("a", 3.9, 6)
    assert book.rules() == []


def test_reads_that_go_backward(book):
    book.put("a", 1, 2)
    book.put("b", 3, 9, outcome="unknown")
    book.get("b", 4, 5)
    book.get("a", 6, 7)
    assert book.rules() == ["went backward"]


def test_reads_of_one_copy_may_go_backward(book):
    book.put("a", 1, 2, w=3)
    book.put("b", 3, 9, outcome="unknown", w=3)
    book.get("b", 4, 5, r=1)
    book.get("a", 6, 7, r=1)
    assert book.rules() == []
    assert book.rules(strict=False) == ["went backward"]


def test_a_weak_store_is_held_to_it_when_asked(book):
    book.put("a", 1, 2, w=1)
    book.get(None, 3, 4, r=1)
    assert book.rules() == []
    assert book.rules(strict=False) == ["lost or stale"]


def test_a_write_acknowledged_below_what_was_there(book):
    """P7's schedule: the second coordinator's clock is behind."""
    book.put("a", 1, 2, stamp_s=1.0)
    book.put("b", 3, 4, stamp_s=0.95)
    book.get("a", 5, 6)
    assert book.rules() == ["acknowledged and shadowed"]


def test_a_write_acknowledged_below_what_was_read(book):
    book.put("a", 1, 9, stamp_s=5.0, outcome="unknown")
    book.get("a", 2, 3)
    book.put("b", 3.5, 4, stamp_s=3.0)
    assert book.rules() == ["acknowledged and shadowed"]


def test_a_write_stamped_again_counts_with_its_last_stamp(book):
    book.put("a", 1, 2, stamp_s=1.5)
    book.put("b", 3, 4, stamp_s=[1.2, 1.6])
    book.get("b", 5, 6)
    assert book.rules() == []


def test_an_unknown_write_may_surface_later_or_never(book):
    book.put("a", 1, 2)
    book.put("b", 3, 4, outcome="unknown")
    book.get("a", 5, 6)
    book.get("b", 7, 8)
    book.get("b", 9, 10)
    assert book.rules() == []


def test_a_write_of_which_nothing_was_written_does_not_surface(book):
    book.put("a", 1, 2, outcome="refused")
    book.get("a", 3, 4)
    assert book.rules() == ["refused write stands"]


def test_a_value_that_nobody_wrote(book):
    book.get("x", 1, 2)
    assert book.rules() == ["invented"]


def test_a_value_of_another_key(book):
    book.put("a", 1, 2, key="j")
    book.get("a", 3, 4, key="k")
    assert book.rules() == ["invented"]


def test_a_value_before_it_was_written(book):
    book.get("a", 1, 2)
    book.put("a", 3, 4)
    assert book.rules() == ["invented"]


def test_a_deleted_key_that_comes_back(book):
    book.put("a", 1, 2)
    book.delete(3, 4)
    book.get("a", 5, 6)
    assert book.rules() == ["lost or stale"]


def test_an_unknown_delete_explains_nothing_found(book):
    book.put("a", 1, 2)
    book.delete(3, 4, outcome="unknown")
    book.get(None, 5, 6)
    assert book.rules() == []
    book.get("a", 7, 8)
    assert book.rules() == [], "nothing found may have been the older absence; a stricter rule would need the stamp"


def test_an_older_delete_does_not_explain_it(book):
    book.delete(1, 2)
    book.put("a", 3, 4)
    book.get(None, 5, 6)
    assert book.rules() == ["lost or stale"]


@pytest.mark.parametrize(("value", "at_s", "rules"), [
    ("a", 2.0, []), (None, 2.0, ["lost or stale"]), (None, 5.0, []), ("a", 5.0, ["expired value read"]),
])  # fmt: skip
def test_a_value_with_a_ttl(book, value, at_s, rules):
    book.put("a", 1, 1.1, ttl_s=2.0)
    book.get(value, at_s, at_s + 0.1)
    assert book.rules() == rules
    assert book.rules(skew_ms=3000.0) == [], "as far as the clocks can be off"


def test_a_scan_that_lacks_an_untouched_key(book):
    book.put("a", 1, 2, key="k1")
    book.put("b", 1, 2, key="k2")
    book.scan(["k1"], 3, 4, prefix="k")
    assert book.rules() == ["lost or stale"]


def test_a_scan_may_lack_what_was_touched_meanwhile_or_may_be_at_any_time(book):
    book.put("a", 1, 2, key="k1")
    book.put("a2", 3.5, 3.6, key="k1")
    book.put("b", 1, 2, key="k2")
    book.delete(2.5, 2.6, key="k2", outcome="unknown")
    book.put("c", 1, 2, key="other")
    book.scan([], 3, 4, prefix="k")
    assert book.rules() == []


@pytest.mark.parametrize("keys", [["k2", "k1"], ["k1", "k1"]])
def test_a_scan_out_of_order_or_with_a_key_twice(book, keys):
    book.scan(keys, 3, 4)
    assert book.rules() == ["scan out of order"]


def test_a_scan_backward(book):
    book.scan(["k2", "k1"], 3, 4, reverse=True)
    assert book.rules() == []


def test_a_bucket_that_has_another_id_and_an_id_given_twice():
    history = History()
    history.buckets = [BucketSeen("c", "a", 2, 1.0), BucketSeen("d", "a", 2, 2.0), BucketSeen("c", "b", 3, 3.0)]
    assert check_buckets(history) == []
    history.buckets.append(BucketSeen("c", "a", 4, 4.0))
    assert [violation.rule for violation in check_buckets(history)] == ["bucket forgotten"]
    history.buckets[-1] = BucketSeen("c", "c", 3, 4.0)
    assert [violation.rule for violation in check_buckets(history)] == ["bucket id given twice"]


@pytest.mark.parametrize(
    ("acks", "outcome", "rules"),
    [
        (("n1", "n2"), "ok", []),
        (("n1",), "ok", ["acknowledged by too few"]),
        (("n1", "n1"), "ok", ["acknowledged by too few"]),
        ((), "ok", ["acknowledged by too few"]),
        (("n1",), "unknown", []),
        (None, "ok", []),
    ],
)
def test_an_acknowledged_write_names_w_nodes(book, acks, outcome, rules):
    book.put("a", 1, 2, acks=acks, outcome=outcome)
    assert book.rules() == rules

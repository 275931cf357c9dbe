"""The demands on keys with vector versions, each of which fails when it should."""

from __future__ import annotations

import pytest

from raykv.client.codecs import encode_value
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.record import pack_body, pack_tombstone_body
from raykv.sim.host import EPOCH_MS
from raykv.versions import time_from_ms
from raykv.versions.causality import union, with_dot
from raykv.versions.dvvset import event
from simulation.checkers import check_history
from simulation.history import History

ACTOR = b"a-node.."
OTHER = b"another."


def dot(counter, actor=ACTOR):
    return actor, counter


def seen(*dots):
    history = ()
    for one in dots:
        history = with_dot(history, one)
    return history


class Book:
    """A history, written by hand. Times in seconds."""

    def __init__(self):
        self.history = History()
        self.operations = 0

    def put(self, value, began, ended, own, *over, **options):
        """Write ``value`` under the dot ``own``, over the dots ``over``. ``blind``: it had no context."""
        self._write("put", value, began, ended, own, over, **options)

    def delete(self, began, ended, own, *over, **options):
        self._write("delete", None, began, ended, own, over, **options)

    def _write(
        self, kind, value, began, ended, own, over,
        *, outcome="ok", w=2, blind=False, given=None, at_s=None, ttl_s=None, sent=True, operation=None, late_s=None,
    ):  # fmt: skip
        self.operations += 1
        operation = (self.operations if operation is None else operation).to_bytes(16, "big")
        body = pack_tombstone_body(operation)
        if kind == "put":
            body = pack_body(operation, encode_value(value, "auto"), None if ttl_s is None else int(ttl_s * 1000))
        time = time_from_ms(EPOCH_MS + int((began if at_s is None else at_s) * 1000)) + self.operations
        if sent:
            request = f.Write(1, [(b"\x02k", vector.encode(event(own, seen(*over), time, body)))])
            self.history.stamps.send(began if late_s is None else late_s, request)
            self.history.stamps.hear(began if late_s is None else late_s, request)
        context = None if blind else (seen(*over) if given is None else seen(*given))
        self.history.add(
            "c", kind, "k", began, ended, outcome, value=value, operation_id=operation.hex(), level=w, blind=blind,
            seen=context, ttl_s=ttl_s, until_s=ended,
        )  # fmt: skip

    def look(self, values, began, ended, *dots, r=2):
        """Read with the context."""
        newest = values[0] if values else None
        self.history.add(
            "d", "get", "k", began, ended, "ok", value=newest, values=tuple(values), seen=seen(*dots), level=r
        )

    def get(self, value, began, ended, r=2):
        self.history.add("d", "get", "k", began, ended, "ok", value=value, level=r)

    def rules(self, copies=3, skew_ms=0.0, strict=True):
        found = check_history(self.history, copies, skew_ms, strict=strict)
        return sorted({violation.rule for violation in found})


@pytest.fixture
def book():
    return Book()


def test_what_is_as_it_should_be(book):
    book.look([], 0, 0.5)
    book.put("a", 1, 2, dot(1), blind=True)
    book.look(["a"], 3, 4, dot(1))
    book.put("b", 5, 6, dot(2), dot(1))
    book.put("c", 5, 6, dot(1, OTHER), dot(1))
    book.look(["c", "b"], 7, 8, dot(1), dot(2), dot(1, OTHER))
    book.get("c", 7, 8)
    book.put("d", 9, 10, dot(3), dot(1), dot(2), dot(1, OTHER))
    book.look(["d"], 11, 12, dot(1), dot(2), dot(3), dot(1, OTHER))
    book.delete(13, 14, dot(4), dot(1), dot(2), dot(3), dot(1, OTHER))
    book.look([], 15, 16, *map(dot, range(1, 5)), dot(1, OTHER))
    book.get(None, 15, 16)
    assert book.rules() == []


def test_an_acknowledged_write_that_a_later_context_has_not_seen(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.look([], 3, 4)
    assert book.rules() == ["lost or stale"]


def test_a_read_that_began_earlier_may_not_have_seen_it(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.look([], 1.9, 4)
    assert book.rules() == []


def test_levels_that_need_not_meet_promise_nothing_unless_asked(book):
    book.put("a", 1, 2, dot(1), w=1)
    book.look([], 3, 4, r=1)
    assert book.rules() == []
    assert book.rules(strict=False) == ["lost or stale"]


def test_an_acknowledged_write_that_is_gone(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.get(None, 3, 4)
    assert book.rules() == ["lost or stale"]


def test_a_read_of_one_value_shows_nothing_older_than_what_was_acknowledged(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.put("b", 3, 4, dot(2))
    book.get("a", 5, 6)
    assert book.rules() == ["lost or stale"]


def test_a_newer_delete_explains_that_nothing_was_found_and_an_older_one_does_not(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.delete(1.5, 9, dot(2), outcome="unknown")
    book.get(None, 3, 4)
    assert book.rules() == []
    book.put("b", 5, 6, dot(3), dot(1), dot(2))
    book.get(None, 7, 8)
    assert book.rules() == ["lost or stale"]


def test_a_version_that_was_seen_and_vanished(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.put("b", 1, 2, dot(2), blind=True, at_s=1.1)
    book.look(["b"], 3, 4, dot(1), dot(2))
    assert book.rules() == ["vanished"]


def test_an_unknown_write_that_had_seen_it_explains_it(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.delete(2.5, 9, dot(2), dot(1), outcome="unknown")
    book.look([], 3, 4, dot(1), dot(2))
    book.get(None, 3, 4)
    assert book.rules() == []


def test_contexts_that_shrink(book):
    book.put("a", 1, 9, dot(1), blind=True, outcome="unknown")
    book.look(["a"], 2, 3, dot(1))
    book.look([], 4, 5)
    assert book.rules() == ["went backward"]


def test_a_blind_write_beside_what_was_acknowledged(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.put("b", 3, 4, dot(2), blind=True)
    assert book.rules() == ["acknowledged and not superseded"]


def test_blind_writes_at_the_same_time_may_stand_side_by_side(book):
    book.put("a", 1, 3.5, dot(1), blind=True)
    book.put("b", 3, 4, dot(2), blind=True)
    book.look(["b", "a"], 5, 6, dot(1), dot(2))
    assert book.rules() == []


def test_a_write_with_a_context_may_stand_beside_what_it_has_not_seen(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.put("b", 3, 4, dot(2))
    assert book.rules() == []


def test_a_context_that_was_changed_on_the_way(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.put("b", 3, 4, dot(2), dot(1), given=())
    assert book.rules() == ["context changed"]


def test_a_deleted_value_that_comes_back(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.delete(3, 4, dot(2), dot(1))
    book.look(["a"], 5, 6, dot(1), dot(2))
    assert book.rules() == ["superseded and back"]


def test_a_value_of_an_unknown_delete_may_still_be_there(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.delete(3, 4, dot(2), dot(1), outcome="unknown")
    book.get("a", 5, 6)
    assert book.rules() == []


def test_a_write_stamped_at_or_below_what_it_supersedes(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.put("b", 3, 4, dot(2), dot(1), at_s=0.5)
    assert book.rules() == ["stamped below"]


def test_values_out_of_order(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.put("b", 1.5, 2, dot(2), blind=True)
    book.look(["a", "b"], 3, 4, dot(1), dot(2))
    assert book.rules() == ["not newest first"]


def test_a_value_that_nobody_wrote(book):
    book.look(["x"], 1, 2)
    assert book.rules() == ["invented"]


def test_a_value_whose_write_was_reported_as_refused(book):
    book.put("a", 1, 2, dot(1), blind=True, outcome="refused")
    book.look(["a"], 3, 4, dot(1))
    assert book.rules() == ["refused write stands"]


@pytest.mark.parametrize(
    ("value", "at_s", "rules"),
    [("a", 2.5, []), ("a", 9, ["expired value read"]), (None, 9, []), (None, 2.5, ["lost or stale"])],
)
def test_a_value_with_a_ttl(book, value, at_s, rules):
    book.put("a", 1, 2, dot(1), blind=True, ttl_s=3)
    book.get(value, at_s, at_s + 0.1)
    assert book.rules() == rules


def test_one_write_under_two_dots(book):
    book.put("a", 1, 2, dot(1), blind=True, operation=7)
    book.put("a", 1, 2, dot(1, OTHER), blind=True, operation=7)
    assert "two dots" in book.rules()


def test_one_dot_for_two_writes(book):
    book.put("a", 1, 2, dot(1), blind=True)
    book.put("b", 1, 2, dot(1), blind=True)
    assert "dot given twice" in book.rules()


def test_an_acknowledgement_of_what_was_never_sent(book):
    book.put("a", 1, 2, dot(1), blind=True, sent=False)
    assert book.rules() == ["acknowledged and not sent"]


def test_a_write_that_is_sent_out_after_its_time(book):
    book.put("a", 1, 2, dot(1), blind=True, outcome="unknown", late_s=2.4)
    assert book.rules() == []
    book.put("b", 1, 2, dot(1, OTHER), blind=True, outcome="unknown", late_s=2.6)
    assert book.rules() == ["carried out late"]


def test_the_union_of_what_was_seen_is_what_a_blind_write_supersedes():
    assert union(seen(dot(1)), seen(dot(2))) == seen(dot(1), dot(2)) == ((ACTOR, 1, 2),)

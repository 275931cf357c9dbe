"""The rounds of one term (L6, L7)."""

from __future__ import annotations

from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records.linear_record import Receipt, pack_term
from raykv.replica.applying import Head
from raykv.replica.tenure import Owned, Tenure

NODES = ("n1", "n2", "n3")
OWNED = Owned((NODES,), NODES, NODES)
NAME = (1, b"k")


def changed(tenure: Tenure, payload: bytes) -> None:
    """Change the key."""
    head = tenure.heads.setdefault(NAME, Head())
    stamp = tenure.next_stamp()
    head.payload, head.version = payload, stamp
    head.keep(Receipt(b"lane 001", tenure.next_stamp()[-1], c.DONE), 9.0)
    tenure.change(NAME, head, stamp, f.Settled(c.DONE), lambda _: None)


def test_a_record_that_is_sent_again_is_the_same_bytes_whatever_receipts_are_over() -> None:
    tenure = Tenure((0, 3), pack_term(1, 1), (NODES,))
    changed(tenure, b"one")
    first = tenure.begin(OWNED)
    sent = first.records()
    tenure.redo(first)
    tenure.heads[NAME].forget([b"lane 001"])
    again = tenure.begin(OWNED)
    assert again.records() == sent, "a stamp names one byte string"
    tenure.redo(again)
    changed(tenure, b"two")
    third = tenure.begin(OWNED)
    ((_, _, record),) = third.records()
    assert record[1:25] > sent[0][2][1:25], "what was changed since has a stamp of its own"
    tenure.end(third)
    assert not tenure.sent
    assert not tenure.wanted

"""The checker of linearizable buckets: what it takes, and what it must refuse."""

import pytest

from simulation.change_checker import ChangeOp, check_changes

V1, V2, V3 = (bytes(15) + bytes([number]) + bytes(8) for number in (1, 2, 3))


def op(client, kind, invoked_s, returned_s, outcome="ok", *, key="lr1", **told):
    return ChangeOp(client, kind, key, invoked_s, returned_s, outcome, **told)


def put(client, invoked_s, returned_s, value, outcome="ok", **told):
    return op(client, "put", invoked_s, returned_s, outcome, given=value, **told)


def get(client, invoked_s, returned_s, got, **told):
    return op(client, "get", invoked_s, returned_s, got=got, **told)


def add(client, invoked_s, returned_s, amount, got=None, outcome="ok", key="lm1"):
    return op(client, "add", invoked_s, returned_s, outcome, given=amount, got=got, key=key)


def rules(*ops):
    return sorted({violation.rule for violation in check_changes(ops)})


UNKNOWN_PUT = put("a", 0, 1, "x", "unknown")
GOOD = {
    "nothing at all": (),
    "one after the other": (put("a", 0, 1, "x", version=V1), get("b", 2, 3, "x", version=V1)),
    "an unknown put that takes effect late": (UNKNOWN_PUT, get("b", 2, 3, None), get("b", 4, 5, "x")),
    "an unknown put that never does": (UNKNOWN_PUT, get("b", 2, 3, None), get("b", 9, 10, None)),
    "its version is learned from a read": (
        UNKNOWN_PUT, get("b", 2, 3, "x", version=V1),
        put("b", 4, 5, "y", condition=V1, version=V2), get("a", 6, 7, "y", version=V2),
    ),
    "a conflict shows what stands": (
        put("a", 0, 1, "x", version=V1),
        put("b", 2, 3, "y", "conflict", condition=b"", got="x", version=V1),
    ),
    "an insert after a delete": (
        put("a", 0, 1, "x", version=V1), op("a", "delete", 2, 3, version=V2),
        put("b", 4, 5, "y", condition=b"", version=V3), get("b", 6, 7, "y"),
    ),
    "a delete that is forgotten": (
        put("a", 0, 1, "x", version=V1), op("a", "delete", 2, 3, version=V2),
        get("b", 4, 5, None, version=V2), get("b", 6, 7, None, version=b""),
        put("b", 8, 9, "y", "conflict", condition=V2, got=None, version=b""),
    ),
    "adds in one order": (add("a", 0, 9, 2, 5), add("b", 0, 9, 3, 3), get("c", 10, 11, 5, key="lm1")),
    "an unknown add, counted once": (add("a", 0, 1, 2, None, "unknown"), add("b", 2, 3, 3, 5)),
    "max and min": (
        add("a", 0, 1, 2, 2), op("a", "max", 2, 3, given=7, got=7, key="lm1"),
        op("a", "min", 4, 5, given=9, got=7, key="lm1"), op("a", "swap", 6, 7, given=1, got=7, key="lm1"),
    ),
    "a max that changes nothing keeps the version": (
        put("a", 0, 1, 5, version=V1, key="lm1"), op("b", "max", 2, 3, given=3, got=5, key="lm1"),
        put("a", 4, 5, 6, condition=V1, version=V2, key="lm1"),
    ),
    "an update": (put("a", 0, 1, "x"), op("b", "update", 2, 3, given="y", seen="x"), get("a", 4, 5, "y")),
    "fencing tokens": (
        put("a", 0, 1, "x", fence=2), put("b", 2, 3, "y", "fenced", fence=1, got="x"), put("b", 4, 5, "y", fence=2),
        put("c", 6, 7, "z", fence=0),
    ),
}  # fmt: skip
BAD = {
    "a stale read": (put("a", 0, 1, "x"), put("a", 2, 3, "y"), get("b", 4, 5, "x")),
    "new, then old": (put("a", 0, 1, "x"), put("a", 2, 9, "y"), get("b", 3, 4, "y"), get("c", 5, 6, "x")),
    "an acknowledged put that is not there": (put("a", 0, 1, "x"), get("b", 2, 3, None)),
    "an unknown put that comes and goes": (UNKNOWN_PUT, get("b", 2, 3, "x"), get("b", 4, 5, None)),
    "an unknown put that takes effect twice": (
        UNKNOWN_PUT, get("b", 2, 3, "x"), put("b", 4, 5, "y"), get("b", 6, 7, "x"),
    ),
    "a value before it was written": (get("b", 0, 1, "x"), put("a", 2, 3, "x")),
    "a value that nobody wrote": (get("b", 0, 1, "x"),),
    "what was refused": (put("a", 0, 1, "x", "refused"), get("b", 2, 3, "x")),
    "what was refused by a conflict": (
        put("c", 0, 1, "z"), put("a", 2, 3, "x", "conflict", condition=b"", got="z"), get("b", 4, 5, "x"),
    ),
    "two inserts": (put("a", 0, 9, "x", condition=b""), put("b", 0, 9, "y", condition=b"")),
    "a condition on what does not stand any more": (
        put("a", 0, 1, "x", version=V1), put("a", 2, 3, "y", version=V2), put("b", 4, 5, "z", condition=V1, version=V3),
    ),
    "two successes on one version": (
        put("a", 0, 1, "x", version=V1), put("a", 2, 9, "y", condition=V1), put("b", 2, 9, "z", condition=V1),
    ),
    "a conflict although the condition held": (
        put("a", 0, 1, "x", version=V1), put("a", 2, 3, "y", "conflict", condition=V1, got="x", version=V1),
    ),
    "a conflict that shows what does not stand": (
        put("a", 0, 1, "x", version=V1), put("a", 2, 3, "y", version=V2),
        put("b", 4, 5, "z", "conflict", condition=b"", got="x", version=V1),
    ),
    "a conflict with another's version": (
        put("a", 0, 1, "x", version=V1), put("a", 2, 3, "y", version=V2),
        put("b", 4, 5, "z", "conflict", condition=b"", got="y", version=V1),
    ),
    "one version, two values": (
        put("a", 0, 1, "x", version=V1), put("a", 2, 3, "y", version=V1),
    ),
    "a version that goes back": (put("a", 0, 1, "x", version=V2), put("a", 2, 3, "y", version=V1)),
    "an add that is lost": (add("a", 0, 1, 2, 2), add("b", 2, 3, 3, 3)),
    "an add that counts twice": (add("a", 0, 1, 2, 2), get("b", 2, 3, 4, key="lm1")),
    "an unknown add that counts twice": (
        add("a", 0, 1, 2, None, "unknown"), get("b", 2, 3, 2, key="lm1"), get("b", 4, 5, 4, key="lm1"),
    ),
    "two adds of one sum": (add("a", 0, 9, 1, 1), add("b", 0, 9, 1, 1)),
    "a sum above all that is known": (
        add("a", 0, 1, 2, 2, key="ln1"), add("a", 2, 3, 4, None, "unknown", key="ln1"), get("a", 4, 5, 9, key="ln1"),
    ),
    "a swap that shows another value": (put("a", 0, 1, "x"), op("b", "swap", 2, 3, given="y", got=None)),
    "an update of what did not stand": (
        put("a", 0, 1, "x"), put("a", 2, 3, "y"), op("b", "update", 4, 5, given="z", seen="x"),
    ),
    "a lower token after a higher one": (put("a", 0, 1, "x", fence=2), put("b", 2, 3, "y", fence=1)),
    "a refused token that is shown another value": (
        put("a", 0, 1, "x", fence=2), put("b", 2, 3, "z", fence=2), put("c", 4, 5, "y", "fenced", fence=1, got="x"),
    ),
    "a token that is refused without reason": (put("a", 0, 1, "x", fence=2), put("b", 2, 3, "y", "fenced", fence=3)),
    "a deleted value that comes back": (put("a", 0, 1, "x"), op("a", "delete", 2, 3), get("b", 4, 5, "x")),
    "a max that lowers": (add("a", 0, 1, 5, 5), op("a", "max", 2, 3, given=3, got=3, key="lm1")),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_one_copy_could_have_answered_is_taken(name):
    assert rules(*GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_what_no_single_copy_could_have_answered_is_refused(name):
    assert rules(*BAD[name])


def test_what_cannot_be_decided_in_time_is_no_success():
    adds = [add(f"c{number}", 0, 1, 1, None, "unknown") for number in range(12)]
    assert {each.rule for each in check_changes([*adds, add("x", 2, 3, 1, 9)], max_steps=3)} == {"too hard"}


def test_a_line_says_what_was_asked_and_answered():
    line = put("a", 0, 1, "x..", "conflict", condition=V1, fence=3, got="y", version=V2).told()
    assert "'x' if" in line
    assert "fence 3 -> 'y' at" in line
    assert line.endswith(": conflict")

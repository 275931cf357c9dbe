"""Causal histories: which writes of one key a reader or a replica has seen.

A write of a key is named by its *dot*, ``(actor, counter)``. A history is a set of dots, kept as spans: sorted tuples
``(actor, low, high)``, disjoint, not adjacent. Where every span begins at 1 this is a version vector (Fidge 1988, Mattern
1989; Parker et al. 1983), as it is while no write overtakes another. If a write that has seen ``(a, 1..3)`` gets the dot
``(a, 5)``, a vector would have to claim ``(a, 4)`` too, and thus discard a concurrent write that nobody has seen; dotted
version vectors fix that defect (Preguiça et al. 2012, "Brief announcement: efficient causality tracking in distributed
storage systems with dotted version vectors"). Spans are exact for any number of dots, and close up by themselves once
the gap is filled (like the causal contexts of Almeida, Shoker & Baquero 2018, "Delta state replicated data types", 7.2).

Pure functions on tuples. Each is linear in the number of spans: about one an actor.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from raykv.errors import CorruptData
from raykv.records.vector_record import Dot, Seen, Span, check_seen, in_spans

MAX_CAUSALITY_BYTES = 1 << 20


def union(one: Seen, other: Seen) -> Seen:
    """Return the dots of both. Commutative, associative, idempotent."""
    if one == other or not other:
        return one
    if not one:
        return other
    spans: list[Span] = []
    for actor, low, high in sorted(one + other):
        if spans and spans[-1][0] == actor and low <= spans[-1][2] + 1:
            if high > spans[-1][2]:
                spans[-1] = (actor, spans[-1][1], high)
        else:
            spans.append((actor, low, high))
    return tuple(spans)


def with_dot(seen: Seen, dot: Dot) -> Seen:
    """Return the history with one more dot."""
    actor, counter = dot
    if len(seen) == 1 and seen[0][0] == actor and seen[0][2] == counter - 1:  # the usual case: one owner gave all dots
        return ((actor, seen[0][1], counter),)
    return union(seen, ((actor, counter, counter),))


def contains(seen: Seen, dot: Dot) -> bool:
    """Return whether the history has that dot."""
    return in_spans(seen, *dot)


def covers(seen: Seen, other: Seen) -> bool:
    """Return whether ``seen`` has every dot of ``other``. Spans are not adjacent, so each must lie within one."""
    if seen == other:
        return True
    for actor, low, high in other:
        for one, lowest, highest_ in seen:
            if one == actor and lowest <= low and high <= highest_:
                break
        else:
            return False
    return True


def highest(seen: Seen, actor: bytes) -> int:
    """Return the greatest counter of that actor; 0 if there is none."""
    return max((high for one, _, high in seen if one == actor), default=0)


def is_gapless(seen: Seen, actor: bytes, last: int) -> bool:
    """Return whether the history has all dots of that actor from 1 to ``last``."""
    return any(one == actor and low == 1 and last <= high for one, low, high in seen)


class Causality(NamedTuple):
    """What a reader has seen: the newest hybrid time, and the history. The content of a context."""

    time: int = 0
    seen: Seen = ()


_decoder = msgspec.msgpack.Decoder(tuple[int, Seen])
_encode = msgspec.msgpack.Encoder().encode
NOTHING_SEEN = _encode((0, ()))


def pack_causality(causality: Causality) -> bytes:
    """Return it as bytes, for messages."""
    return _encode(causality)


def unpack_causality(data: bytes) -> Causality:
    """Return the argument of ``pack_causality``. Raises ``CorruptData``."""
    if len(data) > MAX_CAUSALITY_BYTES:
        raise CorruptData(f"a causal history of {len(data)} bytes; at most {MAX_CAUSALITY_BYTES} are taken")
    try:
        time, seen = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptData(f"not a causal history: {error}") from None
    if not 0 <= time < 1 << 64:
        raise CorruptData("a causal history has no possible time")
    check_seen(seen)
    return Causality(time, seen)

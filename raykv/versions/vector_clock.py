"""Classic vector clocks, ``[server, version]`` pairs, for comparison. Not used by the store.

Fidge 1988 and Mattern 1989; as Dynamo used them (DeCandia et al. 2007, section 4.4): every value carries a clock, the
server that takes a write increments its own entry in the clock returned by the writer, and of two values the one whose
clock is at or below the other's is dropped.

Their defect, which dotted version vectors fix: with one entry a server, two clients that write through the same server
with the same context get clocks of which one is below the other, and a concurrent write is lost
(``tests/versions/test_vector_clock.py`` shows it). With one entry a client instead nothing is lost, but the clocks grow
with the number of clients; Dynamo then dropped the oldest entries, which loses the order again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

Clock: TypeAlias = Mapping[str, int]
"""Server -> version. A server without an entry has version 0."""
Order: TypeAlias = Literal["equal", "before", "after", "concurrent"]


def increment(clock: Clock, server: str) -> Clock:
    """Return the clock of a write that ``server`` took, given the clock that the writer had seen.

    >>> increment({"A": 1}, "B")
    {'A': 1, 'B': 1}
    """
    return {**clock, server: clock.get(server, 0) + 1}


def compare(one: Clock, other: Clock) -> Order:
    """Return the order of two clocks.

    >>> compare({"A": 1}, {"A": 2}), compare({"A": 2}, {"A": 1, "B": 1})
    ('before', 'concurrent')
    """
    servers = {*one, *other}
    below = all(one.get(server, 0) <= other.get(server, 0) for server in servers)
    above = all(one.get(server, 0) >= other.get(server, 0) for server in servers)
    if below and above:
        return "equal"
    return "before" if below else "after" if above else "concurrent"


def merge(one: Clock, other: Clock) -> Clock:
    """Return the least clock that is at or above both: the clock of a write that resolves the two."""
    return {server: max(one.get(server, 0), other.get(server, 0)) for server in sorted({*one, *other})}

"""The callers of a server, and the number of connections that each may have. No socket, no clock.

A caller is an identity that no process can forge: a process of this machine, which the kernel names, or the address of
another machine. The secret does not identify a caller, since all share it. Each caller has a share: of the connections,
of those that have proved nothing yet, and of what the node does at once (``admission``). Where there is no room left,
the caller with the most gives way.
"""

from __future__ import annotations

from typing import Protocol

OF_A_PROCESS, OF_A_HOST = 8, 2
"""The share of all connections (one in this many) for one process, or for all processes of another host."""
MAX_STRANGERS = 256
MAX_STRANGERS_OF_A_CALLER = 64
"""Connections that have not proved anything yet."""
SOON_S = 0.5
"""A caller at its limit of strangers replaces its oldest one, unless that came less than this time ago."""


class Guest(Protocol):
    """A connection."""

    caller: Caller
    came_s: float

    @property
    def idle(self) -> bool:
        """Whether it has no request in flight."""
        ...

    def go_on(self) -> None:
        """Begin the waiting requests, if there is room by now."""
        ...

    def drop(self) -> None:
        """Close it at once. It has left ``Callers`` by then."""
        ...


class Caller:
    """One caller."""

    def __init__(self, name: str, *, far: bool) -> None:
        """``far``: a host, not a process."""
        self.name = name
        self.far = far
        self.friends: dict[Guest, None] = {}
        """Its connections that have proved that they know the secret, the oldest first."""
        self.strangers: dict[Guest, None] = {}
        self.under_way = 0
        """Requests of all its connections in flight."""
        self.under_way_bytes = 0
        self.begun = 0
        """Requests that bypass ``admission``, begun in this turn of the event loop."""
        self.taken_s = 0.0
        """How long those took that were answered as they came."""
        self.held_up: dict[Guest, None] = {}
        """Connections whose reading is paused until fewer requests are in flight."""


class Callers:
    """All of a server's connections, by caller. O(1) each, O(callers) where there is no room."""

    def __init__(self, most: int) -> None:
        """``most``: connections of all together."""
        self.most = most
        self.by_name: dict[str, Caller] = {}
        self.friends: dict[Guest, None] = {}
        self.strangers: dict[Guest, None] = {}

    def let_in(self, name: str, now_s: float, *, far: bool) -> Caller | None:
        """Return the caller if it may have one more connection, to be passed to ``came``; None if it may not."""
        caller = self.by_name.get(name)
        if caller is None:
            caller = Caller(name, far=far)
        elif len(caller.friends) >= self._share(caller):
            return None
        if len(caller.strangers) >= MAX_STRANGERS_OF_A_CALLER and not _give_way(caller, now_s):
            return None
        if len(self.strangers) >= MAX_STRANGERS:
            most = max(self.by_name.values(), key=lambda each: len(each.strangers))
            if len(most.strangers) <= len(caller.strangers) or not _give_way(most, now_s, at_once=True):
                return None
        return caller

    def came(self, guest: Guest) -> None:
        """Record a connection, which has proved nothing yet."""
        self.by_name.setdefault(guest.caller.name, guest.caller)
        guest.caller.strangers[guest] = self.strangers[guest] = None

    def proved(self, guest: Guest) -> bool:
        """Record that it knows the secret; return whether it may stay."""
        self.strangers.pop(guest, None)
        caller = guest.caller
        caller.strangers.pop(guest, None)
        may_stay = len(caller.friends) < self._share(caller) and (len(self.friends) < self.most or self._room(caller))
        if may_stay:
            self.by_name.setdefault(caller.name, caller)
            caller.friends[guest] = self.friends[guest] = None
        return may_stay

    def left(self, guest: Guest) -> None:
        """Record that it is closed. Idempotent."""
        caller = guest.caller
        for guests in (self.strangers, self.friends, caller.strangers, caller.friends, caller.held_up):
            guests.pop(guest, None)
        self._forget(caller)

    def done(self, guest: Guest, frame_bytes: int) -> None:
        """Record that one of its requests, of ``frame_bytes``, is done: others may begin."""
        caller = guest.caller
        caller.under_way -= 1
        caller.under_way_bytes -= frame_bytes
        for held_up in [*caller.held_up] if caller.held_up else ():
            held_up.go_on()
        self._forget(caller)

    def _forget(self, caller: Caller) -> None:
        """Forget a caller without connections; its requests in flight still count if it returns meanwhile."""
        if not (caller.strangers or caller.friends or caller.under_way) and self.by_name.get(caller.name) is caller:
            del self.by_name[caller.name]

    def _share(self, caller: Caller) -> int:
        return max(1, self.most // (OF_A_HOST if caller.far else OF_A_PROCESS))

    def _room(self, caller: Caller) -> bool:
        """Close a connection, if possible an idle one, of the caller with the most, unless that is this caller."""
        most = max(self.by_name.values(), key=lambda each: len(each.friends))
        if len(most.friends) <= len(caller.friends) + 1:
            return False
        next((guest for guest in most.friends if guest.idle), next(iter(most.friends))).drop()
        return True


def _give_way(caller: Caller, now_s: float, *, at_once: bool = False) -> bool:
    """Close the oldest of its strangers, unless that came just now."""
    oldest = next(iter(caller.strangers))
    if not at_once and now_s - oldest.came_s < SOON_S:
        return False
    oldest.drop()
    return True

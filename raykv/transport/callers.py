"""Who has connections to a server, and how many each may have. No socket, no clock.

A caller is what nobody can take for itself: a process of this machine, which the kernel names, or an address of another.
All who know the secret are equal, so the secret is no name. Each has a share: of the connections, of those that have
proved nothing yet, and of what the node does at once (``admission``). Where there is no room left, whoever has the most
gives way.
"""

from __future__ import annotations

from typing import Protocol

OF_A_PROCESS, OF_A_HOST = 8, 2
"""One part in so many of all connections is what one process, or all processes of another host, may have."""
MAX_STRANGERS = 256
MAX_STRANGERS_OF_A_CALLER = 64
"""Connections that have not proved anything yet."""
SOON_S = 0.5
"""Who has as many strangers as it may is let in for its oldest one, but not if that came so short a time ago."""


class Guest(Protocol):
    """A connection."""

    caller: Caller
    came_s: float

    @property
    def idle(self) -> bool:
        """Whether nothing of it is under way."""
        ...

    def go_on(self) -> None:
        """Begin what has come, if there is room by now."""
        ...

    def drop(self) -> None:
        """Close it at once. It leaves ``Callers`` by then."""
        ...


class Caller:
    """One who calls."""

    def __init__(self, name: str, *, far: bool) -> None:
        """``far``: a host, not a process."""
        self.name = name
        self.far = far
        self.friends: dict[Guest, None] = {}
        """Its connections that have proved that they know the secret, the oldest first."""
        self.strangers: dict[Guest, None] = {}
        self.under_way = 0
        """Requests of all its connections that are being handled."""
        self.under_way_bytes = 0
        self.begun = 0
        """Requests that ``admission`` does not look at, begun in this turn of the event loop."""
        self.held_up: dict[Guest, None] = {}
        """Those that are not read from until less is under way."""


class Callers:
    """All of a server's connections, by caller. O(1) each, O(callers) where there is no room."""

    def __init__(self, most: int) -> None:
        """``most``: connections of all together."""
        self.most = most
        self.by_name: dict[str, Caller] = {}
        self.friends: dict[Guest, None] = {}
        self.strangers: dict[Guest, None] = {}

    def let_in(self, name: str, now_s: float, *, far: bool) -> Caller | None:
        """Return the caller if one more connection of it may be looked at: to be handed to ``came``; None if it may not."""
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
        """Take note of a connection, which has proved nothing yet."""
        self.by_name.setdefault(guest.caller.name, guest.caller)
        guest.caller.strangers[guest] = self.strangers[guest] = None

    def proved(self, guest: Guest) -> bool:
        """Take note that it knows the secret: whether it may stay."""
        self.strangers.pop(guest, None)
        caller = guest.caller
        caller.strangers.pop(guest, None)
        may_stay = len(caller.friends) < self._share(caller) and (len(self.friends) < self.most or self._room(caller))
        if may_stay:
            self.by_name.setdefault(caller.name, caller)
            caller.friends[guest] = self.friends[guest] = None
        return may_stay

    def left(self, guest: Guest) -> None:
        """Take note that it is closed. Idempotent."""
        caller = guest.caller
        for guests in (self.strangers, self.friends, caller.strangers, caller.friends, caller.held_up):
            guests.pop(guest, None)
        self._forget(caller)

    def done(self, guest: Guest, frame_bytes: int) -> None:
        """Take note that one of its requests, of so many bytes, has been handled: others may be begun."""
        caller = guest.caller
        caller.under_way -= 1
        caller.under_way_bytes -= frame_bytes
        for held_up in [*caller.held_up] if caller.held_up else ():
            held_up.go_on()
        self._forget(caller)

    def _forget(self, caller: Caller) -> None:
        """Forget who has nothing here any more; what is under way counts on, also if it comes again meanwhile."""
        if not (caller.strangers or caller.friends or caller.under_way) and self.by_name.get(caller.name) is caller:
            del self.by_name[caller.name]

    def _share(self, caller: Caller) -> int:
        return max(1, self.most // (OF_A_HOST if caller.far else OF_A_PROCESS))

    def _room(self, caller: Caller) -> bool:
        """Close a connection of whoever has the most, if that is not who asks: one on which nothing is under way, if any."""
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

"""ONE LIVE PAGE: the ring, the nodes, traffic, hot keys, what has happened and why, and a key looked up.

``feed`` asks a store every two seconds, as long as anybody looks, keeps ten minutes of history and notes what has
changed; ``page`` is the whole page, without anything from elsewhere; ``server`` hands both to those who have the token, for
one store or for all that run.

**Invariants.** However many pages are open, a store is asked every two seconds, what it says is encoded once, and all pages
together ask ten times a second: the more there are, the slower each. Without the token nothing is answered but
the form that asks for it; the token never stands in an address. A request whose ``Host`` is not ours (DNS rebinding) or that
comes from another origin is refused before anything else is looked at. What others have stored is never unpickled, and
reaches the page as text. Without ``--admin`` the server has nothing that changes the store.

**Omitted.** TLS: it binds to the loopback unless told otherwise, and a proxy or an SSH tunnel does that better. Users and
roles. History beyond ten minutes: that is what ``raykv.metrics`` is for.
"""

from __future__ import annotations

from raykv.dashboard.feed import Feed
from raykv.dashboard.server import Dashboard, Shown

__all__ = ["Dashboard", "Feed", "Shown"]

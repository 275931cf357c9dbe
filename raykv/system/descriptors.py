"""The number of files and sockets that this process may open, and the share reserved for files.

A process without free descriptors can open neither tables nor logs; sockets therefore never get the last ones. The kernel
always assigns the lowest free descriptor: a high number proves that all below it are taken, without counting.
"""

from __future__ import annotations

import contextlib
import resource

ENOUGH = 65_536
"""Requested where the system sets no limit."""
MOST_KEPT = 4096
UNKNOWN = 256
"""Assumed for a system that does not report its limit."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one, at most ``ENOUGH``; return the new limit."""
    with contextlib.suppress(OSError, ValueError):  # the limit then stays as it is
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()


def limit() -> int:
    """Return the number of descriptors that this process may open."""
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except (OSError, ValueError):
        return UNKNOWN
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def ceiling_of_sockets(limit: int) -> int:
    """Return the lowest descriptor that accepted sockets may not take.

    Those above are reserved for files and for this process's own connections: half of all, at most ``MOST_KEPT``.
    """
    return limit - min(MOST_KEPT, limit // 2)

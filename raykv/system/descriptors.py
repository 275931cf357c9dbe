"""How many files and sockets this process may have open, and what is kept for the files.

Whoever runs out of descriptors can open no table and no log any more, so sockets never get the last ones. The kernel
always gives the lowest free descriptor: one of a high number says that all below it are taken, and costs no counting.
"""

from __future__ import annotations

import contextlib
import resource

ENOUGH = 65_536
"""So many are asked for where the system lets a process have any number."""
MOST_KEPT = 4096
UNKNOWN = 256
"""What is assumed of a system that does not say."""


def raise_limit() -> int:
    """Let this process have as many descriptors as it may, ``ENOUGH`` at the most; return how many it has now."""
    with contextlib.suppress(OSError, ValueError):  # then it stays as it is
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()


def limit() -> int:
    """Return how many descriptors this process may have."""
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except (OSError, ValueError):
        return UNKNOWN
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def ceiling_of_sockets(limit: int) -> int:
    """Return the descriptor from which on none is for a socket that somebody else opened.

    What is above is for files and for this process's own connections: half, and no more than ``MOST_KEPT``.
    """
    return limit - min(MOST_KEPT, limit // 2)

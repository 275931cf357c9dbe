"""Whether this process was forked from one that had joined Ray. Importing it does not import Ray.

Ray's threads stay behind in the parent. In the child ``ray.is_initialized()`` is still true, but whatever is asked of Ray,
even ``ray.shutdown()``, waits for ever. ``raykv`` imports this module first, to notice forks from then on.
"""

from __future__ import annotations

import contextlib
import os
import sys

from raykv.errors import StoreUnavailable

_forked = False


def forked_from_ray() -> bool:
    """Return whether Ray cannot work here, because only the parent's threads would answer."""
    return _forked


def require_ray_to_work() -> None:
    """Raise ``StoreUnavailable`` where Ray would never answer."""
    if _forked:
        raise StoreUnavailable(
            "this process was forked from one that had joined Ray: Ray does not work in it; only a store that the parent "
            "was connected to (with routing 'auto' or 'direct') can be reached; start processes by 'spawn'"
        )


def _note_fork() -> None:
    """Note in the child whether the parent had joined Ray."""
    global _forked  # noqa: PLW0603 - a different process
    ray = sys.modules.get("ray")
    with contextlib.suppress(AttributeError):  # another thread was just importing it
        _forked = _forked or (ray is not None and ray.is_initialized())


os.register_at_fork(after_in_child=_note_fork)

"""Restarts the processes that keep nothing: the supervisor's and the coordinators'.

Ray starts each again (``max_restarts``), with the code that is installed by then. Reads and writes of clients that
coordinate for themselves do not notice. The supervisor comes first: a coordinator that starts asks it for the cluster's
state.
"""

from __future__ import annotations

import contextlib
import time

import ray
from ray.exceptions import RayError

from raykv.actors.lifecycle import join
from raykv.actors.naming import COORDINATOR, SUPERVISOR, find_actor, pool_of
from raykv.errors import StoreUnavailable

LOOK_EVERY_S = 0.1
CALL_TIMEOUT_S = 5.0


def restart_services(name: str, timeout_s: float) -> list[str]:
    """Restart each process, one after the other; return their names. Raises ``StoreNotFound``, ``StoreUnavailable``.

    ``timeout_s``: how long one may take. Called again, it restarts all of them again.
    """
    join(name).close()
    done: list[str] = []
    for peer in (SUPERVISOR, *(pool_of(name) or [COORDINATOR])):
        former = _pid(name, peer)
        ray.kill(find_actor(name, peer), no_restart=False)
        deadline_s = time.monotonic() + timeout_s
        while (present := _pid(name, peer)) is None or present == former:
            if time.monotonic() > deadline_s:
                raise StoreUnavailable(
                    f"the process of the {peer} was ended and does not answer again after {timeout_s:g} s; Ray goes on "
                    f"starting it. Restarted before it: {', '.join(done) or 'none'}"
                )
            time.sleep(LOOK_EVERY_S)
        done.append(peer)
    return done


def _pid(name: str, peer: str) -> int | None:
    """Return the process id behind an actor's name; None if it does not answer."""
    with contextlib.suppress(RayError, TimeoutError, ValueError):
        return int(ray.get(find_actor(name, peer).pid.remote(), timeout=CALL_TIMEOUT_S))
    return None

"""Destruction of a store: what runs is stopped, and its data is deleted (``raykv.destroy``).

A name can stand for two stores at once: one that runs, and one that lies elsewhere, such as what an interrupted restore
left. A path tells them apart, so where the running store lies is asked before anything is stopped.
"""

from __future__ import annotations

import os

from raykv.actors import deletion, lifecycle
from raykv.errors import InvalidOption, StoreNotFound, StoreUnavailable


def destroy(name: str, path: str | None) -> None:
    """Stop the store if it runs, at ``path`` if that is given, and delete its data.

    A store of that name that runs elsewhere goes on. Raises as ``deletion.delete``, and ``StoreUnavailable`` if the store
    does not stop or does not report its path.
    """
    wanted = None if path is None else os.path.abspath(os.path.expanduser(path))
    try:
        running = lifecycle.running_path(name)
    except StoreNotFound:  # one that does not run can be deleted all the same
        deletion.delete(name, wanted)
        return
    if running is None:
        raise StoreUnavailable(
            f"nothing was stopped or deleted: store {name!r} does not report where its data is; stop it first "
            f"(raykv.shutdown({name!r})), then call destroy with its path"
        )
    if wanted is not None and not lifecycle.same_path(wanted, running):
        deletion.delete(name, wanted)
        return
    stopped = lifecycle.stop(name)
    if stopped is not None and not lifecycle.same_path(stopped, running):
        raise InvalidOption(
            f"nothing was deleted: store {name!r} was at {running}, and was started at {stopped} meanwhile",
            path=stopped,
        )
    deletion.delete(name, running)

"""Destruction of a store: what runs is stopped, and its data is deleted on all hosts (``raykv.destroy``).

A name can stand for two stores at once: one that runs, and one that lies elsewhere, such as what an interrupted restore
left. A path tells them apart, so where the running store lies is asked before anything is stopped.

Every host with a node has a marker, from any of which the store starts again: the data is deleted for good once all hosts
have confirmed it, and those that do not are named. This host comes first: where hosts share a file system, the others find
nothing left.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

import msgspec
import ray
from ray.exceptions import RayError

from raykv.actors import deletion, hosts, lifecycle
from raykv.actors.naming import default_path
from raykv.client import administration
from raykv.client.driver import run
from raykv.errors import InvalidOption, RaykvError, StoreNotFound, StoreUnavailable
from raykv.ports import LaunchFailed
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from collections.abc import Collection

    from raykv.actors.path_lock import PathLock

logger = logging.getLogger("raykv")

DELETE_TIMEOUT_S = 120.0
"""For all other hosts together; a host that needs longer goes on in the next attempt."""
STATUS_TIMEOUT_S = 5.0


class _Outcome(msgspec.Struct, frozen=True):
    """What became of a deletion on one host."""

    deleted: bool = False
    trouble: str = ""


def destroy(name: str, path: str | None) -> None:
    """Stop the store if it runs, at ``path`` if that is given, and delete its data on all hosts.

    A store of that name that runs elsewhere goes on. Raises as ``delete_everywhere``, and ``StoreUnavailable`` if the store
    does not stop or does not report its path.
    """
    wanted = None if path is None else os.path.abspath(os.path.expanduser(path))
    try:
        running = lifecycle.running_path(name)
    except StoreNotFound:  # one that does not run can be deleted all the same
        delete_everywhere(name, wanted or default_path(name))
        return
    if running is None:
        raise StoreUnavailable(
            f"nothing was stopped or deleted: store {name!r} does not report where its data is; stop it first "
            f"(raykv.shutdown({name!r})), then call destroy with its path"
        )
    if wanted is not None and not lifecycle.same_path(wanted, running):
        delete_everywhere(name, wanted, spared=running)
        return
    down = _hosts_of_down_nodes(name)
    stopped = lifecycle.stop(name)
    if stopped is not None and not lifecycle.same_path(stopped, running):
        raise InvalidOption(
            f"nothing was deleted: store {name!r} was at {running}, and was started at {stopped} meanwhile",
            path=stopped,
        )
    delete_everywhere(name, running, members=down)


def delete_everywhere(
    name: str, where: str, held: PathLock | None = None, *, spared: str = "", members: Collection[str] = ()
) -> None:
    """Delete a stopped store's data on all hosts of the Ray cluster, if this process is in one, this host first.

    ``held``: the path's lock here, if the caller has it. ``spared``: the path of a store that goes on. ``members``: hosts
    that have data of the store, as far as the caller knows them.

    Raises ``StoreNotFound`` if no host has data of it; ``StoreUnavailable`` if hosts did not confirm the deletion; as
    ``deletion.delete`` if this host cannot delete its part, and then no other has begun.
    """
    if not ray.is_initialized():
        deletion.delete(name, where, held)
        return
    store_id = _store_at(name, where)
    here = False
    with contextlib.suppress(StoreNotFound):  # another host has it, at least
        deletion.delete(name, where, held, store_id=store_id)
        here = True
    try:
        answers, silent = hosts.ask_the_others(_delete_there, name, where, store_id, spared, timeout_s=DELETE_TIMEOUT_S)
        living = hosts.living(ray.nodes())
    except (RayError, LaunchFailed) as error:
        raise StoreUnavailable(
            f"the data of store {name!r} at {where} was deleted on this host, and other hosts cannot be asked: {error}"
        ) from None
    outcomes = {host: msgspec.msgpack.decode(data, type=_Outcome) for host, (data, _, _) in answers.items()}
    left = silent | {host: outcome.trouble for host, outcome in outcomes.items() if outcome.trouble}
    left |= {host: "is not in the Ray cluster" for host in members if host not in living}
    if left:
        done = [*(["this host"] if here else []), *sorted(host for host, each in outcomes.items() if each.deleted)]
        why = "; ".join(f"{host}:{where} ({trouble})" for host, trouble in sorted(left.items()))
        raise StoreUnavailable(
            f"the data of store {name!r} was deleted on {', '.join(done) or 'no host'} only; not confirmed: {why}. What is "
            f"left there brings the store back: when these hosts answer, call raykv.destroy({name!r}, path={where!r}) "
            "again, or delete it by hand",
            hosts=sorted(left),
        )


def _store_at(name: str, where: str) -> str:
    """Return the id of the store of that name at a path: this host's, otherwise that of the others.

    Raises ``StoreNotFound`` if none is there; ``InvalidOption`` if the other hosts have different ones.
    """
    try:
        return deletion.marker_of(OsFileSystem(), where, name).store_id
    except StoreNotFound as error:
        found = {host: look.marker for host, look in hosts.look_everywhere(where).items() if look.marker is not None}
        ids = {host: marker.store_id for host, marker in found.items() if marker.store.name == name}
        if not ids:
            raise error from None
    if len(set(ids.values())) > 1:
        raise InvalidOption(
            f"nothing was deleted: the hosts {', '.join(sorted(ids))} have different stores named {name!r} at {where}; call "
            "destroy on the host of the one that is to go",
            path=where,
        )
    return next(iter(ids.values()))


def _delete_there(name: str, where: str, store_id: str, spared: str) -> bytes:
    """Delete on the host that runs this. Nothing there to delete is as good."""
    try:
        if spared and lifecycle.same_path(where, spared):
            raise InvalidOption(f"{where} leads to the store that runs")
        deletion.delete(name, where, store_id=store_id)
        outcome = _Outcome(deleted=True)
    except StoreNotFound:
        outcome = _Outcome()
    except (RaykvError, OSError) as error:
        outcome = _Outcome(trouble=str(error))
    return msgspec.msgpack.encode(outcome)


def _hosts_of_down_nodes(name: str) -> list[str]:
    """Return the hosts of the running store's nodes that are not up, as far as the store says."""
    try:
        with contextlib.closing(lifecycle.join(name, "coordinator")) as link:
            nodes = run(administration.status(timeout=STATUS_TIMEOUT_S), link)["nodes"]
    except (RaykvError, RayError) as error:
        logger.debug("store %s does not say where its nodes are: %s", name, error)
        return []
    return sorted({node["host"] for node in nodes if node["state"] != "up" and node["host"]})

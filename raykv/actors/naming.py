"""Names of actors and places of directories.

All actors of a store are detached and named, in the namespace ``raykv``: ``<store>/supervisor``,
``<store>/coordinator``, ``<store>/node/<node id>``. The holder of a stale handle looks the name up again.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import ray

from raykv.actors.forks import require_ray_to_work
from raykv.config import check_node_id
from raykv.errors import CorruptData, InvalidOption
from raykv.storage import LOCK_NAME, read_identity
from raykv.system.directories import data_directory

if TYPE_CHECKING:
    from raykv.ports import FileSystem

NAMESPACE = "raykv"
SUPERVISOR = "supervisor"
COORDINATOR = "coordinator"
"""The first of the pool; the others have a number behind it."""
ASIDE = ".left-"
"""Stands, with a number, behind the name of a directory that was set aside."""
_A_NODES = re.compile(r"[A-Za-z0-9_-]{1,64}")


def actor_name(store: str, peer: str) -> str:
    """Return the actor's name in the namespace ``raykv``."""
    return f"{store}/{peer}"


def find_actor(store: str, peer: str) -> Any:
    """Return the actor's handle. Raises ``ValueError`` if no living actor has the name, or Ray was shut down here.

    A look-up without Ray would start it, or join any cluster on this machine. Raises ``StoreUnavailable`` in a forked child.
    """
    require_ray_to_work()
    if not ray.is_initialized():
        raise ValueError("Ray is not connected in this process")
    return ray.get_actor(actor_name(store, peer), namespace=NAMESPACE)


def store_actors(store: str) -> list[str]:
    """Return the names of the store's living actors, sorted. Raises ``StoreUnavailable`` in a forked child."""
    require_ray_to_work()
    prefix = actor_name(store, "")
    listed = ray.util.list_named_actors(all_namespaces=True)
    return sorted(
        actor["name"] for actor in listed if actor["namespace"] == NAMESPACE and actor["name"].startswith(prefix)
    )


def running_stores() -> list[str]:
    """Return the names of the stores running in this Ray cluster, sorted. Costs a call to Ray's head.

    Raises ``StoreUnavailable`` in a forked child.
    """
    require_ray_to_work()
    suffix = actor_name("", SUPERVISOR)
    listed = ray.util.list_named_actors(all_namespaces=True)
    return sorted(
        actor["name"].removesuffix(suffix)
        for actor in listed
        if actor["namespace"] == NAMESPACE and actor["name"].endswith(suffix)
    )


def coordinator_names(count: int) -> list[str]:
    """Return the names of a pool of ``count`` coordinators."""
    return [COORDINATOR, *(f"{COORDINATOR}-{number}" for number in range(2, count + 1))]


def pool_of(store: str) -> list[str]:
    """Return the names of the store's existing coordinators, sorted. Costs a call to Ray's head."""
    return [name for actor in store_actors(store) if (name := actor.removeprefix(f"{store}/")).startswith(COORDINATOR)]


def default_path(store: str) -> str:
    """Return a store's path when none is given: below the platform's directory for user data.

    Raises ``InvalidOption`` if this user has no home directory.
    """
    try:
        return os.path.join(data_directory(), store)
    except FileNotFoundError as error:
        raise InvalidOption(f"a path has to be given here: {error}") from error


def node_directory(path: str, node_id: str) -> str:
    """Return a node's data directory. Raises ``InvalidOption`` for an id that would lead elsewhere."""
    return f"{path}/nodes/{check_node_id(node_id)}"


def lock_of(path: str, node_id: str) -> str:
    """Return the file whose lock the process of a node holds."""
    return f"{node_directory(path, node_id)}/{LOCK_NAME}"


def node_directories(fs: FileSystem, path: str) -> list[str]:
    """Return the ids of the nodes that have a directory (with an identity) at a store's path, sorted.

    Directories set aside (P6) and those whose names are no node ids do not count.
    """
    base = f"{path}/nodes"
    names = fs.list_directory(base) if fs.exists(base) else []
    return [name for name in names if _A_NODES.fullmatch(name) and _is_somebodys(fs, node_directory(path, name))]


def _is_somebodys(fs: FileSystem, directory: str) -> bool:
    """Return whether the directory holds an identity; one that was only created counts as absent."""
    try:
        return read_identity(fs, directory) is not None
    except (CorruptData, OSError):  # unreadable counts as owned, and is not founded anew
        return True

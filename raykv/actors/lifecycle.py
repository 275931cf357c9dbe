"""Starting, finding, stopping and deleting stores: what ``raykv.start`` and its siblings do."""

from __future__ import annotations

import logging
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import msgspec
import ray
from ray.exceptions import GetTimeoutError, RayError

from raykv.actors.coordinator import CoordinatorActor
from raykv.actors.joining import join_ray
from raykv.actors.link import CoordinatorLink
from raykv.actors.naming import COORDINATOR, NAMESPACE, SUPERVISOR, actor_name, default_path, find_actor, store_actors
from raykv.actors.supervisor import MARKER, Orders, SupervisorActor
from raykv.config import NodeConfig, check_store_name
from raykv.errors import CorruptData, StoreNotFound, StoreUnavailable, from_data

if TYPE_CHECKING:
    from raykv.supervision.founding import Plan

logger = logging.getLogger("raykv")

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0

_SERVICE_OPTIONS: dict[str, Any] = {
    "num_cpus": 0,
    "max_restarts": -1,
    "max_task_retries": 0,
    "max_concurrency": 10_000,
    "lifetime": "detached",
    "namespace": NAMESPACE,
    "enable_task_events": False,
}


def ensure_ray() -> bool:
    """Join the Ray that is initialised here or runs on this machine, else start a local one. True if one was started."""
    if join_ray():
        return False
    ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
    return True


def found_or_join(plan: Plan, path: str | None, node: NodeConfig) -> bool:
    """Start the store, or wait until the one of that name has started. True if it was started here."""
    name = plan.store.name
    local = ensure_ray()
    where = os.path.abspath(os.path.expanduser(path)) if path is not None else default_path(name)
    created = False
    try:
        supervisor = find_actor(name, SUPERVISOR)
    except ValueError:
        orders = msgspec.msgpack.encode(Orders(plan=plan, path=where, node=node))
        supervisor, created = _create(name, orders)
    try:
        answer: dict[str, Any] = ray.get(supervisor.start.remote(), timeout=START_TIMEOUT_S)
    except (RayError, TimeoutError) as error:
        if created:
            _kill_all(name)
        raise StoreUnavailable(f"store {name!r} did not start: {explain(error)}") from None
    if "failed" in answer:
        _kill_all(name)
        error_name, message, details = answer["failed"]
        raise from_data(error_name, message, details)
    if local:
        logger.warning(
            "raykv: started a local Ray that ends with this process; the data stays in %s", answer.get("path", where)
        )
    return created


def _create(name: str, orders: bytes) -> tuple[Any, bool]:
    """Create the store's supervisor and coordinator; False if somebody else was faster."""
    try:
        options = _SERVICE_OPTIONS | {"name": actor_name(name, SUPERVISOR)}
        supervisor = ray.remote(SupervisorActor).options(**options).remote(orders)
    except ValueError:
        return find_actor(name, SUPERVISOR), False
    for leftover in store_actors(name):  # of a store whose supervisor was ended for good
        if leftover != actor_name(name, SUPERVISOR):
            _kill(leftover)
    options = _SERVICE_OPTIONS | {"name": actor_name(name, COORDINATOR), "get_if_exists": True}
    ray.remote(CoordinatorActor).options(**options).remote(name)
    return supervisor, True


def join(name: str) -> CoordinatorLink:
    """Return a link to a running store. Raises ``StoreNotFound``."""
    check_store_name(name)
    if not join_ray():
        raise StoreNotFound(f"no Ray cluster runs here, so no store {name!r}; start one with raykv.start()")
    try:
        find_actor(name, COORDINATOR)
    except ValueError:
        running = ", ".join(repr(store) for store in stores()) or "none"
        raise StoreNotFound(f"no store {name!r} runs in this Ray cluster; running: {running}") from None
    return CoordinatorLink(name)


def stores() -> list[str]:
    """Return the names of the stores that run in this Ray cluster, sorted."""
    suffix = actor_name("", SUPERVISOR)
    listed = ray.util.list_named_actors(all_namespaces=True)
    return sorted(
        actor["name"].removesuffix(suffix)
        for actor in listed
        if actor["namespace"] == NAMESPACE and actor["name"].endswith(suffix)
    )


def coordinator_handle(name: str) -> Any:
    """Return the coordinator's Ray actor handle. Raises ``StoreNotFound``."""
    join(name)
    return find_actor(name, COORDINATOR)


def stop(name: str) -> str | None:
    """Stop the store's actors, cleanly where they answer; the data stays. Returns its path. Raises ``StoreNotFound``."""
    check_store_name(name)
    if not ray.is_initialized():
        join(name)
    if not store_actors(name):
        raise StoreNotFound(f"no store {name!r} runs in this Ray cluster")
    path = None
    try:
        supervisor = find_actor(name, SUPERVISOR)
        path = str(ray.get(supervisor.path.remote(), timeout=STOP_TIMEOUT_S))
        ray.get(supervisor.stop.remote(), timeout=STOP_TIMEOUT_S)
    except (ValueError, RayError, GetTimeoutError) as error:
        logger.warning("store %s: not stopped cleanly (%s); its log keeps the data", name, type(error).__name__)
    _kill_all(name)
    return path


def delete(name: str, path: str | None) -> str:
    """Delete a stopped store's data. Returns the path. Raises ``StoreNotFound`` if there is none."""
    where = os.path.abspath(os.path.expanduser(path)) if path is not None else default_path(name)
    marker = os.path.join(where, MARKER)
    try:
        with open(marker, "rb") as file:
            owner = msgspec.json.decode(file.read(), type=dict[str, Any]).get("name")
    except FileNotFoundError:
        raise StoreNotFound(f"there is no data of a store at {where}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise CorruptData(f"{marker} cannot be read: {error}") from None
    if owner != name:
        raise StoreNotFound(f"{where} holds store {owner!r}, not {name!r}; nothing was deleted")
    shutil.rmtree(where)
    return where


def explain(error: Exception) -> str:
    """Say in one line what Ray's error means to the user."""
    text = str(error)
    if "No module named 'raykv'" in text:
        return (
            "raykv is not installed where Ray runs its workers; install it there, or pass it on with "
            "ray.init(runtime_env={'pip': ['raykv']})"
        )
    if isinstance(error, TimeoutError):
        return f"no answer within {START_TIMEOUT_S:g} s"
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def _kill_all(name: str) -> None:
    """End all actors of a store, the supervisor first, so that it brings nothing back; wait until the names are free."""
    for actor in sorted(store_actors(name), key=lambda actor: actor != actor_name(name, SUPERVISOR)):
        _kill(actor)
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while store_actors(name) and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _kill(actor: str) -> None:
    try:
        ray.kill(ray.get_actor(actor, namespace=NAMESPACE))
    except (ValueError, RayError):
        logger.debug("%s is gone already", actor)

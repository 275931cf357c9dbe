"""Starting, finding and stopping stores: what ``raykv.start`` and its siblings do."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from typing import TYPE_CHECKING, Any

import msgspec
import ray
from ray.exceptions import ActorAlreadyExistsError, GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykv.actors.adoption import adopt_store
from raykv.actors.authentication import make_token
from raykv.actors.command_port import forget_endpoints
from raykv.actors.coordinator import CoordinatorActor
from raykv.actors.deletion import RESTORING
from raykv.actors.embedded_coordinator import DirectHandle, inherited_link
from raykv.actors.forks import forked_from_ray
from raykv.actors.hosts import first_line, this_host
from raykv.actors.link import CoordinatorLink
from raykv.actors.naming import (
    COORDINATOR,
    NAMESPACE,
    SUPERVISOR,
    actor_name,
    coordinator_names,
    default_path,
    find_actor,
    pool_of,
    running_stores,
    store_actors,
)
from raykv.actors.ray_cluster import join_ray
from raykv.actors.supervisor import Orders, SupervisorActor
from raykv.config import NodeConfig, check_store_name, shown
from raykv.errors import InvalidOption, StoreNotFound, StoreUnavailable, from_data
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from raykv.client.driver import Link
    from raykv.config import Routing
    from raykv.supervision.founding import Plan

logger = logging.getLogger("raykv")

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 30.0
TROUBLE_TIMEOUT_S = 5.0
LOOK_EVERY_S = 0.05

_SERVICE_OPTIONS: dict[str, Any] = {
    "num_cpus": 0,
    "memory": 1,  # a byte: Ray places an actor that asks for no resource on a random host, whatever its strategy says
    "max_restarts": -1,
    "max_task_retries": 0,
    "max_concurrency": 10_000,
    "lifetime": "detached",
    "namespace": NAMESPACE,
    "enable_task_events": False,
}


def ensure_ray() -> bool:
    """Join the Ray that ``join_ray`` finds, otherwise start a local one. Returns whether one was started.

    Raises ``StoreUnavailable`` if the requested cluster cannot be joined: a newly started one would be a different one.
    """
    if join_ray():
        return False
    with contextlib.suppress(ImportError, OSError):  # if it requires one, Ray makes one itself, readable by all
        make_token()
    try:
        ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise StoreUnavailable(f"a local Ray cluster could not be started: {explain(error)}") from None
    return True


def found_or_join(
    plan: Plan,
    path: str | None,
    node: NodeConfig,
    given: dict[str, Any],
    coordinators: int = 1,
    *,
    adopt: bool = False,
    restoring: bool = False,
) -> bool:
    """Start the store, or wait for the start of the one with that name. Returns whether it was started here.

    ``given``: the settings named by the caller, which all must agree on. ``coordinators``: the minimum number of them.
    ``adopt``: make the copy at ``path`` this store first (``raykv.actors.adoption``), unless it runs.
    ``restoring``: a backup is being restored into it.
    """
    name = plan.store.name
    where = _absolute(default_path(name) if path is None else path)
    local = ensure_ray()
    if not restoring and os.path.exists(f"{where}/{RESTORING}"):
        raise InvalidOption(
            f"{where} holds a restore that was interrupted: run it again ('raykv restore PATH --as {name}'), or delete it",
            path=where,
        )
    if adopt and name not in stores():
        adopt_store(OsFileSystem(), where, name, this_host())
    supervisor, created = _supervisor_of(name, Orders(plan=plan, path=where, node=node, given=given), coordinators)
    try:
        answer: dict[str, Any] = ray.get(supervisor.start.remote(), timeout=START_TIMEOUT_S)
    except (RayError, TimeoutError) as error:
        why = f"{explain(error)}; {_waits_for(supervisor)}" if isinstance(error, TimeoutError) else explain(error)
        if created:
            _end_failed(name, supervisor)
        raise StoreUnavailable(f"store {name!r} did not start: {why}") from None
    if "failed" in answer:
        if created:  # otherwise it may be a running store with a troubled supervisor
            _end_failed(name, supervisor)
        error_name, message, details = answer["failed"]
        raise from_data(error_name, message, details)
    if local:
        logger.warning(
            "raykv started a local Ray cluster that ends with this process; the data stays in %s",
            answer.get("path", where),
        )
    return created


def _absolute(path: str) -> str:
    """Return the absolute path. Raises ``InvalidOption`` if it cannot be sent to the nodes: the way to it is not UTF-8."""
    where = os.path.abspath(os.path.expanduser(path))
    try:
        where.encode()
    except UnicodeEncodeError:
        raise InvalidOption(f"path must be valid in UTF-8; got {shown(where)}") from None
    return where


def _waits_for(supervisor: Any) -> str:
    """Return what a start that timed out was waiting for."""
    try:
        return f"it waits for: {ray.get(supervisor.trouble.remote(), timeout=TROUBLE_TIMEOUT_S)}"
    except (RayError, TimeoutError):
        return f"its supervisor does not answer ({_state_of(supervisor)})"


def _state_of(actor: Any) -> str:
    """Return Ray's state of an actor, in words."""
    try:
        from ray._private.state import actors

        seen = actors(_identity(actor))
    except Exception:  # not in Ray's public API, and missing in its own clients  # noqa: BLE001
        return "Ray does not say why"
    if seen.get("State") in {"DEPENDENCIES_UNREADY", "PENDING_CREATION"}:
        return "Ray has not started its process; its logs in /tmp/ray/session_latest/logs say why"
    return f"Ray reports it as {seen.get('State', 'unknown')}, restarted {seen.get('NumRestarts', 0)} times"


def _supervisor_of(name: str, orders: Orders, coordinators: int) -> tuple[Any, bool]:
    """Return the store's supervisor, and whether it was created here. Ensures that coordinators run, too."""
    supervisor, created = _found_or_created(name, orders)
    for number, peer in enumerate(coordinator_names(coordinators)):
        # The first one stays with the supervisor; the others go wherever there is room, to be lost one at a time.
        placed = _service_options() if number == 0 else _SERVICE_OPTIONS | {"scheduling_strategy": "SPREAD"}
        options = placed | {"name": actor_name(name, peer), "get_if_exists": True}
        ray.remote(CoordinatorActor).options(**options).remote(name, orders.node.stream)
    return supervisor, created


def _found_or_created(name: str, orders: Orders) -> tuple[Any, bool]:
    """Return the store's supervisor, and whether it was created here. Raises ``StoreUnavailable``.

    Of several processes that start the store at once, one creates the supervisor, and the others find it.
    """
    encoded = msgspec.msgpack.encode(orders)
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(ValueError):
            return find_actor(name, SUPERVISOR), False
        if _end_leftovers(name):
            options = _service_options() | {"name": actor_name(name, SUPERVISOR)}
            with contextlib.suppress(ActorAlreadyExistsError):
                return ray.remote(SupervisorActor).options(**options).remote(encoded), True
        time.sleep(LOOK_EVERY_S)
    raise StoreUnavailable(
        f"store {name!r} did not start: actors {', '.join(store_actors(name))}, which ran without a supervisor, do not end; "
        "try again"
    )


def _end_leftovers(name: str) -> bool:
    """End what a supervisor that was ended for good left running. Returns whether nothing was.

    Another process may create a supervisor at any time, and its nodes have the same names. What is ended is therefore what
    was found before a moment without a supervisor, by handle.
    """
    found = []
    for actor in store_actors(name):
        with contextlib.suppress(ValueError):
            found.append(ray.get_actor(actor, namespace=NAMESPACE))
    left = store_actors(name)
    if actor_name(name, SUPERVISOR) in left:
        return False
    for handle in found:
        with contextlib.suppress(RayError):
            ray.kill(handle)
    return not left


def _end_failed(name: str, supervisor: Any) -> None:
    """End what a failed start has begun here, but nothing that another process has started under that name since."""
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            if _identity(find_actor(name, SUPERVISOR)) != _identity(supervisor):
                return
        except ValueError:
            if _end_leftovers(name):
                return
        else:
            with contextlib.suppress(RayError):
                ray.kill(supervisor)
        time.sleep(LOOK_EVERY_S)


def _service_options() -> dict[str, Any]:
    """Return options that place supervisor and coordinator on this host, and elsewhere only when it is gone.

    This host has the marker that the supervisor needs. By default, Ray might place them on any host, and lose them with it.
    """
    here = ray.get_runtime_context().get_node_id()
    return _SERVICE_OPTIONS | {"scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=True)}


def join(name: str, routing: Routing = "auto") -> Link:
    """Return a link to a running store. Raises ``StoreNotFound``; ``StoreUnavailable`` if its cluster cannot be reached.

    A forked child gets a link by what its parent knew, whatever the routing: Ray does not work there.
    """
    check_store_name(name)
    if forked_from_ray() and (inherited := inherited_link(name)) is not None:
        return inherited
    if not join_ray():
        raise StoreNotFound(
            f"store {name!r} is not running: no Ray cluster runs here; raykv.start({name!r}) starts both"
        )
    try:
        supervisor = find_actor(name, SUPERVISOR)
        find_actor(name, COORDINATOR)
    except ValueError:
        running = ", ".join(repr(store) for store in stores()) or "none"
        raise StoreNotFound(f"store {name!r} is not running in this Ray cluster; running stores: {running}") from None
    # A client of Ray's client server (ray://) may be anywhere: it reaches actors, but not necessarily nodes.
    far_away = routing == "auto" and ray.util.client.ray.is_connected()
    return CoordinatorLink(name) if routing == "coordinator" or far_away else DirectHandle(name, _identity(supervisor))


def _identity(handle: Any) -> str:
    return str(handle._actor_id.hex())  # noqa: SLF001 - Ray has no other stable name for it


def stores() -> list[str]:
    """Return the names of the stores running in this Ray cluster, sorted."""
    return running_stores()


def coordinator_handle(name: str) -> Any:
    """Return the Ray actor handle of one coordinator of the pool. Raises ``StoreNotFound``."""
    join(name)
    return find_actor(name, random.choice(pool_of(name) or [COORDINATOR]))  # noqa: S311


def running_path(name: str) -> str | None:
    """Return where a running store has its data; None if it does not say. Raises ``StoreNotFound`` as ``stop``."""
    _require_running(name)
    try:
        return str(ray.get(find_actor(name, SUPERVISOR).path.remote(), timeout=STOP_TIMEOUT_S))
    except (ValueError, RayError, GetTimeoutError):
        return None


def check_not_elsewhere(name: str, path: str) -> None:
    """Raise ``InvalidOption`` if a store of that name runs at another path, ``StoreUnavailable`` if it does not say."""
    try:
        running = running_path(name)
    except StoreNotFound:
        return
    if running is None:
        raise StoreUnavailable(f"store {name!r} runs and does not report where its data is; stop it first")
    if not same_path(os.path.expanduser(path), running):
        raise InvalidOption(
            f"a store {name!r} runs at {running}: stop it, or give the one at {path} another name", path=path
        )


def same_path(one: str, other: str) -> bool:
    """Return whether two paths lead to the same place on this host."""
    return os.path.realpath(one) == os.path.realpath(other)


def _require_running(name: str) -> None:
    """Join Ray and raise ``StoreNotFound`` if no actor of the store is there."""
    check_store_name(name)
    if not ray.is_initialized():
        join(name)
    if not store_actors(name):
        raise StoreNotFound(f"store {name!r} is not running in this Ray cluster")


def stop(name: str) -> str | None:
    """Stop the store's actors, cleanly where they answer; the data stays. Returns its path. Raises ``StoreNotFound``."""
    _require_running(name)
    path = None
    try:
        supervisor = find_actor(name, SUPERVISOR)
        path = str(ray.get(supervisor.path.remote(), timeout=STOP_TIMEOUT_S))
        ray.get(supervisor.stop.remote(), timeout=STOP_TIMEOUT_S)
    except (ValueError, RayError, GetTimeoutError) as error:
        logger.warning(
            "store %s was not stopped cleanly (%s); it recovers its data from its log when it starts again",
            name,
            type(error).__name__,
        )
    left = _kill_all(name)
    forget_endpoints(name)
    if left:
        raise StoreUnavailable(f"store {name!r} did not stop: actors {', '.join(left)} are still running; try again")
    return path


def explain(error: Exception) -> str:
    """Return a one-line explanation of Ray's error for the user."""
    return f"no answer within {START_TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else first_line(error)


def _kill_all(name: str) -> list[str]:
    """End all actors of a store, the supervisor first, so that it restarts none. Returns those that remain."""
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while left := store_actors(name):
        if time.monotonic() > deadline_s:
            return left
        # Repeatedly: a launch under way may have registered another one meanwhile.
        for actor in sorted(left, key=lambda actor: actor != actor_name(name, SUPERVISOR)):
            _kill(actor)
        time.sleep(LOOK_EVERY_S)
    return []


def _kill(actor: str) -> None:
    try:
        ray.kill(ray.get_actor(actor, namespace=NAMESPACE))
    except (ValueError, RayError):
        logger.debug("%s is gone already", actor)

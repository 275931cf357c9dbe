"""The machines of a Ray cluster, and what each stores at a store's path.

A host is named by its label ``raykv-host`` if Ray was started with one, otherwise by its address; Ray's own node ids change
with every start and are never stored. Its zone is the label ``raykv-zone``, otherwise the zone that the cloud gives Ray.

Several Ray nodes of one name are one host with one disk (``ray.cluster_utils.Cluster`` starts such nodes, as does starting
two raylets on a machine). Replicas there do not count as separate (P13), and each Ray node reaches the same directory. The
storage processes are spread over them, which keeps the end of one raylet from ending all.

Only a process on a host can see its disk. ``look_everywhere`` starts a short task on each host; a host that has died but
still counts for Ray does not answer, and is left out after a time-out.
"""

from __future__ import annotations

import logging
import shutil
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykv.actors.marker import Marker, read_marker
from raykv.actors.naming import lock_of, node_directories
from raykv.actors.ownership import check_store_directory
from raykv.coordinator.nearness import NOWHERE, Place
from raykv.errors import CorruptData, InvalidOption
from raykv.ports import Host, LaunchFailed
from raykv.system.files import OsFileSystem
from raykv.system.holder import MAX_NOTE_BYTES, read_note

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from raykv.ports import FileSystem

logger = logging.getLogger("raykv.supervisor")

HOST_LABEL = "raykv-host"
ZONE_LABELS = ("raykv-zone", "ray.io/availability-zone")
RayNode: TypeAlias = dict[str, Any]
"""An entry of ``ray.nodes()``."""
NOT_INSTALLED = (
    "raykv is not installed where Ray runs its workers; install it there, or pass it on with "
    "ray.init(runtime_env={'pip': ['raykv']})"
)
LOOK_TIMEOUT_S = 10.0


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a host stores at a store's path."""

    marker: Marker | None = None
    nodes: dict[str, str] = {}
    """Node id -> the host where it last ran, by the note in its lock; empty if it does not say."""
    disk_bytes: int = 0
    trouble: str = ""


def look_here(fs: FileSystem, path: str) -> Look:
    """Look at the path on this host. A directory that is not trustworthy counts as absent."""
    marker, trouble = None, ""
    try:
        check_store_directory(path)
        marker = read_marker(fs, path)
    except FileNotFoundError:
        pass
    except InvalidOption as error:
        return Look(trouble=str(error))
    except (OSError, CorruptData) as error:
        trouble = str(error)
    try:
        nodes = {node_id: _last_host(fs, lock_of(path, node_id)) for node_id in node_directories(fs, path)}
    except OSError as error:
        nodes, trouble = {}, str(error)
    return Look(marker=marker, nodes=nodes, disk_bytes=_disk_bytes(path), trouble=trouble)


def look_everywhere(path: str) -> dict[str, Look]:
    """Look at the path on every host of the Ray cluster that answers in time: host -> what it stores there."""
    looks = {this_host(): look_here(OsFileSystem(), path)}
    answers, silent = ask_the_others(_look_there, path)
    looks |= {host: msgspec.msgpack.decode(data, type=Look) for host, (data, _, _) in answers.items()}
    for host, why in sorted(silent.items()):
        logger.warning("host %s %s what lies at %s", host, why, path)
    for host, look in sorted(looks.items()):
        if look.trouble:
            logger.warning("host %s cannot read the marker of the store at %s: %s", host, path, look.trouble)
    return dict(sorted(looks.items()))


def ask_the_others(
    work: Callable[..., bytes], *given: str, timeout_s: float = LOOK_TIMEOUT_S
) -> tuple[dict[str, tuple[bytes, float, float]], dict[str, str]]:
    """Run ``work(*given)`` in a short task on every other host of the Ray cluster.

    Returns for each host that answers in time its answer, and the wall clock here when it was asked and when the answer was
    there; and why others did not.
    """
    here = "" if is_far_away() else this_host()
    there = ray.remote(num_cpus=0, max_retries=0)(work)
    asked: dict[Any, str] = {}
    asked_s: dict[Any, float] = {}
    for name, nodes in living(ray.nodes()).items():
        for node in nodes if name != here else ():  # through each of its Ray nodes: one may have died
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answer = there.options(scheduling_strategy=strategy).remote(*given)
            asked[answer], asked_s[answer] = name, time.time()
    until_s = time.monotonic() + timeout_s
    waiting, found, silent = [*asked], dict[str, tuple[bytes, float, float]](), dict[str, str]()
    while waiting and (left_s := until_s - time.monotonic()) > 0:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=left_s)
        for answer in ready:
            try:
                found[asked[answer]] = ray.get(answer), asked_s[answer], time.time()
            except RayError as error:
                silent[asked[answer]] = f"could not say ({first_line(error)})"
    for answer in waiting:
        silent[asked[answer]] = f"did not say within {timeout_s:g} s"
        ray.cancel(answer)
    return found, {host: why for host, why in silent.items() if host not in found}


def places(looks: dict[str, Look], there: Sequence[str], preferred: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return node id -> the host that holds its directory, sorted. ``there``: the names of the living hosts.

    Hosts that share a file system all see the directory; the node then belongs to its last host, if that one lives.
    ``preferred``: node id -> host; of several directories of one node, that which last ran there.
    """
    found: dict[str, str] = {}
    for host, look in sorted(looks.items()):
        for node_id, last in look.nodes.items():
            if host == last == (preferred or {}).get(node_id):
                found[node_id] = host
            found.setdefault(node_id, last if last in there else host)
    return dict(sorted(found.items()))


def bound(looks: dict[str, Look], here: str) -> dict[str, Marker]:
    """Return host -> marker for the other hosts whose marker records a store founded there, or being founded."""
    return {
        host: look.marker
        for host, look in looks.items()
        if host != here and look.marker is not None and (look.marker.founded or look.nodes)
    }


def hosts(looks: dict[str, Look]) -> list[Host]:
    """Return the living hosts with their resources, sorted by name. A disk of unknown size counts as 0 bytes."""
    return hosts_of(ray.nodes(), looks)


def hosts_of(nodes: Sequence[RayNode], looks: dict[str, Look]) -> list[Host]:
    """Return the hosts of these Ray nodes. The resources of one host's Ray nodes are added up, except for the disk."""
    found = []
    for name, there in living(nodes).items():
        labels = [node.get("Labels", {}) for node in there]
        found.append(
            Host(
                name=name,
                cpus=sum(float(node["Resources"].get("CPU", 0.0)) for node in there) or 1.0,
                memory_bytes=sum(int(node["Resources"].get("memory", 0)) for node in there),
                disk_bytes=looks[name].disk_bytes if name in looks else 0,
                zone=_zone(labels),
            )
        )
    return found


def ray_node_for(node_id: str, host: str, cpus: float) -> str:
    """Return the id of the Ray node for a storage process on this host (the local one, if empty).

    Raises ``LaunchFailed`` ("no host", "too small").
    """
    name = host or this_host()
    there = living(ray.nodes()).get(name, [])
    return chosen(node_id, name, there, cpus, _free_cpus() if cpus and len(there) > 1 else {})


def chosen(node_id: str, host: str, there: Sequence[RayNode], cpus: float, free: Mapping[str, float]) -> str:
    """Return the id of the Ray node, among a host's living ones, whose turn it is to run this storage node.

    It has ``cpus`` processors, free ones if possible (``free``: Ray's id -> processors).
    """
    if not there:
        raise LaunchFailed("no host", f"its host {host} is not in the Ray cluster")
    fit = [node for node in there if node["Resources"].get("CPU", 0.0) >= cpus]
    if not fit:
        most = max(node["Resources"].get("CPU", 0.0) for node in there)
        raise LaunchFailed(
            "too small", f"it asks for {cpus:g} processors, and no Ray node of host {host} has more than {most:g}"
        )
    fit = [node for node in fit if free.get(node["NodeID"], 0.0) >= cpus] or fit
    number = int("".join(digit for digit in node_id[-9:] if digit in "0123456789") or 0)
    return str(fit[number % len(fit)]["NodeID"])


def lack_of_cpus(host: str, cpus: float) -> str:
    """Return a message if no Ray node of the host has ``cpus`` free processors now; empty if one has, or if unknown."""
    try:
        free, there = _free_cpus(), living(ray.nodes()).get(host or this_host(), [])
    except (RayError, LaunchFailed):
        return ""
    most = max((free.get(node["NodeID"], 0.0) for node in there), default=cpus)
    return f"{cpus:g} processors must be free on a Ray node of its host, and {most:g} are" if most < cpus else ""


def this_host() -> str:
    """Return the name of the host that runs this process. Raises ``LaunchFailed`` if Ray considers it dead."""
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here:
            return host_name(node)
    raise LaunchFailed("no host", "Ray does not count the host of this process any more")


def is_far_away() -> bool:
    """Return whether this process is a client of Ray's client server (ray://): none of the hosts has its disk."""
    return bool(ray.util.client.ray.is_connected())


def whereabouts() -> Place:
    """Return where this process runs by what Ray has told it, without a request; nowhere if it is not connected.

    Not by ``ray.get_runtime_context()``, which starts a Ray where there is none.
    """
    node = ray._private.worker.global_worker.node  # noqa: SLF001 - what ray.nodes() says, without asking
    if node is None:
        return NOWHERE
    labels: Mapping[str, Any] = getattr(node, "node_labels", None) or {}
    return Place(str(labels.get(HOST_LABEL) or node.node_ip_address), _zone([labels]))


def living(nodes: Sequence[RayNode]) -> dict[str, list[RayNode]]:
    """Return host -> its living Ray nodes; hosts sorted by name, Ray nodes by id."""
    found: dict[str, list[RayNode]] = {}
    for node in sorted(nodes, key=lambda node: (host_name(node), str(node["NodeID"]))):
        if node["Alive"]:
            found.setdefault(host_name(node), []).append(node)
    return found


def host_name(node: RayNode) -> str:
    """Return the name of a Ray node's host: its label ``raykv-host`` if present, otherwise its address."""
    return str(node.get("Labels", {}).get(HOST_LABEL) or node["NodeManagerAddress"])


def _zone(labels: Sequence[Mapping[str, Any]]) -> str:
    """Return the zone that the labels of a host's Ray nodes name; empty if none does."""
    return next((str(each[label]) for each in labels for label in ZONE_LABELS if each.get(label)), "")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    if "No module named 'raykv'" in str(error):
        return NOT_INSTALLED
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = next((line for line in reversed(lines) if "Error" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {cause[:300]}"


def _look_there(path: str) -> bytes:
    return msgspec.msgpack.encode(look_here(OsFileSystem(), path))


def _free_cpus() -> dict[str, float]:
    """Return Ray node id -> free processors, where Ray reports them."""
    try:
        from ray._private.state import available_resources_per_node
    except ImportError:
        return {}
    return {node_id: float(free.get("CPU", 0.0)) for node_id, free in available_resources_per_node().items()}


def _last_host(fs: FileSystem, lock: str) -> str:
    try:
        return read_note(fs.read_file(lock, MAX_NOTE_BYTES)).host
    except OSError:
        return ""


def _disk_bytes(path: str) -> int:
    """Return the size of the disk that holds the path, or would hold it."""
    while True:
        try:
            return shutil.disk_usage(path).total
        except FileNotFoundError:
            path = path.rpartition("/")[0] or "/"
        except OSError:
            return 0

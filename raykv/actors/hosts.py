"""The machines of a Ray cluster, and what lies on each at a store's path.

A host is named by its label ``raykv-host`` if Ray was started with one, else by its address; Ray's own ids of nodes change
with every start, so they are never kept. Its zone is the label ``raykv-zone``, else the zone that a cloud's Ray knows of.

What lies on another host only a process there can see. ``look_everywhere`` starts a short task on each; a host that has
died and that Ray still counts does not answer, and is left out after a while.
"""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING, Any

import msgspec
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykv.actors.marker import Marker, read_marker
from raykv.actors.naming import node_directories, node_directory
from raykv.actors.os_files import OsFileSystem
from raykv.errors import CorruptData
from raykv.ports import Host, LaunchFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.ports import FileSystem

logger = logging.getLogger("raykv.supervisor")

HOST_LABEL = "raykv-host"
ZONE_LABELS = ("raykv-zone", "ray.io/availability-zone")
LOOK_TIMEOUT_S = 10.0
MAX_NOTE_BYTES = 4096


class LockNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a storage process leaves in its directory's lock: JSON. It stays there when the process has ended."""

    pid: int = 0
    host: str = ""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What lies on a host at a store's path."""

    marker: Marker | None = None
    nodes: dict[str, str] = {}
    """Node id -> the host where it last ran, by the note in its lock; empty if it does not say."""
    disk_bytes: int = 0
    trouble: str = ""


def read_note(data: bytes) -> LockNote:
    """Return the note in a lock; an empty one if it cannot be read."""
    try:
        return msgspec.json.decode(data, type=LockNote)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return LockNote()


def look_here(fs: FileSystem, path: str) -> Look:
    """Look at the path on this host."""
    marker, trouble = None, ""
    try:
        marker = read_marker(fs, path)
    except FileNotFoundError:
        pass
    except (OSError, CorruptData) as error:
        trouble = str(error)
    nodes = {node_id: _last_host(fs, node_directory(path, node_id)) for node_id in node_directories(fs, path)}
    return Look(marker=marker, nodes=nodes, disk_bytes=_disk_bytes(path), trouble=trouble)


def look_everywhere(path: str) -> dict[str, Look]:
    """Look at the path on every host of the Ray cluster that answers in time: host -> what lies there."""
    here = this_host()
    looks = {here: look_here(OsFileSystem(), path)}
    there = ray.remote(num_cpus=0, max_retries=0)(_look_there)
    asked: dict[Any, str] = {}
    for name, node_id in sorted(_living().items()):
        if name != here:
            strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
            asked[there.options(scheduling_strategy=strategy).remote(path)] = name
    ready, late = ray.wait([*asked], num_returns=len(asked), timeout=LOOK_TIMEOUT_S) if asked else ([], [])
    for answer in ready:
        try:
            looks[asked[answer]] = msgspec.msgpack.decode(ray.get(answer), type=Look)
        except RayError as error:
            logger.warning("host %s did not say what lies at %s: %s", asked[answer], path, first_line(error))
    for answer in late:
        ray.cancel(answer)
        logger.warning("host %s did not say within %g s what lies at %s", asked[answer], LOOK_TIMEOUT_S, path)
    for host, look in sorted(looks.items()):
        if look.trouble:
            logger.warning("host %s cannot read what it was told of the store at %s: %s", host, path, look.trouble)
    return dict(sorted(looks.items()))


def places(looks: dict[str, Look], there: Sequence[str]) -> dict[str, str]:
    """Return node id -> the host that its directory is on, sorted. ``there``: the names of the living hosts.

    Where hosts share a file system, several see it: then it is where the node last ran, if that host is there.
    """
    found: dict[str, str] = {}
    for host, look in sorted(looks.items()):
        for node_id, last in look.nodes.items():
            found.setdefault(node_id, last if last in there else host)
    return dict(sorted(found.items()))


def bound(looks: dict[str, Look], here: str) -> dict[str, Marker]:
    """Return host -> marker for the other hosts whose marker says that a store was founded there, or begun."""
    return {
        host: look.marker
        for host, look in looks.items()
        if host != here and look.marker is not None and (look.marker.founded or look.nodes)
    }


def hosts(looks: dict[str, Look]) -> list[Host]:
    """Return the living hosts with what each has to give, sorted by name. A disk that is unknown counts as 0 bytes."""
    found = {}
    for node in ray.nodes():
        if node["Alive"]:
            name, labels = host_name(node), node.get("Labels", {})
            found[name] = Host(
                name=name,
                cpus=float(node["Resources"].get("CPU", 1.0)),
                memory_bytes=int(node["Resources"].get("memory", 0)),
                disk_bytes=looks[name].disk_bytes if name in looks else 0,
                zone=next((str(labels[label]) for label in ZONE_LABELS if labels.get(label)), ""),
            )
    return [found[name] for name in sorted(found)]


def ray_node_of(host: str) -> str:
    """Return Ray's id of the living node on that host, of this one if empty. Raises ``LaunchFailed``."""
    if not host:
        return str(ray.get_runtime_context().get_node_id())
    if (node_id := _living().get(host)) is None:
        raise LaunchFailed("no host", f"its host {host} is not in the Ray cluster")
    return node_id


def this_host() -> str:
    """Return the name of the host that this process runs on."""
    here = ray.get_runtime_context().get_node_id()
    return next(name for name, node_id in _living().items() if node_id == here)


def host_name(node: dict[str, Any]) -> str:
    """Return the name of a Ray node's host: its label ``raykv-host`` if it has one, else its address."""
    return str(node.get("Labels", {}).get(HOST_LABEL) or node["NodeManagerAddress"])


def first_line(error: Exception) -> str:
    """Return what an error of Ray's says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = next((line for line in reversed(lines) if "Error" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {cause[:300]}"


def _look_there(path: str) -> bytes:
    return msgspec.msgpack.encode(look_here(OsFileSystem(), path))


def _living() -> dict[str, str]:
    return {host_name(node): str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}


def _last_host(fs: FileSystem, directory: str) -> str:
    try:
        return read_note(fs.read_file(f"{directory}/lock", MAX_NOTE_BYTES)).host
    except OSError:
        return ""


def _disk_bytes(path: str) -> int:
    """Return the size of the disk that the path is on, or would be."""
    while True:
        try:
            return shutil.disk_usage(path).total
        except FileNotFoundError:
            path = path.rpartition("/")[0] or "/"
        except OSError:
            return 0

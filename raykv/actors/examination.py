"""What each host of the Ray cluster says of itself, for ``raykv doctor``."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import stat
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import ray

from raykv.actors import hosts
from raykv.actors.marker import MARKER, read_marker
from raykv.actors.naming import ASIDE
from raykv.errors import RaykvError
from raykv.metrics.diagnosis import HostReport
from raykv.system.directories import data_directory
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LEFTOVERS = 100


class _Said(msgspec.Struct, frozen=True):
    raykv: str
    ray: str
    python: str
    wall_s: float
    descriptors: int
    free_bytes: int
    disk_bytes: int
    leftovers: dict[str, str]
    world_writable: bool
    files_free_share: float
    in_memory: bool
    aside: list[str]


def versions() -> dict[str, str]:
    """Return the versions of raykv, Ray and Python here."""
    here = sys.modules["raykv"]  # which imports this package
    return {"raykv": here.__version__, "ray": ray.__version__, "python": platform.python_version()}


def security() -> dict[str, bool]:
    """Return which of Ray's security settings this process has."""
    return {
        "token": os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
        "tls": os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"},
    }


def examine(path: str) -> tuple[list[HostReport], dict[str, str]]:
    """Return the reports of all hosts that answer in time, and why others did not. ``path``: the store's."""
    began_s = time.time()
    said = {hosts.this_host(): (examine_here(path), began_s, time.time())}
    answers, silent = hosts.ask_the_others(_examine_there, path)
    for host, (data, asked_s, answered_s) in answers.items():
        said[host] = (msgspec.msgpack.decode(data, type=_Said), asked_s, answered_s)
    reports = [_report(host, *each) for host, each in sorted(said.items())]
    return reports, silent


def _report(host: str, said: _Said, asked_s: float, answered_s: float) -> HostReport:
    """Compare a host's clock: it was read at some time between the question and the answer."""
    return HostReport(
        host=host,
        raykv=said.raykv,
        ray=said.ray,
        python=said.python,
        clock_ahead_s=said.wall_s - (asked_s + answered_s) / 2,
        clock_error_s=(answered_s - asked_s) / 2,
        descriptors=said.descriptors,
        disk_free_bytes=said.free_bytes,
        disk_bytes=said.disk_bytes,
        leftovers=said.leftovers,
        world_writable=said.world_writable,
        files_free_share=said.files_free_share,
        in_memory=said.in_memory,
        aside=said.aside,
    )


def examine_here(path: str) -> _Said:
    """Look at this host."""
    there = path
    while not os.path.exists(there) and there != os.path.dirname(there):
        there = os.path.dirname(there)
    disk, files = shutil.disk_usage(there), os.statvfs(there)
    found: Mapping[str, str] = versions()
    return _Said(
        **found,
        wall_s=time.time(),
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        free_bytes=disk.free,
        disk_bytes=disk.total,
        leftovers=_leftovers(),
        files_free_share=files.f_favail / files.f_files if files.f_files else 1.0,
        in_memory=_file_system_of(there) in {"tmpfs", "ramfs"},
        aside=_aside(path),
        world_writable=os.path.isdir(path) and bool(os.stat(path).st_mode & (stat.S_IWGRP | stat.S_IWOTH)),
    )


def machines() -> dict[str, list[str]]:
    """Return the living hosts, as their labels call them, each with the addresses of its machines."""
    return {
        name: [str(node["NodeManagerAddress"]) for node in there] for name, there in hosts.living(ray.nodes()).items()
    }


def _file_system_of(path: str) -> str:
    """Return the type of the file system that a path is on; empty where the system does not tell."""
    there, found = os.path.realpath(path), ("", "")
    try:
        with open("/proc/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                _, at, kind, *_ = line.split(" ")
                at = at.replace("\\040", " ")
                if there == at or there.startswith(at.rstrip("/") + "/"):
                    found = max(found, (at, kind), key=lambda each: len(each[0]))
    except (OSError, ValueError):
        return ""
    return found[1]


def _aside(path: str) -> list[str]:
    """Return the directories of nodes that have left, below a store's path."""
    base = f"{path}/nodes"
    try:
        return [f"{base}/{name}" for name in sorted(os.listdir(base)) if ASIDE in name][:MAX_LEFTOVERS]
    except OSError:
        return []


def _leftovers() -> dict[str, str]:
    """Return the stores at the default place: path -> name."""
    fs = OsFileSystem()
    found: dict[str, str] = {}
    try:
        base = data_directory()
        names = sorted(os.listdir(base))[:MAX_LEFTOVERS]
    except OSError:
        return {}
    for name in names:
        where = f"{base}/{name}"
        try:
            if fs.exists(f"{where}/{MARKER}"):
                found[where] = read_marker(fs, where).store.name
        except (RaykvError, OSError):
            found[where] = name
    return found


def _examine_there(path: str) -> bytes:
    return msgspec.msgpack.encode(examine_here(path))

"""The backups that simulated nodes made, gathered from their disks as an operator would copy them to one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.sim.disk import SimDisk

if TYPE_CHECKING:
    from collections.abc import Collection

    from world import Cluster

BACKUPS = "/backups/shop"


def gathered(cluster: Cluster, nodes: Collection[str] = (), path: str = BACKUPS) -> SimDisk:
    """Return a disk with what these nodes, or all, have below ``path``; all of it safe."""
    files: dict[str, bytes] = {}
    directories: set[str] = set()
    for node_id in nodes or cluster.ids:
        disk = cluster.disks[node_id]
        for name in disk.files():
            if name.startswith(f"{path}/"):
                files[name] = disk.read_file(name, 1 << 30)
        for name in files:
            at = name
            while at := at.rpartition("/")[0]:
                directories.add(at)
    return SimDisk.holding(files, directories)

"""HOW a node keeps bytes: a log-structured store for one node, over the ``FileSystem`` port.

Read bottom-up: ``bloom``, ``cache``, ``memtable``, ``sstable``, ``merge``, ``wal`` and ``replay``, ``manifest``,
``compaction``, then ``engine``, which ties them together, with ``jobs`` and ``recovery`` at its sides. ``directory`` is
the node's directory around it: the lock, who the node is, and its copy of the cluster's state.

Records are opaque bytes here. How two records of a key merge is a function handed in.

Left out: snapshots, transactions, column families, a second writer. Other nodes: what a disk has lost the peers give back,
and ``damaged`` says what that is (P1).
"""

from raykv.storage.damage import Damage, DiskFull, EngineFailed
from raykv.storage.directory import (
    LOCK_NAME,
    DirectoryForeign,
    DirectoryInUse,
    Identity,
    NodeDirectory,
    read_identity,
)
from raykv.storage.engine import CHANGES_PREFIX_BYTES, Engine, EngineStats, Merge
from raykv.storage.jobs import Job
from raykv.storage.memtable import Found
from raykv.storage.wal import SyncJob

__all__ = [
    "Engine", "EngineStats", "CHANGES_PREFIX_BYTES", "Found", "Merge", "SyncJob", "Job",
    "Damage", "DiskFull", "EngineFailed",
    "NodeDirectory", "Identity", "read_identity", "DirectoryInUse", "DirectoryForeign", "LOCK_NAME",
]  # fmt: skip

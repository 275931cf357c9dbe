"""HOW a node keeps bytes: a log-structured store for one node, over the ``FileSystem`` port.

Read bottom-up: ``bloom``, ``cache``, ``memtable``, ``compression`` and ``frame``, ``sstable`` and its writer, ``merge``,
``wal`` and ``replay``, ``manifest``, ``compaction`` and its ``schedule``, then the engine in three steps: ``lookups``
(single keys), ``scans`` (ranges), ``engine`` (writes, and the whole), with ``jobs`` (in a process of their own:
``remote``) and ``recovery`` at its sides. ``directory`` is the node's directory around it: the lock, who the node is, and
its copy of the cluster's state. ``inspection`` and ``inspected_files`` show what lies there, and verify it.

Records are opaque bytes here. The caller passes in the function that merges two records of a key.

``snapshot`` copies a node's tables into a backup directory, and reads them back from there.

Left out: snapshots to read from, transactions, column families, a second writer. Other nodes: the peers restore what a disk
has lost, and ``damaged`` names it (P1).
"""

from raykv.storage.damage import CompressionMissing, Damage, DiskFull, EngineFailed, NumbersUsedUp
from raykv.storage.directory import (
    LOCK_NAME,
    DirectoryForeign,
    DirectoryInUse,
    Identity,
    NodeDirectory,
    read_identity,
)
from raykv.storage.engine import CHANGES_PREFIX_BYTES, Engine, EngineStats, HeldTables, Merge
from raykv.storage.jobs import Job
from raykv.storage.memtable import Found
from raykv.storage.wal import SyncJob

__all__ = [
    "Engine", "EngineStats", "HeldTables", "CHANGES_PREFIX_BYTES", "Found", "Merge", "SyncJob", "Job",
    "CompressionMissing", "Damage", "DiskFull", "EngineFailed", "NumbersUsedUp",
    "NodeDirectory", "Identity", "read_identity", "DirectoryInUse", "DirectoryForeign", "LOCK_NAME",
]  # fmt: skip

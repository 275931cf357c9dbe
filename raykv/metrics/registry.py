"""Every metric once: its name, its kind, what it says, and its labels. All have the label ``store`` too.

Names are Prometheus's: ``raykv_``, what is measured, the unit last; ``_total`` for what only grows, from zero at each start
of the process that counts it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["gauge", "counter", "histogram"]

PREFIX = "raykv_"
STATES = ("up", "down", "starting", "restarting", "suspected", "left")


class Alert(NamedTuple):
    """When somebody should look: an expression over the metric, for how long, how bad, and what to do."""

    name: str
    expression: str
    for_s: int
    severity: Literal["critical", "warning"]
    summary: str


class Metric(NamedTuple):
    """A metric. ``name``: without ``PREFIX``."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    panel: str = ""
    """The row of the dashboard that shows it; empty for none."""
    alert: Alert | None = None

    @property
    def full_name(self) -> str:
        """The name as it is exported."""
        return PREFIX + self.name


_NODE = ("node",)
_TRAFFIC, _NODES, _STORAGE, _REPLICATION, _CLIENTS = (
    "Traffic", "Nodes", "Storage", "Replication and repair", "Seen by clients",
)  # fmt: skip

METRICS: tuple[Metric, ...] = (
    # ---- nodes ----
    Metric(
        "node_up", "gauge", "1 if the supervisor takes the node for running, else 0.", ("node", "host", "zone"), _NODES,
        Alert("RaykvNodeDown", "raykv_node_up == 0", 60, "critical",
              "Node {{ $labels.node }} of store {{ $labels.store }} is down: raykv status says why; raykv replace-node "
              "moves its copies elsewhere"),
    ),
    Metric("node_restarts_total", "counter", "How often the supervisor has restarted the node.", _NODE, _NODES),
    Metric(
        "node_complete", "gauge",
        "1 if the node has all that it acknowledged, as far as it knows; 0 until its peers have restored it.", _NODE, _NODES,
        Alert("RaykvNodeIncomplete", "raykv_node_complete == 0", 900, "warning",
              "Node {{ $labels.node }} lacks data and its peers have not restored it for 15 minutes"),
    ),
    Metric("node_partitions", "gauge", "Partitions of which the node owns a copy.", _NODE, _NODES),
    Metric("node_weight", "gauge", "The node's capacity relative to the others.", _NODE),
    # ---- traffic ----
    Metric(
        "request_seconds", "histogram",
        "How long the node took to answer requests of clients, until the answer was durable where it has to be.",
        ("node", "bucket", "kind"), _TRAFFIC,
    ),
    Metric("operations_per_second", "gauge", "Operations in the last complete window of ten seconds.", _NODE, _TRAFFIC),
    Metric(
        "request_p99_seconds", "gauge", "99 of 100 requests of the last window took at most this long.", _NODE, _TRAFFIC,
        Alert("RaykvSlowNode", "raykv_request_p99_seconds > 0.5", 300, "warning",
              "Node {{ $labels.node }} answers slowly: raykv doctor looks for the cause"),
    ),
    Metric("hot_key_operations_per_second", "gauge", "The keys asked for most often, estimated from a sample.",
           ("node", "bucket", "key"), _TRAFFIC),
    Metric("hot_partition_operations_per_second", "gauge", "The partitions asked for most often, estimated.",
           ("node", "partition")),
    Metric("largest_pair_bytes", "gauge", "The largest records written since their nodes started, a few for each node.",
           ("bucket", "key"), _TRAFFIC),
    # ---- storage ----
    Metric("records", "gauge", "Records stored; those overwritten or deleted count until a compaction.", _NODE, _STORAGE),
    Metric("table_bytes", "gauge", "Bytes in tables.", _NODE, _STORAGE),
    Metric("garbage_bytes", "gauge", "Estimated bytes of overwritten and expired records in tables.", _NODE, _STORAGE),
    Metric(
        "disk_free_bytes", "gauge", "Free space on the node's disk.", _NODE, _STORAGE,
        Alert("RaykvDiskAlmostFull", "raykv_disk_free_bytes < 1073741824", 60, "warning",
              "Less than 1 GiB is left on the disk of node {{ $labels.node }}; it refuses writes below min_free_bytes"),
    ),
    Metric(
        "disk_full", "gauge", "1 while the node refuses writes because its disk is full.", _NODE, _STORAGE,
        Alert("RaykvDiskFull", "raykv_disk_full == 1", 0, "critical",
              "Node {{ $labels.node }} refuses writes: its disk is full"),
    ),
    Metric(
        "damaged_ranges", "gauge", "Corrupt key ranges that the peers have not restored yet.", _NODE, _STORAGE,
        Alert("RaykvCorruption", "raykv_damaged_ranges > 0", 900, "warning",
              "Node {{ $labels.node }} has corrupt ranges that its peers have not restored for 15 minutes"),
    ),
    Metric("memtable_bytes", "gauge", "Bytes that are in memory and in the log only.", _NODE, _STORAGE),
    Metric("sealed_memtables", "gauge", "Memtables that wait for their flush.", _NODE, _STORAGE),
    Metric(
        "runs", "gauge", "Sorted runs: a read may have to look into each.", _NODE, _STORAGE,
        Alert("RaykvCompactionBehind", "raykv_runs > 30", 900, "warning",
              "Compaction of node {{ $labels.node }} does not keep up"),
    ),
    Metric("compaction_debt_bytes", "gauge", "Bytes of tables that are due to be merged next, or being merged.", _NODE,
           _STORAGE),
    Metric("deletion_markers", "gauge",
           "Records in tables that only say that something was dropped here; compactions remove them.", _NODE),
    Metric("tables", "gauge", "Table files.", _NODE),
    Metric("cache_bytes", "gauge", "Bytes of blocks and records in the cache.", _NODE),
    Metric("cache_hits_total", "counter", "Blocks and records found in the cache.", _NODE, _STORAGE),
    Metric("cache_misses_total", "counter", "Blocks read from the disk.", _NODE, _STORAGE),
    Metric("bloom_negatives_total", "counter", "Runs that a Bloom filter ruled out.", _NODE),
    Metric("flushes_total", "counter", "Memtables flushed.", _NODE),
    Metric("compactions_total", "counter", "Compactions done.", _NODE, _STORAGE),
    Metric("wal_bytes_total", "counter", "Bytes written to the log.", _NODE, _STORAGE),
    Metric("written_bytes_total", "counter", "Bytes written to the log and to tables.", _NODE, _STORAGE),
    # ---- replication and repair ----
    Metric(
        "hints_waiting", "gauge", "Writes kept for a node that was away.", ("node", "target"), _REPLICATION,
        Alert("RaykvHintsWait", "sum by (store, target) (raykv_hints_waiting) > 0", 3600, "warning",
              "Hints for node {{ $labels.target }} have waited for an hour: it is away, or cannot take them"),
    ),
    Metric("hint_bytes", "gauge", "Bytes of waiting hints.", _NODE, _REPLICATION),
    Metric("hints_replayed_total", "counter", "Hints handed to their nodes.", _NODE, _REPLICATION),
    Metric("hints_expired_total", "counter", "Hints that grew too old; anti-entropy finds what they held.", _NODE),
    Metric("repair_compared_total", "counter", "Partitions that anti-entropy has compared.", _NODE, _REPLICATION),
    Metric("repair_fetched_total", "counter", "Records that anti-entropy brought to this node.", _NODE, _REPLICATION),
    Metric("repair_sent_total", "counter", "Records that anti-entropy sent from this node.", _NODE, _REPLICATION),
    Metric("repair_bytes_total", "counter", "Bytes that anti-entropy moved.", _NODE),
    Metric("tombstones", "gauge",
           "Deleted and expired records that are kept until all owners may forget them, as of the daily comparison of each "
           "partition (or raykv repair), which counts them at one of its owners.", ("node", "bucket"), _REPLICATION),
    Metric("leading", "gauge", "Partitions of linearizable buckets that the node leads.", _NODE, _REPLICATION),
    Metric("tombstones_purged_total", "counter", "Deletes forgotten by all owners together.", _NODE, _REPLICATION),
    Metric("node_events_total", "counter",
           "What nodes count: leader_takeovers, leader_rounds, leader_superseded, leader_rewrites, suspicions and more.",
           ("node", "event"), _REPLICATION),
    Metric("ring_epoch", "gauge", "Grows with each change of who owns what.", (), _REPLICATION),
    Metric("moving_partitions", "gauge", "Partitions that still have to move to their new owners.", (), _REPLICATION),
    # ---- clients ----
    Metric("client_events_total", "counter",
           "What clients' coordinators count: hedges, hedges_won, read_repairs (reads that found a copy behind), "
           "copies_behind and copies_missing (such copies), hints, siblings_read, leader_reads and more. As of their last "
           "report, up to half a minute ago.",
           ("event",), _CLIENTS),
    Metric(
        "client_request_seconds", "histogram",
        "How long clients waited, by kind: get, put, change (of linearizable buckets), scan_page; of many keys: get_many, "
        "put_many, change_many. As of their last report, up to half a minute ago.", ("kind",), _CLIENTS,
    ),
    Metric("client_staleness_seconds", "histogram",
           "How much older than what the read returned the copies were that reads have repaired.", (), _CLIENTS),
    Metric("client_errors_total", "counter", "Operations, or keys of them, that failed, by class.", ("error",), _CLIENTS),
    Metric("queue_jobs_total", "counter",
           "Jobs of work queues, by what clients have done: put, claimed, done, given_back, redelivered (claimed again), "
           "dead (delivered as often as they may: see queue.dead). As of their last report, up to half a minute ago.",
           ("event",), _CLIENTS),
    Metric("clients", "gauge", "Clients, and coordinators' actors that clients ask, heard of in ten minutes.", (), _CLIENTS),
    # ---- buckets ----
    Metric("largest_group_bytes", "gauge", "The largest group of a grouped bucket, estimated.", ("bucket",)),
)  # fmt: skip

BY_NAME = {metric.name: metric for metric in METRICS}

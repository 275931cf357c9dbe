"""The values of all metrics, taken from a store's status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from raykv.metrics.registry import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HOT_KEY = "hot_key_operations_per_second"
MOST_HOT = 20
"""Hot keys in all, and large pairs: each is a series of its own, and comes and goes."""
_FROM_STORAGE = {
    "records": "records", "table_bytes": "table_bytes", "garbage_bytes": "garbage_bytes", "damaged_ranges": "damaged",
    "memtable_bytes": "memtable_bytes", "sealed_memtables": "sealed_memtables", "runs": "runs", "tables": "tables",
    "cache_bytes": "cache_bytes", "cache_hits_total": "cache_hits", "cache_misses_total": "cache_misses",
    "bloom_negatives_total": "bloom_negatives", "flushes_total": "flushes", "compactions_total": "compactions",
    "wal_bytes_total": "wal_bytes", "written_bytes_total": "bytes_written", "hint_bytes": "hint_bytes",
    "hints_replayed_total": "hints_replayed", "hints_expired_total": "hints_expired",
    "compaction_debt_bytes": "compaction_debt_bytes", "deletion_markers": "markers", "leading": "leading",
}  # fmt: skip
_FROM_REPAIRS = {
    "repair_compared_total": "compared", "repair_fetched_total": "fetched", "repair_sent_total": "sent",
    "repair_bytes_total": "bytes", "tombstones_purged_total": "purged",
}  # fmt: skip


class Sample(NamedTuple):
    """One value: the metric's name without prefix, a suffix (of a histogram's parts), its labels, its value."""

    name: str
    labels: dict[str, str]
    value: float
    suffix: str = ""


def samples(status: Mapping[str, Any]) -> list[Sample]:
    """Return the values of all metrics by a store's status, in the order of the registry. O(nodes)."""
    order = {name: at for at, name in enumerate(BY_NAME)}
    found = [sample._replace(labels={"store": status["name"], **sample.labels}) for sample in _all(status)]
    return sorted(found, key=lambda sample: order[sample.name])


def _all(status: Mapping[str, Any]) -> Iterator[Sample]:
    yield Sample("ring_epoch", {}, status["ring_epoch"])
    moving = status.get("rebalancing") or {}
    yield Sample("moving_partitions", {}, moving.get("partitions_left", 0))
    hot: dict[tuple[str, str, str], float] = {}
    groups: dict[str, int] = {}
    large: dict[tuple[str, str], int] = {}
    for node in status["nodes"]:
        name = {"node": node["node_id"]}
        yield Sample("node_up", {**name, "host": node["host"], "zone": node["zone"]}, 1 if node["state"] == "up" else 0)
        yield Sample("node_restarts_total", name, node["restarts"])
        yield Sample("node_partitions", name, node["partitions"])
        yield Sample("node_weight", name, node["weight"])
        storage = node["storage"]
        if storage is None:
            continue
        yield from _of_storage(name, storage)
        load = storage["load"]
        for key in load.get("keys", ()):
            at = node["node_id"], key["bucket"], str(key["key"])
            hot[at] = hot.get(at, 0.0) + key["ops_per_s"]  # keys of dropped buckets, and b"a" and "b'a'", share a name
        for pair in storage.get("large", ()):
            place = pair["bucket"], str(pair["key"])
            large[place] = max(large.get(place, 0), pair["bytes"])
        for group in storage.get("groups", ()):
            groups[group["bucket"]] = max(groups.get(group["bucket"], 0), group["bytes"])
    for (node_id, bucket, key), rate in sorted(hot.items(), key=lambda each: -each[1])[:MOST_HOT]:
        yield Sample(HOT_KEY, {"node": node_id, "bucket": bucket, "key": key}, rate)
    for (bucket, key), size_bytes in sorted(large.items(), key=lambda each: -each[1])[:MOST_HOT]:
        yield Sample("largest_pair_bytes", {"bucket": bucket, "key": key}, size_bytes)
    for bucket, size_bytes in groups.items():
        yield Sample("largest_group_bytes", {"bucket": bucket}, size_bytes)
    yield from _of_clients(status.get("clients") or {})


def _of_storage(name: dict[str, str], storage: Mapping[str, Any]) -> Iterator[Sample]:
    yield Sample("node_complete", name, 1 if storage["complete"] else 0)
    yield Sample("disk_free_bytes", name, storage["disk"]["free_bytes"])
    yield Sample("disk_full", name, 1 if storage["disk"]["full"] else 0)
    for metric, figure in _FROM_STORAGE.items():
        if figure in storage:
            yield Sample(metric, name, storage[figure])
    for metric, figure in _FROM_REPAIRS.items():
        if figure in storage.get("repaired", ()):
            yield Sample(metric, name, storage["repaired"][figure])
    for target, count in storage.get("hints", {}).items():
        yield Sample("hints_waiting", {**name, "target": target}, count)
    for event, count in storage.get("counters", {}).items():
        yield Sample("node_events_total", {**name, "event": event}, count)
    load = storage["load"]
    if "ops_per_s" in load:
        yield Sample("operations_per_second", name, load["ops_per_s"])
        yield Sample("request_p99_seconds", name, load["p99_ms"] / 1000)
        for partition, drawn in load["partitions"]:
            yield Sample("hot_partition_operations_per_second", {**name, "partition": str(partition)}, drawn)
    for histogram in storage.get("latencies", ()):
        labels = {**name, "bucket": histogram["bucket"], "kind": histogram["kind"]}
        yield from _histogram("request_seconds", labels, histogram)
    for dead in storage.get("tombstones", ()):
        yield Sample("tombstones", {**name, "bucket": dead["bucket"]}, dead["count"])


def _histogram(metric: str, labels: dict[str, str], histogram: Mapping[str, Any]) -> Iterator[Sample]:
    seen = 0
    for bound_s, count in histogram["counts"]:
        seen += count
        yield Sample(metric, {**labels, "le": f"{bound_s:g}"}, seen, "_bucket")
    seen += histogram["beyond"]
    yield Sample(metric, {**labels, "le": "+Inf"}, seen, "_bucket")
    yield Sample(metric, labels, histogram["sum_s"], "_sum")
    yield Sample(metric, labels, seen, "_count")


def _of_clients(clients: Mapping[str, Any]) -> Iterator[Sample]:
    yield Sample("clients", {}, clients.get("processes", 0))
    for event, count in clients.get("counters", {}).items():
        if event.startswith("errors."):
            yield Sample("client_errors_total", {"error": event.removeprefix("errors.")}, count)
        elif event.startswith("queues."):
            yield Sample("queue_jobs_total", {"event": event.removeprefix("queues.")}, count)
        else:
            yield Sample("client_events_total", {"event": event}, count)
    for histogram in clients.get("latencies", ()):
        yield from _histogram("client_request_seconds", {"kind": histogram["kind"]}, histogram)
    if "staleness" in clients:
        yield from _histogram("client_staleness_seconds", {}, clients["staleness"])

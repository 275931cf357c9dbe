"""What the page shows: the store's state every two seconds, its last ten minutes, and what has happened."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from raykv import viz
from raykv.errors import RaykvError
from raykv.metrics.diagnosis import diagnosis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

EVERY_S = 2.0
WATCHED_S = 10.0
"""A page that has not asked for so long is closed."""
HISTORY = 300
EVENTS = 200
_SHARES = (0.5, 0.99)


class Traffic(NamedTuple):
    """Cumulated counts of a store: requests by latency bound, and errors."""

    counts: dict[float, int]
    errors: int


class Feed:
    """Looks at one store, in a thread of its own, while anybody watches."""

    def __init__(
        self,
        status: Callable[[], Mapping[str, Any]],
        ring: Callable[[], Mapping[str, Any]],
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._status = status
        self._ring = ring
        self._monotonic_s = monotonic_s
        self._wall_s = wall_s
        self._watched_s = -WATCHED_S
        self._wanted = threading.Event()
        self._over = threading.Event()
        self._fresh = threading.Condition()
        self._data = b""
        self._drawn: tuple[tuple[Any, ...], Mapping[str, Any], bytes] | None = None
        """What the wheel was drawn for, the ring, and the wheel."""
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._before: Mapping[str, Any] | None = None
        self._traffic: tuple[float, Traffic] | None = None
        self._thread = threading.Thread(target=self._run, name="raykv-dashboard", daemon=True)

    def start(self) -> None:
        """Begin to wait for somebody to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def latest(self, timeout_s: float = 5.0) -> bytes:
        """Return the present state as JSON; the first caller for a while waits until there is one."""
        stale = self._monotonic_s() - self._watched_s >= WATCHED_S
        self._watched_s = self._monotonic_s()
        self._wanted.set()
        with self._fresh:
            if stale or not self._data:
                self._fresh.wait(timeout_s)
            return self._data or b'{"trouble": "the store has not answered yet"}'

    def _run(self) -> None:
        while not self._over.is_set():
            if self._monotonic_s() - self._watched_s >= WATCHED_S:
                self._wanted.clear()
                self._traffic = None
                self._wanted.wait()
                continue
            self.look()
            self._over.wait(EVERY_S)

    def wheel(self) -> bytes:
        """Return the wheel as it was drawn last, as SVG."""
        drawn = self._drawn
        return b"" if drawn is None else drawn[2]

    def _ring_of(self, status: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the ring, asked for and drawn anew only when it has changed: both take more than all else together."""
        down = [node["node_id"] for node in status["nodes"] if node["state"] == "down"]
        drawn_for = (status["ring_epoch"], status.get("version"), *down)
        if self._drawn is None or self._drawn[0] != drawn_for:
            ring = self._ring()
            self._drawn = drawn_for, ring, viz.wheel_svg(ring, down).encode()
        return self._drawn[1]

    def look(self) -> None:
        """Look at the store once."""
        try:
            status = self._status()
            data = self._state(status, self._ring_of(status))
        except RaykvError as error:
            data = {"trouble": f"{type(error).__name__}: {error.message}", "events": list(self._events)[::-1]}
        except Exception as error:  # noqa: BLE001 - the page says what is wrong, and the next look may go well
            data = {"trouble": f"{type(error).__name__}: {error}", "events": list(self._events)[::-1]}
        encoded = msgspec.json.encode(data)
        with self._fresh:
            self._data = encoded
            self._fresh.notify_all()

    def _state(self, status: Mapping[str, Any], ring: Mapping[str, Any]) -> dict[str, Any]:
        at_s = self._wall_s()
        self._events.extend({"at_s": at_s, **event} for event in happened(self._before, status))
        self._before = status
        self._note_traffic(status)
        return {
            "at_s": at_s,
            "store": status["name"],
            "copies": status["config"]["copies"],
            "buckets": status["buckets"],
            "epoch": status["ring_epoch"],
            "moving": status.get("rebalancing"),
            "nodes": [_node(node) for node in status["nodes"]],
            "wheel": repr(self._drawn[0]) if self._drawn is not None else "",
            "history": list(self._history),
            "events": list(self._events)[::-1],
            "hot": _hot(status),
            "findings": [finding._asdict() for finding in diagnosis(status, ring)][:20],
        }

    def _note_traffic(self, status: Mapping[str, Any]) -> None:
        now_s, traffic = self._monotonic_s(), traffic_of(status)
        if self._traffic is not None:
            then_s, before = self._traffic
            lasted_s = max(1e-3, now_s - then_s)
            counts = {bound: max(0, count - before.counts.get(bound, 0)) for bound, count in traffic.counts.items()}
            p50, p99 = (quantile_s(counts, share) for share in _SHARES)
            self._history.append(
                {
                    "at_s": round(self._wall_s(), 1),
                    "ops": round(sum(counts.values()) / lasted_s, 1),
                    "p50_ms": round(p50 * 1000, 2),
                    "p99_ms": round(p99 * 1000, 2),
                    "errors": round(max(0, traffic.errors - before.errors) / lasted_s, 1),
                }
            )
        self._traffic = now_s, traffic


def traffic_of(status: Mapping[str, Any]) -> Traffic:
    """Return the requests that all nodes have answered, by the upper bound of their latency in seconds."""
    counts: dict[float, int] = {}
    for node in status["nodes"]:
        for histogram in (node["storage"] or {}).get("latencies", ()):
            for bound_s, count in (*histogram["counts"], (float("inf"), histogram["beyond"])):
                counts[bound_s] = counts.get(bound_s, 0) + count
    counters = (status.get("clients") or {}).get("counters", {})
    return Traffic(counts, sum(count for name, count in counters.items() if name.startswith("errors.")))


def quantile_s(counts: Mapping[float, int], share: float) -> float:
    """Return the upper bound below which this share of requests lies; 0 without any, the largest one for those beyond."""
    needed, seen = share * sum(counts.values()), 0
    bounds = sorted(bound for bound in counts if bound != float("inf"))
    if not needed:
        return 0.0
    for bound in bounds:
        seen += counts[bound]
        if seen >= needed:
            return bound
    return bounds[-1] if bounds else 0.0


_SHOWN = ("node_id", "state", "cause", "for_s", "host", "zone", "weight", "partitions", "restarts")


def _node(node: Mapping[str, Any]) -> dict[str, Any]:
    storage = node["storage"] or {}
    load, disk = storage.get("load") or {}, storage.get("disk") or {}
    return {
        **{name: node[name] for name in _SHOWN},
        "complete": storage.get("complete"),
        "records": storage.get("records"),
        "disk_bytes": storage.get("disk_bytes"),
        "free_bytes": disk.get("free_bytes"),
        "memory_bytes": storage.get("memtable_bytes", 0) + storage.get("cache_bytes", 0),
        "hints": sum(storage.get("hints", {}).values()),
        "ops_per_s": load.get("ops_per_s"),
        "p99_ms": load.get("p99_ms"),
    }  # fmt: skip


def _hot(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the keys asked for most, over all nodes."""
    drawn: dict[tuple[str, str], float] = {}
    for node in status["nodes"]:
        for key in ((node["storage"] or {}).get("load") or {}).get("keys", ()):
            at = key["bucket"], str(key["key"])[:200]
            drawn[at] = drawn.get(at, 0.0) + key["ops_per_s"]
    most = sorted(drawn.items(), key=lambda entry: -entry[1])[:10]
    return [{"bucket": bucket, "key": key, "ops_per_s": round(rate, 1)} for (bucket, key), rate in most]


def happened(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield what differs between two looks, in words: kind ("bad", "good", "note") and what, with its cause."""
    if before is None:
        return
    known = {node["node_id"]: node for node in before["nodes"]}
    for node in now["nodes"]:
        name, former = f"node {node['node_id']}", known.pop(node["node_id"], None)
        if former is None:
            yield {"kind": "note", "what": f"{name} has joined on {node['host']}"}
        else:
            yield from _of_node(name, former, node)
    for node_id in known:
        yield {"kind": "note", "what": f"node {node_id} has left"}
    if now["ring_epoch"] != before["ring_epoch"]:
        yield {"kind": "note", "what": f"the ring changed: epoch {now['ring_epoch']}"}
    moved, moving = before.get("rebalancing"), now.get("rebalancing")
    if moving is not None and moved is None:
        yield {"kind": "note", "what": f"{moving['partitions_left']} partitions begin to move"}
    elif moving is None and moved is not None:
        yield {"kind": "good", "what": "all partitions have moved"}
    for bucket in sorted({*now["buckets"]} ^ {*before["buckets"]}):
        yield {"kind": "note", "what": f"bucket {bucket!r} was {'created' if bucket in now['buckets'] else 'dropped'}"}


def _of_node(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if now["state"] != before["state"]:
        kind = "good" if now["state"] == "up" else "bad" if now["state"] == "down" else "note"
        yield {"kind": kind, "what": f"{name} is {now['state']}" + (f": {now['cause']}" if now["cause"] else "")}
    if now["restarts"] > before["restarts"]:
        yield {"kind": "note", "what": f"{name} was restarted"}
    old, new = before["storage"], now["storage"]
    if old is None or new is None:
        return
    if new["complete"] != old["complete"]:
        said = "has all its data again" if new["complete"] else "lacks data, and answers no reads of it"
        yield {"kind": "good" if new["complete"] else "bad", "what": f"{name} {said}"}
    if len(new["damage"]) > len(old["damage"]):
        yield {"kind": "bad", "what": f"{name} found corruption: {new['damage'][-1]}"}
    elif len(new["damage"]) < len(old["damage"]):
        yield {"kind": "good", "what": f"{name}: corruption restored by its peers"}
    if bool(new["disk"]["full"]) != bool(old["disk"]["full"]):
        yield {
            "kind": "bad" if new["disk"]["full"] else "good",
            "what": new["disk"]["full"] or f"{name} has room again",
        }
    waiting, waited = sum(new.get("hints", {}).values()), sum(old.get("hints", {}).values())
    if bool(waiting) != bool(waited):
        said = f"keeps hints for {', '.join(new['hints'])}" if waiting else "has delivered its hints"
        yield {"kind": "note", "what": f"{name} {said}"}
    repaired, repairs = new.get("repaired", {}), old.get("repaired", {})
    fetched = repaired.get("fetched", 0) - repairs.get("fetched", 0)
    if fetched > 0:
        yield {"kind": "note", "what": f"{name} was repaired: {fetched} records from its peers"}

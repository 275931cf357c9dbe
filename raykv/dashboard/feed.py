"""What the page shows: the store's state every two seconds, its last ten minutes, and what has happened."""

from __future__ import annotations

import gzip
import threading
import time
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from raykv import viz
from raykv.errors import RaykvError
from raykv.metrics.diagnosis import diagnosis
from raykv.metrics.exposition import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

EVERY_S = 2.0
WATCHED_S = 10.0
"""A page that has not asked for so long is closed, unless it was told to wait for longer."""
HISTORY = 300
EVENTS = 200
ASKS_PER_S = 10.0
"""Each costs the server half a millisecond of a core that the store may need."""
MAX_PAGES = 1000
"""Pages that are told apart."""
_SHARES = (0.5, 0.99)


_NOTHING = b'{"trouble": "the store has not answered yet"}'


class Look(NamedTuple):
    """What a page is told. Encoded once for all pages."""

    number: int
    data: bytes
    """JSON."""
    packed: bytes
    """The same, by gzip: a tenth, which counts where a page is far away."""
    again_s: float = EVERY_S
    """When to ask again."""


class Traffic(NamedTuple):
    """Cumulated counts of a store."""

    nodes: dict[tuple[str, int], dict[tuple[str, str, float], int]]
    """By node id and incarnation: requests by bucket, kind, and the upper bound of their latency in seconds."""
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
        self._look = Look(0, b"", b"")
        self._pages: dict[str, float] = {}
        """Page -> when it has asked last; those that asked last stand at the end."""
        self._pages_s = 3 * EVERY_S
        """How long a page counts that does not ask."""
        self._drawn: tuple[tuple[Any, ...], Mapping[str, Any], bytes] | None = None
        """What the wheel was drawn for, the ring, and the wheel."""
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._told = (0, 0)
        """Generation and number of the last event that the supervisor has told."""
        self._before: Mapping[str, Any] | None = None
        """The look before, with what each node that it lacked had said of itself last."""
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

    def latest(self, page: str = "", timeout_s: float = 5.0) -> Look:
        """Return the last look at the store; the first caller for a while waits until there is one.

        ``page``: names the one that asks, so that pages can be counted.
        """
        now_s = self._monotonic_s()
        stale = not self._is_watched(now_s)
        self._watched_s = now_s
        number = self._look.number
        self._wanted.set()
        again_s = self._again_s(page, now_s)
        with self._fresh:
            if stale or not self._look.data:
                self._fresh.wait_for(lambda: self._look.number > number, timeout_s)
            look = self._look if self._look.data else Look(0, _NOTHING, gzip.compress(_NOTHING))
            return look._replace(again_s=again_s)

    def _is_watched(self, now_s: float) -> bool:
        return now_s - self._watched_s < max(WATCHED_S, self._pages_s)

    def _again_s(self, page: str, now_s: float) -> float:
        """Return when a page should ask again: all of them together ask ``ASKS_PER_S`` times a second at most."""
        with self._fresh:
            self._pages.pop(page, None)
            self._pages[page] = now_s
            while len(self._pages) > MAX_PAGES or now_s - next(iter(self._pages.values())) > self._pages_s:
                del self._pages[next(iter(self._pages))]
            again_s = max(EVERY_S, round(len(self._pages) / ASKS_PER_S, 1))
            self._pages_s = 3 * again_s
            return again_s

    def _run(self) -> None:
        while not self._over.is_set():
            self._wanted.clear()  # before the question: who asks, or ends this, in between is not overheard
            if self._is_watched(self._monotonic_s()):
                self.look()
                self._over.wait(EVERY_S)
                continue
            self._traffic = None
            if not self._over.is_set():
                self._wanted.wait()

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
        packed = gzip.compress(encoded, 1)
        with self._fresh:
            self._look = Look(self._look.number + 1, encoded, packed)
            self._fresh.notify_all()

    def _state(self, status: Mapping[str, Any], ring: Mapping[str, Any]) -> dict[str, Any]:
        at_s = self._wall_s()
        self._note_events(at_s, status)
        self._before = _completed(status, self._before)
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
            "large": _large(status),
            "waited": _waited(status),
            "clients": (status.get("clients") or {}).get("processes", 0),
            "findings": [finding._asdict() for finding in diagnosis(status, ring)][:20],
        }

    def _note_events(self, at_s: float, status: Mapping[str, Any]) -> None:
        """Add what the supervisor has noted since the last look (or before the first), and what the nodes' figures say."""
        told = [*status.get("events", ())]
        new = [event for event in told if (status["generation"], event["number"]) > self._told]
        self._told = max([self._told, *((status["generation"], event["number"]) for event in new)])
        noted = [
            {"at_s": event["at_ms"] / 1000, **{name: event[name] for name in ("kind", "what", "cause")}}
            for event in new
        ]
        noted += [{"at_s": at_s, **event} for event in happened(self._before, status)]
        self._events.extend(sorted(noted, key=itemgetter("at_s")))

    def _note_traffic(self, status: Mapping[str, Any]) -> None:
        now_s, traffic = self._monotonic_s(), traffic_of(status)
        if self._traffic is not None:
            then_s, before = self._traffic
            lasted_s = max(1e-3, now_s - then_s)
            counts = came_between(before, traffic)
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
    """Return the requests that those nodes have answered that say so, and the errors that clients have had."""
    nodes = {
        (node["node_id"], node["incarnation"]): {
            (histogram["bucket"], histogram["kind"], bound_s): count
            for histogram in node["storage"].get("latencies", ())
            for bound_s, count in (*histogram["counts"], (float("inf"), histogram["beyond"]))
        }
        for node in status["nodes"]
        if node["storage"] is not None
    }
    counters = (status.get("clients") or {}).get("counters", {})
    return Traffic(nodes, sum(count for name, count in counters.items() if name.startswith("errors.")))


def came_between(before: Traffic, after: Traffic) -> dict[float, int]:
    """Return the requests between two looks, by the upper bound of their latency, at nodes that were seen in both."""
    counts: dict[float, int] = {}
    for node, known in before.nodes.items():
        for place, count in after.nodes.get(node, {}).items():
            *_, bound_s = place
            counts[bound_s] = counts.get(bound_s, 0) + max(0, count - known.get(place, 0))
    return counts


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
            at = key["bucket"], cut(str(key["key"]))
            drawn[at] = drawn.get(at, 0.0) + key["ops_per_s"]
    most = sorted(drawn.items(), key=lambda entry: -entry[1])[:10]
    return [{"bucket": bucket, "key": key, "ops_per_s": round(rate, 1)} for (bucket, key), rate in most]


def _large(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the largest pairs that any node has taken."""
    found: dict[tuple[str, str], int] = {}
    for node in status["nodes"]:
        for pair in (node["storage"] or {}).get("large", ()):
            at = pair["bucket"], cut(str(pair["key"]))
            found[at] = max(found.get(at, 0), pair["bytes"])
    most = sorted(found.items(), key=lambda entry: -entry[1])[:5]
    return [{"bucket": bucket, "key": key, "bytes": size_bytes} for (bucket, key), size_bytes in most]


def _waited(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return how long clients have waited, by kind, since the supervisor's start."""
    found = []
    for histogram in (status.get("clients") or {}).get("latencies", ()):
        counts = {**dict(histogram["counts"]), float("inf"): histogram["beyond"]}
        p50, p99 = (float(f"{quantile_s(counts, share) * 1000:.3g}") for share in _SHARES)
        found.append({"kind": histogram["kind"], "count": sum(counts.values()), "p50_ms": p50, "p99_ms": p99})
    return found


def _completed(status: Mapping[str, Any], before: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return a look in which a node that misses it has the figures of the look before."""
    known = {node["node_id"]: node["storage"] for node in before["nodes"]} if before is not None else {}
    nodes = [{**node, "storage": node["storage"] or known.get(node["node_id"])} for node in status["nodes"]]
    return {**status, "nodes": nodes}


def happened(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield what differs between two looks in what the nodes say of themselves: kind ("bad", "good", "note"), what, cause.

    What the supervisor decides (who is down, who joins, what moves) it notes itself: ``supervision.chronicle``.
    """
    if before is None:
        return
    known = {node["node_id"]: node["storage"] for node in before["nodes"]}
    down = {node["node_id"]: node["cause"] for node in now["nodes"] if node["state"] != "up"}
    for node in now["nodes"]:
        old, new = known.get(node["node_id"]), node["storage"]
        if old is not None and new is not None:
            yield from _of_node(f"node {node['node_id']}", old, new, down)


def _of_node(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], down: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    if new["complete"] != old["complete"]:
        yield (
            _event("good", f"{name} has all its data again", "its peers have restored it")
            if new["complete"]
            else _event("bad", f"{name} answers no reads", "it lacks data that it acknowledged")
        )
    if len(new["damage"]) > len(old["damage"]):
        yield _event("bad", f"{name} found corruption", str(new["damage"][-1]))
    elif len(new["damage"]) < len(old["damage"]):
        yield _event("good", f"{name} has its corrupt ranges back", "its peers have restored them")
    if bool(new["disk"]["full"]) != bool(old["disk"]["full"]):
        yield (
            _event("bad", f"{name} refuses writes", new["disk"]["full"])
            if new["disk"]["full"]
            else _event("good", f"{name} takes writes again", "there is room on its disk")
        )
    hints, hinted = new.get("hints", {}), old.get("hints", {})
    for target in sorted({*hints} - {*hinted}):
        yield _event("note", f"{name} keeps hints for {target}", down.get(target) or f"{target} missed writes")
    for target in sorted({*hinted} - {*hints}):
        yield _event("good", f"{name} keeps no more hints for {target}", "they were delivered, or grew too old")
    fetched = new.get("repaired", {}).get("fetched", 0) - old.get("repaired", {}).get("fetched", 0)
    if fetched > 0:
        yield _event(
            "note", f"{name} got {fetched} records from its peers", "its copies were compared with theirs, and differed"
        )


def _event(kind: str, what: str, cause: str) -> dict[str, str]:
    return {"kind": kind, "what": what, "cause": cause}

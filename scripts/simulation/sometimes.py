"""What must happen now and then: a simulation that never does the hard things proves nothing.

After the "sometimes assertions" of FoundationDB's and Antithesis's testing: each row names something that the code is
there for, by the counters that show it. In a batch that is large enough it must have happened at least once; a batch in
which it did not fails, like one that broke a promise. Then either the scenarios became too tame or the code is dead.

``of`` is how many seeds are enough: about ten times as many as it takes to see it once, so that no batch fails by chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, get_args

from raykv.sim.faults import FaultKind

if TYPE_CHECKING:
    from collections.abc import Mapping


class Sometimes(NamedTuple):
    """Something that has to happen."""

    counters: tuple[str, ...]
    """The counters that show it; one that ends in ``*`` stands for all that begin so."""
    sentence: str
    of: int = 100


_FAULTS = {
    f"fault: {kind}": Sometimes((f"fault: {kind}",), f"the nemesis did {kind!r}") for kind in get_args(FaultKind)
}
TABLE: dict[str, Sometimes] = {
    # coordinators
    "read repair": Sometimes(("read_repairs",), "a read wrote back what some of those it asked did not hold"),
    "hedge": Sometimes(("hedges",), "a read asked one more node because another was slow"),
    "hedge won": Sometimes(("hedges_won",), "the one asked in addition answered before the slow one"),
    "restamp": Sometimes(("restamps",), "a write was stamped again, above something newer (P7)"),
    "newer held": Sometimes(("answer: newer held",), "a node held something newer than what it was to write"),
    "suspicion": Sometimes(("suspicions",), "a coordinator suspected a node"),
    "false suspicion": Sometimes(("false suspicions",), "a coordinator suspected a node that was running"),
    "moved": Sometimes(("answer: refused moved",), "a request was meant for another run of its node (P6)"),
    "write unknown": Sometimes(("op: put unknown", "op: delete unknown"), "a client heard: it may stand (P8)"),
    "write refused": Sometimes(("op: put refused", "op: delete refused"), "a client heard: nothing written", 1000),
    "read refused": Sometimes(("op: get refused",), "a read did not get its quorum"),
    "scan": Sometimes(("op: scan to its end",), "a scan came to its end"),
    "late": Sometimes(("late_requests",), "a request reached a coordinator after its time, or in another run (P8)"),
    "direct client": Sometimes(("direct clients",), "a client coordinated for itself"),
    "siblings": Sometimes(("siblings_read",), "a reader was shown values that were written at the same time"),
    "second dot": Sometimes(("second_dots",), "a node was asked for a dot because another gave none (P8)"),
    "gap": Sometimes(("gaps",), "a dot was given and nothing was written under it"),
    "hint": Sometimes(("hints",), "a node got a hint for an owner that lacks a write (P11)"),
    "fallback": Sometimes(("fallbacks_in_use",), "a fallback replaced a primary (a sloppy bucket)"),
    # nodes
    "replayed": Sometimes(("log: node %s: %d hints replayed*",), "hints were delivered (P11)"),
    "complete again": Sometimes(("log: node %s is complete again",), "an incomplete node became complete (P1)"),
    "mended": Sometimes(
        ("repair: fetched", "repair: sent", "mended: fetched", "mended: sent"), "a repair sent records"
    ),
    "purged": Sometimes(("mended: purged", "repair: purged"), "dead records were forgotten by all (P10)"),
    "made too long ago": Sometimes(("answer: refused old",), "a write was refused for its age (P10)", 1000),
    "incomplete": Sometimes(("answer: incomplete",), "a node that may lack something answered no read (P1)"),
    "unreadable": Sometimes(("answer: unreadable",), "a node could not read a key in a damaged range", 10_000),
    "overloaded": Sometimes(("answer: refused overloaded",), "a node had too much that was not flushed", 10_000),
    "failed": Sometimes(("answer: refused failed",), "a node's disk failed in the middle of a request"),
    "flush": Sometimes(("engine: flushes",), "a memtable was flushed"),
    "compaction": Sometimes(("engine: compactions",), "sorted runs were merged"),
    "sync failed": Sometimes(("event: gives up: its log could not*",), "a node stopped, for its log was not durable"),
    "flush failed": Sometimes(("log: store %s: node %s: %s",), "a flush or compaction found no room on the disk", 1000),
    "not installed": Sometimes(("event: gives up: a flush or*",), "a flush or compaction could not be installed", 1000),
    "crash point": Sometimes(("event: dies in front of*",), "a process died in front of an operation on its disk"),
    "torn tail": Sometimes(("log: torn tail*",), "recovery cut a torn tail off a log", 1000),
    "corruption": Sometimes(("log: corruption*",), "corruption was found", 1000),
    "no longer complete": Sometimes(("log: node %s is incomplete*",), "corruption in unknown keys", 1000),
    "end of log lost": Sometimes(
        ("log: store %s: node %s is incomplete: it has lost*",), "a node's log lacked what was acknowledged", 1000
    ),
    "superseded": Sometimes(("event: gives up: incarnation*",), "a node heard of a later run of itself (P6)", 10_000),
    "old directory": Sometimes(("log: store %s: node %s: its directory is an old*",), "an old directory was found out"),
    # supervisor
    "node down": Sometimes(("log: store %s: node %s down*",), "the supervisor gave a node up"),
    "silent node": Sometimes(("log: store %s: node %s suspected*",), "pings went unanswered"),
    "directory in use": Sometimes(("event: waits for its directory",), "a process found its directory locked"),
    "taken over": Sometimes(("event: is ended, for it holds*",), "a process was ended for its directory (P6)"),
    "not started": Sometimes(("log: store %s: node %s could not*",), "a node did not start at the first attempt"),
    "supervisor": Sometimes(("event: a supervisor takes over",), "a supervisor took over from a former one (P5)"),
    "no vote": Sometimes(("answer: register without a vote",), "a node that forgot its promises did not vote (P5)"),
    "not granted": Sometimes(("answer: register not granted",), "a node kept its promise to a later one (P5)", 1000),
    # the ring
    "joined": Sometimes(("log: store %s: node %s joined*",), "a node joined"),
    "left": Sometimes(("log: store %s: node %s has left",), "a node left, with nothing that was not elsewhere"),
    "ring as wanted": Sometimes(("log: store %s: the ring has reached*",), "partitions came to their new owners (P4)"),
    "write moved": Sometimes(("writes_moved",), "owners changed while a write was under way (P4)", 1000),
    "not owner": Sometimes(("answer: moved",), "a node named other owners to a coordinator (P4)"),
    "behind": Sometimes(("answer: refused behind",), "a node did not know a request's epoch yet (P4)"),
    # linearizable buckets
    "leader": Sometimes(("leader_takeovers",), "a term was promised to a new leader (L1)"),
    "superseded leader": Sometimes(("leader_superseded",), "a leader learned of its successor (L2)"),
    "rewritten": Sometimes(("leader_rewrites",), "a leader wrote copies that differed anew (L5)"),
    "read by the leader": Sometimes(("leader_reads",), "owners could not prove that they show the last (L8)"),
    "conflict": Sometimes(("change: put conflict",), "a condition did not hold"),
    "fenced": Sometimes(("change: put fenced",), "a key had seen a later fencing token"),
    "change unknown": Sometimes(("change: put unknown", "change: add unknown"), "a change may stand"),
    "lock held": Sometimes(("lock: held",), "a client held a lock as long as it wanted"),
    "lock lost": Sometimes(("lock: lost",), "a client found that its lock was lost"),
    # the world
    "cut": Sometimes(("network: lost in a cut",), "a message was lost in a cut"),
    "held": Sometimes(("network: held by a cut",), "a message came after the cut that had held it up"),
    "lost": Sometimes(("network: asks, lost", "network: answers, lost"), "a message was lost"),
    "gave up": Sometimes(("network: gives up",), "somebody waited in vain for an answer"),
    "absent": Sometimes(("network: is absent*",), "a request met no process"),
    **_FAULTS,
}


def total(row: Sometimes, counts: Mapping[str, int]) -> int:
    """Return how often it happened."""
    return sum(count for name, count in counts.items() if any(_matches(name, counter) for counter in row.counters))


def _matches(name: str, counter: str) -> bool:
    return name.startswith(counter[:-1]) if counter.endswith("*") else name == counter


def never(counts: Mapping[str, int], seeds: int) -> list[str]:
    """Return what should have happened in a batch of this many seeds and never did, a line each."""
    return [
        f"never in {seeds} seeds: {name} ({row.sentence})"
        for name, row in TABLE.items()
        if seeds >= row.of and total(row, counts) == 0
    ]

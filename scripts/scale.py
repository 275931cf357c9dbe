"""What a store of hundreds of nodes costs, worked out with raykv's own code and without the nodes.

For each number of partitions Q, with N = 3 copies:

* seconds for the first ring and for the next one when a node joins or leaves, on this machine;
* copies that a join or a leave moves, over the least that any ring with these shares can move: a node that gains must
  get that much, a node that loses must give that much, and the greater of the two sums is a lower bound;
* bytes of the cluster's state, at rest and while a node leaves (when it has two rings), seconds to write and read it, and
  what the supervisor sends for one change of it: every node gets it twice, to accept it and that it is decided;
* bytes of one gossip message, which do not depend on Q;
* spread of load: the most that a node owns over its fair share, with equal weights, weights 1, 2, 4, and five zones;
* time to rebuild one lost node of --gb-per-node (10^9 bytes each), from ``background_bytes_per_s`` of NodeConfig.

The time to rebuild. A lost node holds B bytes in p partitions, b = B / p each; a node fetches at most r bytes a second for
such work (the fetching node throttles itself; the giving node, which many may ask, is shown too). Then

    one alone       B / r                           a new node fetches all, or one source gives all
    all, ideal      B / (r x (nodes - 1))           if bytes could be cut as finely as one likes
    all at once     b x max(copies fetched) / r     by the ring without the node: the busiest of those who fetch
    in waves        sum over waves of the same      as raykv moves them: a few partitions at once and to one node

"helpers" are the nodes that hold other copies of what the lost node held, and so can be asked for them; "takers" are those
that get a copy. In waves counts bytes only: not the rounds of agreement between waves, some seconds each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from math import ceil, floor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from raykv.cluster import moves as steps
from raykv.cluster.state import (
    DEFAULT_BUCKET,
    BucketEntry,
    ClusterState,
    Move,
    bucket_from_options,
    decode_state,
    encode_state,
)
from raykv.config import GIB, KIB, MAX_NODES, MAX_PARTITIONS, MIB, NodeConfig, StoreConfig
from raykv.protocol import frames as f
from raykv.ring import Member, Ring, claim, moves, partition_warning, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

COPIES = 3
GB = 10**9
WEIGHTS = (1.0, 2.0, 4.0)
ZONES = 5
SENDS_PER_CHANGE = 2
"""The sends of a changed state to each node: to accept it, and that it is decided."""


def progress(line: str) -> None:
    """Report progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what the work returned, and the seconds that it took."""
    began_s = time.perf_counter()
    done = work()
    return done, time.perf_counter() - began_s


def members_of(nodes: int, weights: Sequence[float] = (1.0,), zones: int = 1) -> list[Member]:
    """Return nodes that stand each on a host of its own, weights and zones in turn."""
    return [
        Member(f"n{number + 1}", weights[number % len(weights)], zone=f"zone{number % zones + 1}" if zones > 1 else "")
        for number in range(nodes)
    ]


# ---- the ring ----


def spread_of(ring: Ring) -> dict[str, float]:
    """Return the most and the least that a node owns, and is first owner of, over its fair share."""
    goals = targets(ring.members, ring.partitions, ring.copies)
    owned = [len(ring.partitions_of(node_id)) / float(goal) for node_id, goal in goals.items()]
    first = [len(ring.first_partitions_of(node_id)) * ring.copies / float(goal) for node_id, goal in goals.items()]
    return {"most": max(owned), "least": min(owned), "most_first": max(first)}


def moved_of(before: Ring, after: Ring) -> dict[str, int]:
    """Return how many copies move, and the least that must."""
    goals = targets(after.members, after.partitions, after.copies)
    gets = gives = 0
    for node_id in sorted({member.node_id for ring in (before, after) for member in ring.members}):
        held = len(before.partitions_of(node_id)) if before.has_member(node_id) else 0
        goal = goals.get(node_id, 0)
        gets += max(0, floor(goal) - held)
        gives += max(0, held - ceil(goal))
    return {"copies": len(moves(before, after)), "least": max(gets, gives)}


# ---- the state ----


def state_of(ring: Ring) -> ClusterState:
    """Return the state of a store with this ring and the bucket that every store has."""
    config = StoreConfig(name="scale", copies=ring.copies, partitions=ring.partitions)
    bucket = BucketEntry(1, bucket_from_options(DEFAULT_BUCKET, {}, ring.copies))
    return ClusterState(
        store_id="0" * 32, generation=1, version=1, config=config, ring=ring, buckets=(bucket,), next_bucket_id=2
    )


def state_figures(state: ClusterState, moving: ClusterState) -> dict[str, Any]:
    """Return what the state comes to, at rest and while partitions move."""
    data, encode_s = timed(lambda: encode_state(state))
    _, decode_s = timed(lambda: decode_state(data))
    moving_data = encode_state(moving)
    accept = f.node_requests.encode(f.NodeRequest(0, f.AcceptState(1, 1, moving_data)))
    return {
        "bytes": len(data),
        "moving_bytes": len(moving_data),
        "encode_s": encode_s,
        "decode_s": decode_s,
        "sent_for_a_change_bytes": SENDS_PER_CHANGE * len(state.ring.members) * len(accept),
    }


def gossip_bytes(nodes: int) -> int:
    """Return the bytes of one gossip message, as after half a day (100,000 heartbeats)."""
    table = {member.node_id: (1, 100_000 + number) for number, member in enumerate(members_of(nodes))}
    return len(f.node_requests.encode(f.NodeRequest(1, f.Gossip("n1", table))))


# ---- a lost node ----


def waves_of(state: ClusterState, ticker: Callable[[str], None]) -> tuple[ClusterState, list[tuple[Move, ...]]]:
    """Take the state to its goal as the supervisor does; return it as it was in the first wave, and all waves."""
    first = state
    waves: list[tuple[Move, ...]] = []
    while wave := steps.next_wave(state):
        begun = steps.begun(state, wave)
        first = begun if not waves else first
        waves.append(wave)
        ticker(f"  wave {len(waves)}: {steps.left(state):,} partitions left")
        state = steps.ended(steps.reading_new(begun))
    assert steps.left(state) == 0, "the waves lead to the goal"
    return first, waves


def fetched_in(ring: Ring, wave: Sequence[Move], lost: str) -> tuple[Counter[str], Counter[str]]:
    """Return how many copies each node fetches in a wave, and how many it gives, as ``AntiEntropy.take_over`` asks."""
    fetched: Counter[str] = Counter()
    given: Counter[str] = Counter()
    for move in wave:
        owners = ring.owners(move.partition)
        there = [node_id for node_id in owners if node_id != lost]
        for node_id in move.owners:
            if node_id not in owners:
                fetched[node_id] += 1
                given[there[move.partition % len(there)]] += 1
    return fetched, given


def rebuild_of(
    state: ClusterState, lost: str, node_bytes: float, bytes_per_s: float, ticker: Callable[[str], None]
) -> tuple[dict[str, Any], ClusterState]:
    """Return what it takes to have all copies again without the node, and the state in the first wave."""
    ring = state.ring
    held = ring.partitions_of(lost)
    helpers = {node_id for partition in held for node_id in ring.owners(partition)} - {lost}
    left = steps.with_goal(state, [member for member in ring.members if member.node_id != lost])
    first, waves = waves_of(left, ticker)
    each_bytes = node_bytes / len(held)
    by_wave = [fetched_in(ring, wave, lost) for wave in waves]
    fetched, given = (sum((wave[at] for wave in by_wave), Counter()) for at in (0, 1))
    return {
        "lost": lost,
        "partitions": len(held),
        "partition_bytes": each_bytes,
        "helpers": len(helpers),
        "takers": len(fetched),
        "most_fetched": max(fetched.values()),
        "most_given": max(given.values()),
        "waves": len(waves),
        "alone_s": node_bytes / bytes_per_s,
        "ideal_s": node_bytes / (bytes_per_s * (len(ring.members) - 1)),
        "at_once_s": each_bytes * max(fetched.values()) / bytes_per_s,
        "in_waves_s": sum(each_bytes * max(wave.values(), default=0) / bytes_per_s for wave, _ in by_wave),
    }, first


def helpers_of_all(ring: Ring) -> dict[str, float]:
    """Return how many nodes share a partition with a node: the fewest, in the middle, the most."""
    with_it: list[set[int]] = [set() for _ in ring.members]
    for row in ring.table:
        for index in row:
            with_it[index].update(row)
    counts = [len(others) - 1 for others in with_it]
    return {"fewest": min(counts), "median": median(counts), "most": max(counts)}


# ---- all of it ----


def figures_of(nodes: int, partitions: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all that depends on the number of partitions."""
    equal = members_of(nodes)
    progress(f"{nodes} nodes, {partitions:,} partitions: the first ring")
    ring, first_s = timed(lambda: claim(equal, partitions, COPIES))
    progress("  one joins, one leaves")
    joined, join_s = timed(lambda: claim(members_of(nodes + 1), partitions, COPIES, ring))
    lost = equal[nodes // 2].node_id
    staying = [member for member in equal if member.node_id != lost]
    left, leave_s = timed(lambda: claim(staying, partitions, COPIES, ring))
    progress(f"  weights {', '.join(f'{weight:g}' for weight in WEIGHTS)}; {ZONES} zones")
    weighted = claim(members_of(nodes, WEIGHTS), partitions, COPIES)
    zoned = claim(members_of(nodes, zones=ZONES), partitions, COPIES)
    state = state_of(ring)
    rebuild, moving = rebuild_of(state, lost, arguments.gb_per_node * GB, arguments.bytes_per_s, progress)
    return {
        "partitions": partitions,
        "warning": partition_warning(equal, partitions),
        "claim_s": {"first": first_s, "join": join_s, "leave": leave_s},
        "moved": {"join": moved_of(ring, joined), "leave": moved_of(ring, left)},
        "spread": {"equal": spread_of(ring), "weights": spread_of(weighted), "zones": spread_of(zoned)},
        "state": state_figures(state, moving),
        "helpers": helpers_of_all(ring),
        "rebuild": rebuild,
    }


def bytes_shown(size_bytes: float) -> str:
    """Return a size for people."""
    for unit, least in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes >= least:
            return f"{size_bytes / least:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def seconds_shown(value_s: float) -> str:
    """Return a time for people."""
    if value_s >= 7200:
        return f"{value_s / 3600:.1f} h"
    return f"{value_s / 60:.1f} min" if value_s >= 120 else f"{value_s:.3g} s"


def shown(figures: dict[str, Any]) -> str:
    """Return the figures as one table, a column for each number of partitions."""

    def over(moved: dict[str, int]) -> str:
        return f"{moved['copies']} / {moved['least']}"

    def spread(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda row: f"{row['spread'][name]['least']:.3f} to {row['spread'][name]['most']:.3f}"

    lines: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("partitions", lambda row: f"{row['partitions']:,}"),
        ("enough, says raykv", lambda row: "no" if row["warning"] else "yes"),
        ("claim: the first ring", lambda row: seconds_shown(row["claim_s"]["first"])),
        ("claim: a node joins", lambda row: seconds_shown(row["claim_s"]["join"])),
        ("claim: a node leaves", lambda row: seconds_shown(row["claim_s"]["leave"])),
        ("copies moved / least, join", lambda row: over(row["moved"]["join"])),
        ("copies moved / least, leave", lambda row: over(row["moved"]["leave"])),
        ("load over fair share, equal", spread("equal")),
        ("  weights 1, 2, 4", spread("weights")),
        (f"  {ZONES} zones", spread("zones")),
        ("cluster state", lambda row: bytes_shown(row["state"]["bytes"])),
        ("  while a node leaves", lambda row: bytes_shown(row["state"]["moving_bytes"])),
        ("  to write it", lambda row: f"{row['state']['encode_s'] * 1000:.1f} ms"),
        ("  to read it", lambda row: f"{row['state']['decode_s'] * 1000:.1f} ms"),
        ("  sent for one change", lambda row: bytes_shown(row["state"]["sent_for_a_change_bytes"])),
        ("helpers: fewest, median, most", lambda row: "{fewest}, {median:g}, {most}".format(**row["helpers"])),
        ("takers", lambda row: str(row["rebuild"]["takers"])),
        ("a partition", lambda row: bytes_shown(row["rebuild"]["partition_bytes"])),
        ("rebuild: one alone", lambda row: seconds_shown(row["rebuild"]["alone_s"])),
        ("rebuild: all, ideal", lambda row: seconds_shown(row["rebuild"]["ideal_s"])),
        ("rebuild: all at once", lambda row: seconds_shown(row["rebuild"]["at_once_s"])),
        ("rebuild: in waves", lambda row: f"{seconds_shown(row['rebuild']['in_waves_s'])} ({row['rebuild']['waves']})"),
    ]  # fmt: skip
    head = (
        f"{figures['nodes']} nodes, {COPIES} copies, {figures['gb_per_node']:g} GB a node, background work at "
        f"{bytes_shown(figures['background_bytes_per_s'])}/s; a gossip message has {bytes_shown(figures['gossip_bytes'])}"
    )
    rows = [f"{name:<31}" + "".join(f"{cell(row):>19}" for row in figures["rows"]) for name, cell in lines]
    warnings = [row["warning"] for row in figures["rows"] if row["warning"]]
    return "\n".join([head, "", *rows, *([""] if warnings else []), *warnings])


# ---- the command line ----


def partition_counts(text: str) -> list[int]:
    """Read numbers of partitions."""
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, as 8192,16384") from None
    if not all(8 <= count <= MAX_PARTITIONS and count & (count - 1) == 0 for count in counts):
        raise argparse.ArgumentTypeError(f"partitions are a power of two from 8 to {MAX_PARTITIONS}; got {text}")
    return counts


def node_count(text: str) -> int:
    """Read a number of nodes: one is lost, and there must be enough left; one joins, and there must be room."""
    try:
        count = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of nodes") from None
    if not COPIES < count < MAX_NODES:
        raise argparse.ArgumentTypeError(f"there are {COPIES + 1} to {MAX_NODES - 1} nodes; got {text}")
    return count


def positive(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < 1e15:
        raise argparse.ArgumentTypeError(f"it must be a number above 0; got {text}")
    return value


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=node_count, default=500, metavar="N", help="how many (500)")
    parser.add_argument(
        "--partitions", type=partition_counts, default=[4096, 8192, 16384], metavar="Q,Q", help="(4096,8192,16384)"
    )
    parser.add_argument("--gb-per-node", type=positive, default=100.0, metavar="GB", help="of records (100)")
    parser.add_argument(
        "--bytes-per-s", type=positive, default=float(NodeConfig().background_bytes_per_s), metavar="R",
        help=f"what a node fetches for background work ({NodeConfig().background_bytes_per_s}, the default of NodeConfig)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    return parser.parse_args()


def main() -> int:
    """Work it out, and print the table."""
    arguments = parse()
    figures: dict[str, Any] = {
        "nodes": arguments.nodes,
        "copies": COPIES,
        "gb_per_node": arguments.gb_per_node,
        "background_bytes_per_s": arguments.bytes_per_s,
        "gossip_bytes": gossip_bytes(arguments.nodes),
        "rows": [figures_of(arguments.nodes, partitions, arguments) for partitions in arguments.partitions],
    }
    print(shown(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

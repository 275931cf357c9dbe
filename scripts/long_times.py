"""What takes hours, in virtual time: a node that is down while others write, and a day of deletes.

``outage``: one of three nodes is without power for some hours while clients write and delete; when it is back its
hints are replayed, throttled, and without a read all copies must be equal.

``deletes``: for some hours keys are written, deleted and left to expire, with nodes going down in turn; the grace is a
twelfth of the time. In the end no deleted key may have come back, on no copy, and whatever has been dead for longer than
twice the grace must be gone.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from collections import Counter
from typing import Any

import raykv.sim
from raykv.config import KIB, NodeConfig
from raykv.protocol import frames as f
from raykv.records.keys import is_private
from raykv.records.kinds import public
from raykv.sim.host import EPOCH_MS
from raykv.versions import dead_since_ms

RATE_BYTES_PER_S = 16 * KIB
GOSSIP_EVERY_S = 5.0
STEP_S = 20.0


def contents(world: raykv.sim.World, node_id: str) -> dict[bytes, bytes]:
    """Return what a node holds of the store's records."""
    node = world._cluster.nodes.living(node_id)  # noqa: SLF001 - as no client could see it
    assert node is not None, f"{node_id} is down"
    return {key: public(found.record) for key, found in node._engine.scan(b"", None) if not is_private(key)}  # noqa: SLF001


def hints(world: raykv.sim.World) -> int:
    """Return how many hints wait at all nodes that run."""
    nodes = [world._cluster.nodes.living(node_id) for node_id in world.nodes]  # noqa: SLF001
    return sum(sum(node.hints_waiting.values()) for node in nodes if node is not None)


def progress(what: str, world: raykv.sim.World, until_s: float) -> None:
    """Say how far it is."""
    if sys.stderr.isatty():
        print(f"\r{what}: {world.now_s / 3600:.2f} of {until_s / 3600:.2f} virtual hours", end="", file=sys.stderr)


def outage(hours: float, seed: int) -> dict[str, Any]:
    """Let a node be down for this many hours; return the figures."""
    rng = random.Random(seed)
    config = NodeConfig(
        memtable_bytes=64 * KIB,
        max_unflushed_bytes=512 * KIB,
        background_bytes_per_s=RATE_BYTES_PER_S,
        gossip_every_s=GOSSIP_EVERY_S,
        max_hint_age_s=2 * hours * 3600 + 60,
    )
    with raykv.sim.start(seed, node=config, replace_after=2 * hours * 3600 + 60) as world:  # it is to come back
        store = world.store
        store.put_many({f"k{number}": "before" for number in range(500)})
        sent: Counter[int] = Counter()

        def count(source: str, target: str, frame: bytes) -> None:
            if source.startswith("node/") and target == "node/n3":
                body = f.node_requests.decode(frame).body
                if isinstance(body, f.Write):
                    sent[int(world.now_s)] += sum(len(key) + len(record) for key, record in body.items)

        world.sleep(5)
        world.power_cut("n3", for_s=hours * 3600)
        until_s = world.now_s + hours * 3600
        written = most = 0
        while world.now_s < until_s - STEP_S:
            keys = [f"k{rng.randrange(2000)}" for _ in range(5)]
            store.put_many({key: f"{written}" + "x" * rng.randrange(300) for key in keys})
            store.delete(f"k{rng.randrange(2000)}")
            written += len({*keys}) + 1
            most = max(most, hints(world))
            world.sleep(STEP_S)
            progress("outage", world, until_s)
        world._cluster.network.sent = count  # noqa: SLF001
        world.sleep(until_s - world.now_s)
        began_s = world.now_s
        while hints(world) and world.now_s < began_s + 3600:
            world.sleep(1)
        replayed_s = world.now_s - began_s
        copies = [contents(world, node_id) for node_id in world.nodes]
        return {
            "hours": hours,
            "written": written,
            "most_hints": most,
            "hints_left": hints(world),
            "replayed_after_s": round(replayed_s, 1),
            "bytes_replayed": sum(sent.values()),
            "holders": 2,
            "most_bytes_in_a_second": max(sent.values(), default=0),
            "allowed_bytes_a_second": 2 * RATE_BYTES_PER_S,
            "copies_equal": copies[0] == copies[1] == copies[2],
            "keys": len(copies[0]),
        }


def deletes(hours: float, seed: int) -> dict[str, Any]:
    """Write, delete and let expire for this many hours; return the figures."""
    rng = random.Random(seed)
    gc_grace_s = hours * 3600 / 12
    config = NodeConfig(
        memtable_bytes=64 * KIB,
        max_unflushed_bytes=512 * KIB,
        repair_every_s=gc_grace_s / 4,
        max_hint_age_s=gc_grace_s / 4,
        gossip_every_s=GOSSIP_EVERY_S,
    )
    with raykv.sim.start(seed, node=config, gc_grace_s=gc_grace_s) as world:
        store = world.store
        plain = store.bucket("plain", versioning="lww")
        alive: dict[tuple[str, str], str] = {}
        until_s = world.now_s + hours * 3600
        step_s = max(STEP_S, hours * 3600 / 1500)
        back: list[str] = []
        turn = outages = deleted = 0
        while world.now_s < until_s:
            turn += 1
            if turn % 120 == 0:
                world.power_cut(world.nodes[outages % 3], for_s=rng.choice((30.0, gc_grace_s / 8, gc_grace_s / 2)))
                outages += 1
            bucket = rng.choice((store, plain))
            name, key = bucket.name, f"k{rng.randrange(300)}"
            if rng.random() < 0.45:
                bucket.delete(key, timeout=10)
                alive.pop((name, key), None)
                deleted += 1
            else:
                ttl = rng.choice((None, None, 60.0))
                bucket.put(key, f"{turn}", ttl=ttl, timeout=10)
                if ttl is None:
                    alive[name, key] = f"{turn}"
                else:
                    alive.pop((name, key), None)
            world.sleep(step_s)
            progress("deletes", world, until_s)
            if turn % 50 == 0:
                for handle in (store, plain):
                    for number in rng.sample(range(300), 20):
                        found = handle.get(f"k{number}", timeout=10)
                        if found != alive.get((handle.name, f"k{number}")) and (handle.name, f"k{number}") not in alive:
                            known = found is not None and int(found) in range(
                                turn - 10, turn + 1
                            )  # has not expired yet
                            back += (
                                [] if found is None or known else [f"{handle.name} k{number} at {world.now_s:.0f} s"]
                            )
        world.heal()
        world.sleep(3 * gc_grace_s)  # nothing is written any more: all that is dead becomes purgeable
        wrong = [
            (name, key)
            for name in ("default", "plain")
            for key in (f"k{number}" for number in range(300))
            if (store if name == "default" else plain).get(key, r="all", timeout=10) != alive.get((name, key))
        ]
        now_ms = EPOCH_MS + world.now_s * 1000
        dead = {
            node_id: sum(
                (since := dead_since_ms(record)) is not None and now_ms - since > 2 * gc_grace_s * 1000
                for record in contents(world, node_id).values()
            )
            for node_id in world.nodes
        }
        nodes = [world._cluster.nodes.living(node_id) for node_id in world.nodes]  # noqa: SLF001
        return {
            "hours": hours,
            "operations": turn,
            "deleted": deleted,
            "outages": outages,
            "came_back": len(back) + len(wrong),
            "purged": sum(int(node.mended["purged"]) for node in nodes if node is not None),
            "dead_and_not_gone": sum(dead.values()),
            "records_left": {node_id: len(contents(world, node_id)) for node_id in world.nodes},
            "alive": len(alive),
        }


def main() -> int:
    """Run both and print the figures; 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outage-hours", type=float, default=1.0, help="how long the node is down (default 1)")
    parser.add_argument("--delete-hours", type=float, default=24.0, help="how long keys are deleted (default 24)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    logging.getLogger("raykv").setLevel(logging.CRITICAL)  # that nodes are down is what is wanted here
    began_s = time.monotonic()
    figures: dict[str, Any] = {}
    if arguments.outage_hours:
        figures["outage"] = outage(arguments.outage_hours, arguments.seed)
    if arguments.delete_hours:
        figures["deletes"] = deletes(arguments.delete_hours, arguments.seed)
    figures["took_s"] = round(time.monotonic() - began_s, 1)
    print(json.dumps(figures, indent=2))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)
    down, gone = figures.get("outage"), figures.get("deletes")
    fine = (down is None or (down["copies_equal"] and not down["hints_left"])) and (
        gone is None or (gone["came_back"] == 0 and gone["dead_and_not_gone"] == 0)
    )
    within = down is None or down["most_bytes_in_a_second"] <= 1.5 * down["allowed_bytes_a_second"]
    return 0 if fine and within else 1


if __name__ == "__main__":
    sys.exit(main())

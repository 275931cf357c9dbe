"""Lets N simulated nodes gossip in virtual time and reports how fast, expensive and often wrong their detectors are.

For each number of nodes: the rounds until a new heartbeat has reached everybody; the seconds from a death until two nodes
suspect the dead one (it is down then) and until all do; how often living nodes were suspected, and how often one was down;
what a node sends by gossip, and what it would send if everybody sent a heartbeat to everybody. The same seed gives the
same figures.

Up to 100 nodes run for --hours of virtual time. Of N > 100 each second is (N / 100)^2 times the work, so they run that
much shorter: 500 nodes 2.4 minutes of an hour. The defaults take about 20 minutes on one core, nearly all for 500 nodes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from raykv.config import MAX_NODES
from simulation.gossip import EVERY_S, FANOUT, calm, cost, deaths, spread

SPREADS = 5
COST_NODES = (3, 5, 10, 30, 100, 200, 500)
SHOWN_EVERY_S = 0.5
LINE_EVERY_S = 15.0


class Ticker:
    """A line on stderr that says how far we are: over and over the same one on a terminal, else now and then one."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown_s = time.monotonic()

    def tick(self, line: str) -> None:
        """Show the line, if it is time to."""
        now_s = time.monotonic()
        if now_s - self._shown_s > (SHOWN_EVERY_S if self._terminal else LINE_EVERY_S):
            self._shown_s = now_s
            print(f"\r{line}    " if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr)
            sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            print(file=sys.stderr)


def rounds_of(nodes: int, seed: int) -> dict[str, Any]:
    """Return the rounds that a new heartbeat takes to be everywhere, over some seeds."""
    known = [spread(nodes, seed + number) for number in range(SPREADS)]
    rounds = [len(counts) - 1 for counts in known]
    return {
        "median_rounds": statistics.median(rounds),
        "max_rounds": max(rounds),
        "log2_nodes": math.log2(nodes),
        "known_after_each_round": known[0],
    }


def figures_of(nodes: int, loss: float, arguments: argparse.Namespace, ticker: Ticker) -> dict[str, Any]:
    """Return what deaths and an uneventful time brought."""
    times = 20 if nodes <= 30 else 10 if nodes <= 100 else 2
    died = deaths(nodes, loss=loss, seed=arguments.seed, times=times, progress=ticker.tick)
    virtual_s = arguments.hours * 3600 * min(1.0, (100 / nodes) ** 2)
    quiet = calm(nodes, loss=loss, seed=arguments.seed, virtual_s=virtual_s, progress=ticker.tick)
    return {
        "loss": loss,
        "deaths": len(died.two_s) + died.missed,
        "missed": died.missed,
        "two_suspect_s": {"median": statistics.median(died.two_s), "max": max(died.two_s)} if died.two_s else None,
        "all_suspect_s": {"median": statistics.median(died.all_s), "max": max(died.all_s)} if died.all_s else None,
        **quiet._asdict(),
    }


def shown(figures: dict[str, Any]) -> str:
    """Return the figures as three tables."""
    lines = ["A new heartbeat reaches everybody (no loss)", f"{'nodes':>6}{'rounds':>8}{'most':>6}{'log2 N':>8}  known"]
    for nodes, row in figures["spread"].items():
        known = ", ".join(map(str, row["known_after_each_round"]))
        lines.append(f"{nodes:>6}{row['median_rounds']:>8g}{row['max_rounds']:>6}{row['log2_nodes']:>8.1f}  {known}")
    lines += [
        "",
        "From a death until two nodes suspect it and until all do, median and most; false alarms while nobody dies",
        f"{'nodes':>6}{'loss':>6}{'deaths':>8}{'two, s':>14}{'all, s':>14}{'virtual min':>13}"
        f"{'suspicions':>12}{'verdicts':>10}",
    ]
    for row in figures["detection"]:
        two, every = (
            f"{row[name]['median']:.1f} / {row[name]['max']:.1f}" if row[name] else "-"
            for name in ("two_suspect_s", "all_suspect_s")
        )
        lines.append(
            f"{row['nodes']:>6}{row['loss']:>6.0%}{row['deaths']:>8}{two:>14}{every:>14}{row['virtual_s'] / 60:>13.1f}"
            f"{row['false_suspicions']:>12}{row['false_verdicts']:>10}"
        )
    lines += [
        "",
        "What a node sends in a second: gossip, or all to all (always 1 round)",
        f"{'nodes':>6}{'messages':>10}{'bytes':>9}   all to all:{'messages':>10}{'bytes':>9}",
    ]
    for nodes, row in figures["cost"].items():
        lines.append(
            f"{nodes:>6}{row['gossip_messages_per_s']:>10g}{row['gossip_bytes_per_s']:>9,.0f}   {'':>11}"
            f"{row['all_to_all_messages_per_s']:>10g}{row['all_to_all_bytes_per_s']:>9,.0f}"
        )
    return "\n".join(lines)


def node_counts(text: str) -> list[int]:
    """Read numbers of nodes."""
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, as 10,100,500") from None
    if not all(3 <= count <= MAX_NODES for count in counts):
        raise argparse.ArgumentTypeError(
            f"there are 3 to {MAX_NODES} nodes (of two, no two can suspect one); got {text}"
        )
    return counts


def loss_shares(text: str) -> list[float]:
    """Read losses in percent as shares."""
    try:
        shares = [float(word) / 100 for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of percentages, as 1,10") from None
    if not all(0 <= share < 1 for share in shares):
        raise argparse.ArgumentTypeError(f"a loss is a percentage from 0 to below 100; got {text}")
    return shares


def hours(text: str) -> float:
    """Read a number of hours above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours") from None
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"the hours must be above 0 and at most 1000; got {text}")
    return value


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/gossip", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=node_counts, default=[10, 100, 500], metavar="N,N", help="(10,100,500)")
    parser.add_argument("--hours", type=hours, default=1.0, metavar="H", help="virtual hours without a death (1)")
    parser.add_argument(
        "--loss", type=loss_shares, default=[0.01, 0.1], metavar="P,P", help="messages lost, in percent (1,10)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="decides everything (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    return parser.parse_args()


def main() -> int:
    """Measure, and print the tables."""
    arguments = parse()
    ticker = Ticker()
    figures: dict[str, Any] = {
        "seed": arguments.seed,
        "every_s": EVERY_S,
        "fanout": FANOUT,
        "spread": {nodes: rounds_of(nodes, arguments.seed) for nodes in arguments.nodes},
        "detection": [
            {"nodes": nodes, **figures_of(nodes, loss, arguments, ticker)}
            for nodes in arguments.nodes
            for loss in arguments.loss
        ],
        "cost": {nodes: cost(nodes)._asdict() for nodes in sorted({*COST_NODES, *arguments.nodes})},
    }
    ticker.end()
    print(shown(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

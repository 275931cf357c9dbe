"""The commands that change which nodes a store has, and how much each carries."""

from __future__ import annotations

import sys
from typing import Any, cast

import click

from raykv.cli import output
from raykv.cli.options import examples, json_option, store_option
from raykv.cli.reading import link_to
from raykv.client import elastic
from raykv.client.driver import run

_wait_option = click.option(
    "--wait/--no-wait", default=True, help="Wait until the partitions have moved.  [default: wait]"
)
_timeout_option = click.option(
    "--timeout", metavar="SECONDS", type=float, default=elastic.REBALANCE_TIMEOUT_S, show_default=True,
    help="Wait no longer; the moves go on.",
)  # fmt: skip


@click.command(
    "add-node", epilog=examples("raykv add-node", "raykv add-node --weight 2 --zone b", "raykv add-node --no-wait")
)
@store_option
@click.option(
    "--weight", metavar="NUMBER", type=float, help="What it carries beside the others.  [default: by its host]"
)
@click.option("--zone", metavar="NAME", help="The node's zone.")
@click.option("--host", metavar="NAME", help="The host, by its address or label.  [default: where most room is]")
@_wait_option
@_timeout_option
@json_option
def add_node(
    store: str, weight: float | None, zone: str | None, host: str | None, wait: bool, timeout: float, as_json: bool
) -> None:
    """Let one more storage node join, and give it its share.

    Reads and writes go on all the while.
    """
    link = link_to(store)
    node_id = run(elastic.add_node("auto" if weight is None else weight, zone, host), link)
    _finish(
        link, {"store": store, "node_id": node_id, "joined": True}, f"node {node_id} joined", wait, timeout, as_json
    )


@click.command("remove-node", epilog=examples("raykv remove-node n4"))
@click.argument("node_id", metavar="NODE")
@store_option
@_wait_option
@_timeout_option
@json_option
def remove_node(node_id: str, store: str, wait: bool, timeout: float, as_json: bool) -> None:
    """Let a node give its partitions to the others, and leave.

    Also one whose host is gone for good: the others have its copies. It is refused if fewer nodes would be left than the
    store keeps copies.
    """
    link = link_to(store)
    run(elastic.remove_node(node_id), link)
    said = f"node {node_id} has left" if wait else f"node {node_id} is leaving"
    _finish(link, {"store": store, "node_id": node_id, "removed": True}, said, wait, timeout, as_json)


@click.command("replace-node", epilog=examples("raykv replace-node n2", "raykv replace-node n2 --host 10.0.0.7"))
@click.argument("node_id", metavar="NODE")
@store_option
@click.option("--host", metavar="NAME", help="The host, by its address or label.  [default: where most room is]")
@_wait_option
@_timeout_option
@json_option
def replace_node(node_id: str, store: str, host: str | None, wait: bool, timeout: float, as_json: bool) -> None:
    """Let a new node take the place of one that is down, now.

    By itself this happens when the node's host has been gone for ten minutes, or as the store was started with.
    """
    link = link_to(store)
    new = run(elastic.replace_node(node_id, host, timeout), link)
    facts = {"store": store, "node_id": new, "instead_of": node_id}
    _finish(link, facts, f"node {new} takes the place of {node_id}", wait, timeout, as_json)


@click.command(
    epilog=examples(
        "raykv autoscale", "raykv autoscale --ops-per-s 3000 --most 9", "raykv autoscale --ops-per-s 3000 --dry-run",
        "raykv autoscale --off",
    )
)  # fmt: skip
@store_option
@click.option("--ops-per-s", metavar="NUMBER", type=float, help="What a node of weight 1 can carry. Sets it going.")
@click.option("--node-bytes", metavar="BYTES", type=int, help="What such a node can hold.  [default: does not matter]")
@click.option(
    "--p99-ms", metavar="MS", type=float, help="Add a node when answers are slower.  [default: does not matter]"
)
@click.option("--least", metavar="COUNT", type=int, help="Never fewer nodes.  [default: the number of copies]")
@click.option("--most", metavar="COUNT", type=int, help="Never more nodes.  [default: 16]")
@click.option("--low", metavar="SHARE", type=float, help="Remove a node below.  [default: 0.4]")
@click.option("--high", metavar="SHARE", type=float, help="Add nodes above.  [default: 0.7]")
@click.option(
    "--cool-down", metavar="SECONDS", type=float, help="Time without a change in the other direction.  [default: 300]"
)
@click.option("--dry-run", is_flag=True, help="Only say what these settings would do now.")
@click.option("--off", is_flag=True, help="Let it rest.")
@json_option
def autoscale(store: str, dry_run: bool, off: bool, as_json: bool, **limits: Any) -> None:
    """Let a store grow and shrink with its load; say what it sees and would do, and why.

    Without options it only tells. Operations are counted at the nodes: a read with R=2 is two of them.
    """
    given = cast("elastic.ScalingLimits", {name: value for name, value in limits.items() if value is not None})
    found = run(elastic.autoscale(given, dry_run=dry_run, off=off), link_to(store))
    click.echo(output.as_json(found)) if as_json else output.show_text(repr(found))


@click.command("set-weight", epilog=examples("raykv set-weight n2 2.5"))
@click.argument("node_id", metavar="NODE")
@click.argument("weight", type=float)
@store_option
@_wait_option
@_timeout_option
@json_option
def set_weight(node_id: str, weight: float, store: str, wait: bool, timeout: float, as_json: bool) -> None:
    """Let a node carry more or less of the partitions than it does."""
    link = link_to(store)
    run(elastic.set_weight(node_id, weight), link)
    facts = {"store": store, "node_id": node_id, "weight": weight}
    _finish(link, facts, f"node {node_id} carries {weight:g}", wait, timeout, as_json)


@click.command(epilog=examples("raykv rebalance pause", "raykv rebalance resume", "raykv rebalance abort"))
@click.argument("action", type=click.Choice(["pause", "resume", "abort"]))
@store_option
@json_option
def rebalance(action: elastic.RebalanceAction, store: str, as_json: bool) -> None:
    """Hold the moves of partitions, go on with them, or take back what can be.

    After an abort the ring stays as it is by then: a node that joined may own little, one that was to leave stays.
    """
    run(elastic.rebalance(action), link_to(store))
    facts = {"store": store, "action": action}
    said = {"pause": "the moves are paused", "resume": "the moves go on", "abort": "the moves are aborted"}
    click.echo(output.as_json(facts)) if as_json else output.show_text(said[action])


def _finish(link: Any, facts: dict[str, Any], said: str, wait: bool, timeout: float, as_json: bool) -> None:
    """Wait with a progress bar, then say what was done."""
    if wait:
        with click.progressbar(length=1, label="partitions moved", file=sys.stderr, show_pos=True) as bar:
            run(elastic.until_balanced(output.progress_on(bar), timeout), link)
    click.echo(output.as_json(facts)) if as_json else output.show_text(said)


COMMANDS = (add_node, remove_node, replace_node, set_weight, rebalance, autoscale)

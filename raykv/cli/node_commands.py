"""The commands that change a store's nodes and the weight of each."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import click

from raykv.cli import output
from raykv.cli.options import (
    ABOVE_ZERO,
    FROM_ZERO,
    checked,
    examples,
    json_option,
    store_option,
    timeout_option_of,
)
from raykv.cli.reading import link_to
from raykv.client import elastic
from raykv.client.driver import run
from raykv.config import check_weight

if TYPE_CHECKING:
    from raykv.client.driver import Link

_wait_option = click.option(
    "--wait/--no-wait", default=True, help="Wait until the partitions have moved.  [default: wait]"
)
_timeout_option = timeout_option_of(elastic.REBALANCE_TIMEOUT_S, "Stop waiting after this long; the moves go on.")


@click.command(
    "add-node", epilog=examples("raykv add-node", "raykv add-node --weight 2 --zone b", "raykv add-node --no-wait")
)
@store_option
@click.option(
    "--weight", metavar="NUMBER", type=ABOVE_ZERO, callback=checked(check_weight),
    help="Its share relative to the others.  [default: by its host]",
)  # fmt: skip
@click.option("--zone", metavar="NAME", help="The node's zone.")
@click.option("--host", metavar="NAME", help="The host, by its address or label.  [default: the one with most room]")
@_wait_option
@_timeout_option
@json_option
def add_node(
    store: str, weight: float | None, zone: str | None, host: str | None, wait: bool, timeout: float, as_json: bool
) -> None:
    """Add a storage node, and give it its share of the partitions.

    Reads and writes go on meanwhile.
    """
    link = link_to(store)
    node_id = run(elastic.add_node("auto" if weight is None else weight, zone, host), link)
    facts = {"store": store, "node_id": node_id, "joined": True}
    _finish(link, facts, f"node {node_id} joined", wait, timeout, as_json, new=node_id)


@click.command("remove-node", epilog=examples("raykv remove-node n4"))
@click.argument("node_id", metavar="NODE")
@store_option
@_wait_option
@_timeout_option
@json_option
def remove_node(node_id: str, store: str, wait: bool, timeout: float, as_json: bool) -> None:
    """Move a node's partitions to the others, then remove it.

    This also works if the node's host is gone for good: the others have its copies. It is refused if fewer nodes would
    remain than the store keeps copies.
    """
    link = link_to(store)
    run(elastic.remove_node(node_id), link)
    said = f"node {node_id} has left" if wait else f"node {node_id} is leaving"
    _finish(link, {"store": store, "node_id": node_id, "removed": True}, said, wait, timeout, as_json)


@click.command("replace-node", epilog=examples("raykv replace-node n2", "raykv replace-node n2 --host 10.0.0.7"))
@click.argument("node_id", metavar="NODE")
@store_option
@click.option("--host", metavar="NAME", help="The host, by its address or label.  [default: the one with most room]")
@_wait_option
@_timeout_option
@json_option
def replace_node(node_id: str, store: str, host: str | None, wait: bool, timeout: float, as_json: bool) -> None:
    """Replace a node that is down with a new one, now.

    The store does this by itself once the node's host has been gone for ten minutes, or for the time that it was started
    with.
    """
    link = link_to(store)
    new = run(elastic.replace_node(node_id, host, timeout), link)
    facts = {"store": store, "node_id": new, "instead_of": node_id}
    _finish(link, facts, f"node {new} takes the place of {node_id}", wait, timeout, as_json, new=new)


@click.command(
    epilog=examples(
        "raykv autoscale", "raykv autoscale --ops-per-s 3000 --most 9", "raykv autoscale --ops-per-s 3000 --dry-run",
        "raykv autoscale --off",
    )
)  # fmt: skip
@store_option
@click.option(
    "--ops-per-s", metavar="NUMBER", type=ABOVE_ZERO, help="Capacity of a node of weight 1. Turns autoscaling on."
)
@click.option(
    "--node-bytes", metavar="BYTES", type=int, help="Bytes that such a node can hold.  [default: not considered]"
)
@click.option(
    "--p99-ms", metavar="MS", type=FROM_ZERO, help="Add a node when answers are slower.  [default: not considered]"
)
@click.option("--least", metavar="COUNT", type=int, help="Least number of nodes.  [default: the number of copies]")
@click.option("--most", metavar="COUNT", type=int, help="Greatest number of nodes.  [default: 16]")
@click.option("--low", metavar="SHARE", type=ABOVE_ZERO, help="Remove a node below this load.  [default: 0.4]")
@click.option("--high", metavar="SHARE", type=ABOVE_ZERO, help="Add nodes above this load.  [default: 0.7]")
@click.option(
    "--cool-down", metavar="SECONDS", type=ABOVE_ZERO,
    help="Time without a change in the other direction.  [default: 300]",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only report what these settings would do now.")
@click.option("--off", is_flag=True, help="Turn autoscaling off.")
@json_option
def autoscale(store: str, dry_run: bool, off: bool, as_json: bool, **limits: Any) -> None:
    """Let a store grow and shrink with its load; report what it sees and would do, and why.

    Without options it only reports. Operations are counted at the nodes: a read with R=2 is two of them.
    """
    given = cast("elastic.ScalingLimits", {name: value for name, value in limits.items() if value is not None})
    found = run(elastic.autoscale(given, dry_run=dry_run, off=off), link_to(store))
    click.echo(output.as_json(found)) if as_json else output.show_text(repr(found))


@click.command("set-weight", epilog=examples("raykv set-weight n2 2.5"))
@click.argument("node_id", metavar="NODE")
@click.argument("weight", type=ABOVE_ZERO, callback=checked(check_weight))
@store_option
@_wait_option
@_timeout_option
@json_option
def set_weight(node_id: str, weight: float, store: str, wait: bool, timeout: float, as_json: bool) -> None:
    """Give a node a larger or smaller share of the partitions."""
    link = link_to(store)
    run(elastic.set_weight(node_id, weight), link)
    facts = {"store": store, "node_id": node_id, "weight": weight}
    _finish(link, facts, f"node {node_id} has weight {weight:g}", wait, timeout, as_json)


@click.command(epilog=examples("raykv rebalance pause", "raykv rebalance resume", "raykv rebalance abort"))
@click.argument("action", type=click.Choice(["pause", "resume", "abort"]))
@store_option
@json_option
def rebalance(action: elastic.RebalanceAction, store: str, as_json: bool) -> None:
    """Pause the moves of partitions, resume them, or abort those that can be.

    After an abort the ring stays as it is then: a node that joined may own little, and one that was leaving stays.
    """
    run(elastic.rebalance(action), link_to(store))
    facts = {"store": store, "action": action}
    said = {"pause": "the moves are paused", "resume": "the moves go on", "abort": "the moves are aborted"}
    click.echo(output.as_json(facts)) if as_json else output.show_text(said[action])


def _finish(
    link: Link, facts: dict[str, Any], said: str, wait: bool, timeout: float, as_json: bool, *, new: str = ""
) -> None:
    """Wait with a progress bar, then report the result. ``new``: the id of the node that was added."""
    if wait:
        with click.progressbar(length=1, label="partitions moved", file=sys.stderr, show_pos=True) as bar:
            run(elastic.until_balanced(output.progress_on(bar), timeout, link.monotonic_s, new=new), link)
    click.echo(output.as_json(facts)) if as_json else output.show_text(said)


COMMANDS = (add_node, remove_node, replace_node, set_weight, rebalance, autoscale)

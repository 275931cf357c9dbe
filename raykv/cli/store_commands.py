"""The commands on a store: start, stop, status, ring, buckets, repair."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

import raykv
from raykv.cli import output, settings
from raykv.cli.cluster import join_or_start_ray, join_ray, path_of
from raykv.cli.options import ABOVE_ZERO, checked, examples, json_option, store_option, timeout_option
from raykv.cli.reading import link_to
from raykv.client import administration
from raykv.client.driver import run
from raykv.client.repairs import REPAIR_TIMEOUT_S
from raykv.client.views import Status, seconds, table
from raykv.config import check_number, check_weight
from raykv.errors import RaykvError

if TYPE_CHECKING:
    from collections.abc import Sequence

_START_TIMEOUT_S = 30.0
LEAST_WATCH_S, MOST_WATCH_S = 0.2, 86_400.0


@click.command(
    epilog=examples(
        "raykv start",
        "raykv start --store shop --nodes 5 --path /data/raykv --durability always",
        "raykv start --nodes 2 --weight 1 --weight 2.5",
        "raykv start --config raykv.toml",
    )
    + "\n\nThe file has a section [store] with nodes, path, n, zones, weights, durability, partitions, "
    "replace_after, coordinators, and a section [node] with the fields of raykv.NodeConfig, as block_cache_bytes."
)
@store_option
@click.option("--nodes", metavar="COUNT", type=int, help="Number of storage nodes.  [default: 3]")
@click.option("--path", metavar="DIR", help="Data directory, for this store alone.")
@click.option("--n", metavar="COPIES", type=int, help="Copies of each pair.  [default: 3, or nodes if fewer]")
@click.option("--zone", "zones", metavar="NAME", multiple=True, help="A zone to spread the nodes over; repeat it.")
@click.option(
    "--weight", "weights", metavar="NUMBER", type=ABOVE_ZERO, multiple=True, callback=checked(check_weight),
    help="One for each node; repeat it.",
)  # fmt: skip
@click.option("--durability", type=click.Choice(["group", "interval", "always"]), help="When a write is acknowledged.")
@click.option("--partitions", metavar="COUNT", type=int, help="A power of two, fixed for ever.  [default: 256]")
@click.option(
    "--replace-after",
    metavar="SECONDS",
    type=ABOVE_ZERO,
    help="Replace a node whose host has been gone for this long.  [default: 600]",
)
@click.option("--coordinators", metavar="COUNT", type=int, help="Number of coordinator actors.  [default: 1]")
@click.option("--adopt", is_flag=True, help="--path holds a copy of another, stopped store: make it this one.")
@click.option("--config", "file", metavar="FILE", type=click.Path(), help="A TOML file; arguments override it.")
@json_option
def start(
    store: str,
    nodes: int | None,
    path: str | None,
    n: int | None,
    zones: Sequence[str],
    weights: Sequence[float],
    durability: str | None,
    partitions: int | None,
    replace_after: float | None,
    coordinators: int | None,
    adopt: bool,
    file: str | None,
    as_json: bool,
) -> None:
    """Start a store, or report that it already runs.

    It lives in the Ray cluster of this machine. If there is none, one is started with 'ray start --head', and stays up.
    A stopped store that is started again with the same --path has its data again.
    """
    given = {
        "nodes": nodes, "path": path, "n": n, "zones": list(zones) or None, "weights": list(weights) or None,
        "durability": durability, "partitions": partitions, "replace_after": replace_after,
        "coordinators": coordinators,
    }  # fmt: skip
    chosen = settings.merged(given, settings.read_file(file) if file is not None else {})
    if adopt and chosen.path is None:
        raise click.UsageError("--adopt needs --path: the directory of the copy")
    ray_started = join_or_start_ray()
    if ray_started:
        click.echo("raykv: no Ray cluster ran here; started one with 'ray start --head' (it stays)", err=True)
    from raykv.actors import lifecycle

    ran_already = store in lifecycle.stores()
    handle = raykv.start(store, **chosen.arguments(), adopt=adopt)
    status = handle.status(timeout=_START_TIMEOUT_S)
    where = path_of(store)
    if as_json:
        facts = {"store": store, "path": where, "created": not ran_already, "ray_started": ray_started}
        click.echo(output.as_json(facts | {"status": status}))
        return
    output.show_text(f"store {store!r} {'runs already' if ran_already else 'started'}; its data is in {where}")
    output.show_text(repr(status))


@click.command(epilog=examples("raykv stop", "raykv stop --store shop"))
@store_option
@json_option
def stop(store: str, as_json: bool) -> None:
    """Stop a store's actors; its data stays.

    Ray goes on; 'ray stop' ends it and everything that runs in it. 'raykv start' with the same --path has the data again.
    """
    join_ray()
    where = path_of_or_none(store)
    raykv.shutdown(store)
    if as_json:
        click.echo(output.as_json({"store": store, "path": where, "stopped": True}))
        return
    kept = f"the data stays in {where}" if where is not None else "the data stays"
    output.show_text(f"store {store!r} stopped; {kept}; Ray goes on ('ray stop' would end it)")


def path_of_or_none(store: str) -> str | None:
    """Return a store's data directory, or None if its supervisor does not answer, which must not prevent a stop."""
    from ray.exceptions import RayError

    try:
        return path_of(store)
    except (ValueError, RayError, TimeoutError):
        return None


@click.command(epilog=examples("raykv status", "raykv status --watch 2", "raykv status --json | jq .nodes[].state"))
@click.option(
    "--watch", metavar="SECONDS", type=ABOVE_ZERO,
    callback=checked(lambda every_s: check_number("watch", every_s, LEAST_WATCH_S, MOST_WATCH_S)),
    help="Show it again and again, until Ctrl-C.",
)  # fmt: skip
@store_option
@timeout_option
@json_option
@click.pass_context
def status(context: click.Context, watch: float | None, store: str, timeout: float, as_json: bool) -> None:
    """Show a store's settings, its nodes and their figures.

    Exit code 0 if every node is up and has all its data, 1 if not.
    """
    link = link_to(store)
    while watch is not None:
        try:
            found = run(administration.status(timeout=timeout), link)
            facts, said = found | {"healthy": found.healthy}, repr(found)
        except RaykvError as error:  # it may come back
            facts = {"error": type(error).__name__, "message": error.message}
            said = f"{type(error).__name__}: {error.message}"
        if not as_json:
            click.clear()
        click.echo(output.as_json(facts)) if as_json else output.show_text(f"{time.strftime('%H:%M:%S')}  {said}")
        time.sleep(watch)
    found = run(administration.status(timeout=timeout), link)
    click.echo(output.as_json(found | {"healthy": found.healthy})) if as_json else output.show_text(repr(found))
    if not found.healthy:
        click.echo(f"raykv: not healthy: {output.one_line(ailing(found))}", err=True)
        context.exit(1)


def ailing(found: Status) -> str:
    """Return the nodes that are not up and complete, and why."""
    said = []
    for node in found["nodes"]:
        storage = node["storage"]
        if node["state"] != "up":
            cause = f" ({node['cause']})" if node["cause"] else ""
            said.append(f"{node['node_id']} is {node['state']} for {seconds(node['for_s'])}{cause}")
        elif storage is None:
            said.append(f"{node['node_id']} does not answer")
        elif not storage.get("complete", False):
            said.append(f"{node['node_id']} lacks some of its data")
        elif storage.get("disk", {}).get("full"):
            said.append(storage["disk"]["full"])
        elif storage.get("disk", {}).get("failing"):
            said.append(f"{node['node_id']}: {storage['disk']['failing']}")
    return ", ".join(said)


@click.command(epilog=examples("raykv ring", "raykv ring --svg ring.svg"))
@store_option
@timeout_option
@click.option("--svg", metavar="FILE", type=click.Path(dir_okay=False), help="Draw the ring into this file.")
@json_option
def ring(store: str, timeout: float, svg: str | None, as_json: bool) -> None:
    """Show each node's share of the ring; with --svg, draw the owners of every partition."""
    found = run(administration.ring(timeout=timeout), link_to(store))
    if svg is not None:
        from raykv import viz

        with open(svg, "w", encoding="utf-8") as file:
            file.write(viz.ring_svg(found))
    if as_json:
        click.echo(output.as_json(found))
        return
    output.show_text(repr(found))
    if svg is not None:
        output.show_text(f"drawn in {svg}")


@click.command(epilog=examples("raykv buckets", "raykv buckets --store shop --json"))
@store_option
@timeout_option
@json_option
def buckets(store: str, timeout: float, as_json: bool) -> None:
    """List a store's buckets and their settings."""
    found = run(administration.buckets(timeout=timeout), link_to(store))
    if as_json:
        click.echo(output.as_json(found))
        return
    columns = ["bucket", "n", "r", "w", "versioning", "quorum", "codec", "group", "ttl"]
    rows = [
        [
            output.shown(config["name"]), str(config["n"]), str(config["r"]), str(config["w"]), config["versioning"],
            "sloppy" if config["sloppy"] else "strict", config["codec"], output.shown(config.get("group") or ""),
            seconds(config["ttl_ms"] / 1000) if config["ttl_ms"] else "",
        ]
        for config in found
    ]  # fmt: skip
    output.show_text(table(columns, rows))


@click.command(epilog=examples("raykv repair", "raykv repair --store shop --json"))
@store_option
@timeout_option
@json_option
def repair(store: str, timeout: float, as_json: bool) -> None:
    """Compare all copies of all pairs now, and repair those that differ.

    The store also does this by itself, once a day.
    """
    link = link_to(store)
    with click.progressbar(length=1, label="partitions", file=sys.stderr, show_pos=True) as bar:
        steps = administration.repair(output.progress_on(bar), timeout=max(timeout, REPAIR_TIMEOUT_S))
        report = run(steps, link)
    failed = {str(partition): why for partition, why in report["failed"].items()}
    click.echo(output.as_json({**report, "failed": failed})) if as_json else output.show_text(repr(report))
    report.checked()


COMMANDS = (start, stop, status, ring, buckets, repair)

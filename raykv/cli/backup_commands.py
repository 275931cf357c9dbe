"""The commands on backups: backup, restore."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

import raykv
from raykv.cli import output
from raykv.cli.cluster import join_or_start_ray
from raykv.cli.options import examples, json_option, store_option, timeout_option_of
from raykv.cli.reading import link_to
from raykv.client import administration, backups
from raykv.client.driver import run
from raykv.client.views import size, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raykv.client.driver import Link

_LOOK_S = 0.5
_LOOK_TIMEOUT_S = 2.0


@click.command(
    epilog=examples(
        "raykv backup /backups/shop --store shop",
        "raykv backup /backups/shop --keep 7",
        "raykv backup --list /backups/shop",
        "raykv backup --verify /backups/shop && echo intact",
    )
)
@click.argument("path", type=click.Path())
@store_option
@timeout_option_of(backups.SNAPSHOT_TIMEOUT_S, "How long the nodes may take.")
@click.option("--keep", metavar="COUNT", type=int, help="Then remove all but the latest COUNT.  [default: none]")
@click.option("--list", "listing", is_flag=True, help="Show the snapshots in PATH; needs no store.")
@click.option("--verify", is_flag=True, help="Read every checksum in PATH on this host; needs no store.")
@click.option("--snapshot", metavar="NAME", default="", help="With --verify: this one only.  [default: all]")
@json_option
@click.pass_context
def backup(
    context: click.Context,
    path: str,
    store: str,
    timeout: float,
    keep: int | None,
    listing: bool,
    verify: bool,
    snapshot: str,
    as_json: bool,
) -> None:
    """Copy a store into the directory PATH of each node's host, while it is used.

    PATH is new, empty, or has earlier backups of this store: then only new tables are copied. Hosts may share it; otherwise
    each has the parts of its own nodes. Every write acknowledged before the command was given is in it.

    Exit code 0; 1 if nothing was backed up, or --verify found damage or something missing.
    """
    if listing and verify:
        raise click.UsageError("--list and --verify exclude each other")
    if snapshot and not verify:
        raise click.UsageError("--snapshot goes with --verify")
    if keep is not None and (listing or verify):
        raise click.UsageError("--keep goes with the making of a backup")
    if listing:
        _list(path, as_json)
        return
    if verify:
        if not _verify(path, snapshot, as_json):
            context.exit(1)
        return
    link = link_to(store)
    steps = backups.snapshot(os.path.abspath(os.path.expanduser(path)), keep=keep, timeout=timeout)
    with _tables_copied(link_to(store)):
        report = run(steps, link)
    click.echo(output.as_json(report)) if as_json else output.show_text(repr(report))


@contextlib.contextmanager
def _tables_copied(link: Link) -> Iterator[None]:
    """Show how many tables the nodes have copied, as long as the block runs."""
    over = threading.Event()

    def look(bar: Any) -> None:
        while not over.wait(_LOOK_S):
            try:
                nodes = run(administration.status(timeout=_LOOK_TIMEOUT_S), link)["nodes"]
            except raykv.RaykvError:
                continue  # the backup itself says what is wrong
            counts = [node["storage"]["backup"] for node in nodes if node["storage"] is not None]
            done, every = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
            if every:
                output.progress_on(bar)(done, every)

    with click.progressbar(length=1, label="tables", file=sys.stderr, show_pos=True) as bar:
        thread = threading.Thread(target=look, args=(bar,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(_LOOK_TIMEOUT_S)


def _list(path: str, as_json: bool) -> None:
    from raykv.actors import backups as here

    found = here.show(path)
    if as_json:
        click.echo(output.as_json(found))
        return
    columns = ["snapshot", "store", "began", "nodes", "tables", "bytes", "missing", "trouble"]
    rows = [
        [each["snapshot"], "", "", "", "", "", "", output.one_line(each["trouble"])]
        if each["trouble"]
        else [
            each["snapshot"],
            each["store"],
            _time(each["made_ms"]),
            ", ".join(f"{node_id} on {host}" if host else node_id for node_id, host in each["nodes"].items()),
            str(each["tables"]),
            size(each["table_bytes"]),
            ", ".join(each["missing"]),
            "",
        ]
        for each in found
    ]
    output.show_text(table(columns, rows) if rows else f"{path} has no snapshot that was finished")


def _time(made_ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(made_ms / 1000, tz=dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _verify(path: str, snapshot: str, as_json: bool) -> bool:
    """Show what is wrong; return whether nothing is."""
    from raykv.actors import backups as here

    with click.progressbar(length=1, label="tables", file=sys.stderr, show_pos=True) as bar:
        found = here.verify(path, snapshot, output.progress_on(bar))
    if as_json:
        click.echo(output.as_json(found))
    else:
        output.show_text("\n".join(line for each in found for line in _said(each)))
    return not any(each["wrong"] or not each["restorable"] for each in found)


def _said(found: dict[str, Any]) -> Sequence[str]:
    state = "intact" if not found["wrong"] else "damaged or incomplete"
    enough = "" if found["restorable"] else ", and does not have all that was acknowledged"
    if found["wrong"] and found["restorable"]:
        enough = ", but other copies have what that lacks: it can be restored"
    return [
        f"snapshot {found['snapshot']}: {state}{enough}",
        *(f"  {output.one_line(each)}" for each in [*found["wrong"], *found["lacking"]]),
    ]


@click.command(
    epilog=examples(
        "raykv restore /backups/shop --as shop-again",
        "raykv restore /backups/shop --as shop-again --nodes 5 --path /data/again",
    )
)
@click.argument("backup_path", metavar="PATH", type=click.Path())
@click.option("--as", "name", metavar="NAME", required=True, help="Name of the new store.")
@click.option("--nodes", metavar="COUNT", type=int, help="Number of storage nodes.  [default: as in the backup]")
@click.option("--path", metavar="DIR", help="Data directory of the new store.")
@click.option("--snapshot", metavar="NAME", help="Which snapshot.  [default: the latest]")
@click.option("--partial", is_flag=True, help="Restore what is left where parts are missing or damaged.")
@json_option
def restore(
    backup_path: str,
    name: str,
    nodes: int | None,
    path: str | None,
    snapshot: str | None,
    partial: bool,
    as_json: bool,
) -> None:
    """Start a new store NAME with the records of a backup in PATH, on any number of nodes.

    The parts of all nodes must be in PATH on this host. If it fails, or with Ctrl-C, the new store is deleted again.
    """
    from raykv.actors import backups as here

    here.show(backup_path)  # before a Ray cluster is started: a typing error must not leave one behind
    if join_or_start_ray():
        click.echo("raykv: no Ray cluster ran here; started one with 'ray start --head' (it stays)", err=True)
    with click.progressbar(length=1, label="partitions", file=sys.stderr, show_pos=True) as bar:
        report = raykv.restore(
            backup_path,
            name,
            nodes=nodes,
            path=path,
            snapshot=snapshot,
            partial=partial,
            progress=output.progress_on(bar),
        )
    click.echo(output.as_json(report)) if as_json else output.show_text(repr(report))


COMMANDS = (backup, restore)

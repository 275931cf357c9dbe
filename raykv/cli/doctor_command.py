"""The command doctor."""

from __future__ import annotations

import click

from raykv.cli import output, reading
from raykv.cli.options import examples, json_option, store_option, timeout_option
from raykv.client import administration
from raykv.client.driver import run
from raykv.metrics.diagnosis import Finding, diagnosis

CODES = {"critical": 3, "warning": 1, "note": 0}
_COLOURS = {"critical": "red", "warning": "yellow", "note": "cyan"}


@click.command(epilog=examples("raykv doctor --store shop", "raykv doctor --json | jq '.[].do'"))
@store_option
@timeout_option
@json_option
@click.pass_context
def doctor(context: click.Context, store: str, timeout: float, as_json: bool) -> None:
    """Look for what is wrong with a store, or soon will be, and say what to do about it.

    Nodes, partitions, labels, load, errors that clients saw, moves; on each host of the Ray cluster clock, disk, limits,
    versions, and what dead stores and nodes left; security settings.

    Exit code 0 if there are notes at most, 1 for a warning, 3 if anything is critical.
    """
    link = reading.link_by_ray(store)
    from raykv.actors import examination, lifecycle
    from raykv.cli.cluster import path_of

    status = run(administration.status(timeout=timeout), link)
    ring = run(administration.ring(timeout=timeout), link)
    hosts, silent = examination.examine(path_of(store))
    found = diagnosis(
        status,
        ring,
        hosts,
        silent,
        own=examination.versions(),
        running=lifecycle.stores(),
        security=examination.security(),
        machines=examination.machines(),
    )
    if as_json:
        click.echo(output.as_json([each._asdict() for each in found]))
    else:
        show(found, len(status["nodes"]), len(hosts))
    context.exit(max([0, *(CODES[each.severity] for each in found)]))


def show(found: list[Finding], nodes: int, hosts: int) -> None:
    """Print findings for people."""
    for each in found:
        severity = click.style(f"{each.severity:<8}", fg=_COLOURS[each.severity], bold=each.severity == "critical")
        click.echo(f"{severity}  {output.one_line(each.subject)}: {output.one_line(each.what)}")
        click.echo(f"          {output.one_line(each.do)}")
    worse = sum(each.severity != "note" for each in found)
    looked = f"looked at {nodes} nodes on {hosts} {'host' if hosts == 1 else 'hosts'}"
    click.echo(f"{looked}: {'nothing is wrong' if not worse else f'{worse} to look after'}")


COMMANDS = (doctor,)

"""The command that restarts a store while it is used: node by node, and the processes that keep nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from raykv.cli import output
from raykv.cli.options import examples, json_option, store_option, timeout_option_of
from raykv.cli.reading import link_to
from raykv.client import restarts
from raykv.client.driver import run

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(
    epilog=examples(
        "raykv restart --rolling", "raykv restart --rolling --outdated --services", "raykv restart --rolling --node n2",
    )
)  # fmt: skip
@click.option("--rolling", is_flag=True, help="One node after the other, while reads and writes go on.")
@click.option("--node", "nodes", metavar="NODE", multiple=True, help="Only this node; repeat it.  [default: all]")
@click.option("--outdated", is_flag=True, help="Only nodes that run another version of raykv than this command.")
@click.option("--services", is_flag=True, help="Then the processes of the supervisor and the coordinators, too.")
@click.option("--force", is_flag=True, help="Even if buckets cannot be read or written while a copy is away.")
@timeout_option_of(restarts.RESTART_TIMEOUT_S, "How long one node may take.")
@store_option
@json_option
def restart(
    rolling: bool,
    nodes: Sequence[str],
    outdated: bool,
    services: bool,
    force: bool,
    timeout: float,
    store: str,
    as_json: bool,
) -> None:
    """Restart a store's nodes, each drained before and complete again before the next.

    It is refused if a node is down or incomplete, if partitions move, or if a bucket cannot spare a copy. It stops if a node
    does not come back in time; nothing is lost then. After Ctrl-C the node that is being restarted comes back by itself and
    the others stay as they are; the same command goes on, with --outdated where it stopped.

    --services: calls that are under way in a coordinator's process then have an unknown outcome; those that a client
    coordinates for itself, as it does by default, go on.
    """
    if not rolling:
        raise click.UsageError("say --rolling; for all at once, 'raykv stop' and then 'raykv start'")
    link = link_to(store)
    with click.progressbar(
        length=1, label="nodes restarted", file=sys.stderr, show_pos=True, item_show_func=lambda text: text
    ) as bar:

        def told(node_id: str, phase: str, why: str) -> None:
            bar.update(0, output.one_line(f"{node_id} {phase}{f': {why}' if why else ''}"))

        steps = restarts.restart_nodes(
            nodes or None, force=force, outdated=outdated, progress=output.progress_on(bar), timeout=timeout, told=told,
            monotonic_s=link.monotonic_s,
        )  # fmt: skip
        done = run(steps, link)
    processes: list[str] = []
    if services:
        from raykv.actors.services import restart_services

        processes = restart_services(store, timeout)
    if as_json:
        click.echo(output.as_json({"store": store, "restarted": done, "services": processes}))
        return
    said = f"restarted: {', '.join(done)}" if done else "no node had to be restarted"
    output.show_text(said + (f"; and {', '.join(processes)}" if processes else ""))


COMMANDS = (restart,)

"""The command dashboard."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import click

from raykv.cli import output, reading
from raykv.cli.cluster import join_ray
from raykv.cli.options import checked, examples, json_option
from raykv.client import administration
from raykv.client.driver import run
from raykv.config import check_store_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.client.driver import Link
    from raykv.client.elastic import RebalanceAction
    from raykv.client.repairs import RepairReport
    from raykv.dashboard import Shown

LOOK_TIMEOUT_S = 3.0
REPAIR_TIMEOUT_S = 60.0


@click.command(epilog=examples("raykv dashboard --store shop", "raykv dashboard --host 0.0.0.0 --port 8300 --admin"))
@click.option(
    "--store", metavar="NAME", default=None, callback=checked(check_store_name),
    help="The store's name.  [default: all that run, each with a link]",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port.  [default: a free one]")
@click.option("--admin", is_flag=True, help="With buttons that change the store: repair, pause and resume moves.")
@json_option
def dashboard(store: str | None, host: str, port: int, admin: bool, as_json: bool) -> None:
    """Serve a live page on the store, until Ctrl-C: ring, nodes, traffic, hot keys, events, and any key explained.

    Open the address that is printed, and give the token that is printed. The page is read-only without --admin. It has no
    TLS: from elsewhere use an SSH tunnel, ssh -L PORT:127.0.0.1:PORT HOST.
    """
    join_ray()
    from raykv.actors import lifecycle
    from raykv.dashboard import Dashboard

    names = [store] if store is not None else lifecycle.stores()
    if not names:
        raise click.ClickException("no store runs in this Ray cluster; raykv start starts one")
    for name in names[:1]:  # so that what is wrong is said here
        run(administration.status(timeout=LOOK_TIMEOUT_S), reading.link_by_ray(name))
    listed = (lambda: names) if store is not None else lifecycle.stores
    try:
        page = Dashboard(lambda name: _shown(name, admin=admin), listed, host=host, port=port)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    with page:
        if as_json:
            click.echo(output.as_json({"url": page.url, "token": page.token}))
        else:
            click.echo(f"{page.url}\ntoken: {page.token}\n(Ctrl-C ends it)")
        threading.Event().wait()


def _shown(store: str, *, admin: bool) -> Shown:
    from raykv.dashboard import Feed, Shown

    link = reading.link_by_ray(store)
    feed = Feed(
        lambda: run(administration.status(timeout=LOOK_TIMEOUT_S), link),
        lambda: run(administration.ring(timeout=LOOK_TIMEOUT_S), link),
    )
    return Shown(feed, _explainer(store), _commands(link) if admin else {})


def _explainer(store: str) -> Callable[[str, str], str]:
    """Return what explains a read as HTML, by a link of its own, without decoding the value."""
    link = reading.link_by_ray(store)

    def explain(bucket: str, key: str) -> str:
        try:
            operations = reading.open_bucket(link, store, bucket, LOOK_TIMEOUT_S, create=False)
        except click.ClickException as error:
            from raykv.dashboard import page

            return page.text(error.message)
        found = run(operations.explain_contains(key, r=None, timeout=LOOK_TIMEOUT_S), link)
        return found._repr_html_()

    return explain


def _commands(link: Link) -> dict[str, Callable[[], str]]:
    from raykv.client import elastic

    def repair() -> str:
        report: RepairReport = run(administration.repair(None, timeout=REPAIR_TIMEOUT_S), link)
        return repr(report.checked())

    def rebalance(action: RebalanceAction) -> Callable[[], str]:
        def do() -> str:
            run(elastic.rebalance(action), link)
            return f"moves: {action}d"

        return do

    return {"repair": repair, "pause moves": rebalance("pause"), "resume moves": rebalance("resume")}


COMMANDS = (dashboard,)

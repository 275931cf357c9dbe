"""The command list."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from raykv.cli import output, reading
from raykv.cli.cluster import is_joined, join_ray, path_of
from raykv.cli.options import examples, json_option
from raykv.client import administration
from raykv.client.driver import run
from raykv.client.views import table
from raykv.errors import RaykvError

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.client.driver import Link

LOOK_TIMEOUT_S = 3.0


@click.command("list", epilog=examples("raykv list", "raykv list --json | jq -r '.[].store'"))
@json_option
def list_stores(as_json: bool) -> None:
    """List the stores that run in this Ray cluster."""
    found = _straight()
    if found is None:
        found = _by_ray()
    if as_json:
        click.echo(output.as_json(found))
        return
    columns = ["store", "nodes", "up", "path", "trouble"]
    rows = [["" if each[column] is None else str(each[column]) for column in columns] for each in found]
    output.show_text(table(columns, rows) if rows else "no store runs in this Ray cluster")


def _straight() -> list[dict[str, Any]] | None:
    """Return the stores by way of their coordinators' ports; None if not all answer there as they should."""
    if is_joined():
        return None
    from raykv.actors import command_link

    names = command_link.running_stores()
    if names is None:
        return None
    found = []
    for name in names:
        link = command_link.link_to(name, partial(reading.link_by_ray, name))
        if link is None:
            return None
        try:
            row = _looked_at(name, link, link.path)
        except RaykvError:
            return None
        if row["trouble"]:  # let Ray tell it
            return None
        found.append(row)
    return found


def _by_ray() -> list[dict[str, Any]]:
    join_ray()
    from raykv.actors import lifecycle

    found = []
    for name in lifecycle.stores():
        try:
            link = lifecycle.join(name, "coordinator")
        except RaykvError as error:
            found.append(_row(name, trouble=output.one_line(str(error))))
            continue
        found.append(_looked_at(name, link, partial(path_of, name)))
    return found


def _looked_at(name: str, link: Link, path: Callable[[], str]) -> dict[str, Any]:
    try:
        status = run(administration.status(timeout=LOOK_TIMEOUT_S), link)
    except Exception as error:  # noqa: BLE001 - one store that is ill must not hide the others
        return _row(name, trouble=output.one_line(str(error)))
    up = sum(node["state"] == "up" for node in status["nodes"])
    return _row(name, nodes=len(status["nodes"]), up=up, path=path())


def _row(
    name: str, *, nodes: int | None = None, up: int | None = None, path: str = "", trouble: str = ""
) -> dict[str, Any]:
    return {"store": name, "nodes": nodes, "up": up, "path": path, "trouble": trouble}


COMMANDS = (list_stores,)

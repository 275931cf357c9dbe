"""The command queue: put, claim and settle the jobs of a work queue. See ``raykv.client.queues``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from raykv.cli import output, reading
from raykv.cli.options import ABOVE_ZERO, FROM_ZERO, checked, examples, json_option, store_option, timeout_option
from raykv.cli.pair_commands import parsed, value_bytes
from raykv.client import administration
from raykv.client.driver import run
from raykv.client.faces import decode_shown
from raykv.client.handle import Session, checked_name
from raykv.client.queue_books import (
    DEFAULT_DELIVERIES,
    DEFAULT_LEASE_S,
    LEAST_LEASE_S,
    MOST_LEASE_S,
    QUEUES,
    check_delay,
    check_wait,
    names_of,
)
from raykv.client.queues import Job, Queues
from raykv.client.views import table
from raykv.config import check_number
from raykv.errors import RaykvError

if TYPE_CHECKING:
    from raykv.client.driver import Link
    from raykv.client.operations import Operations


def _name(name: str | None) -> str | None:
    return None if name is None else checked_name(name)


TAKES = {
    "stats": (0, 0), "put": (1, 1), "claim": (0, 0), "ack": (1, 1000), "nack": (1, 1000), "renew": (1, 1000), "peek": (0, 0),
    "dead": (0, 0), "requeue": (0, 1000), "remove": (0, 1000),
}  # fmt: skip
"""Action -> how many words it takes, at least and at most."""
NAMES_S = 2.0
SHOWN_NAMES = 20
"""Where a name is not known, others are shown: so many, if they are found in that time."""


@click.command(
    epilog=examples(
        "raykv queue",
        "raykv queue mails stats",
        "raykv queue mails put 'to Ada' --delay 60",
        "raykv queue mails claim --count 10 --wait 30 --lease 120",
        "raykv queue mails ack 3.17.0@3:9f86d081884c7d65",
        "raykv queue mails requeue",
    )
)
@click.argument("name", required=False, callback=checked(_name))
@click.argument("action", type=click.Choice([*TAKES]), default="stats")
@click.argument("words", nargs=-1)
@click.option("--json-value", "form", flag_value="json", help="Of put: VALUE is JSON; put the value that it denotes.")
@click.option("--bytes", "form", flag_value="bytes", help="Of put: put VALUE as raw bytes.")
@click.option(
    "--delay", type=FROM_ZERO, default=0.0, metavar="SECONDS", callback=checked(check_delay),
    help="Of put and nack: not to be claimed before.",
)  # fmt: skip
@click.option("--count", type=int, default=1, show_default=True, help="Of claim, peek and dead: how many at most.")
@click.option(
    "--wait", type=FROM_ZERO, default=0.0, metavar="SECONDS", callback=checked(check_wait),
    help="Of claim: how long to wait for a job.",
)  # fmt: skip
@click.option(
    "--lease", type=ABOVE_ZERO, default=DEFAULT_LEASE_S, show_default=True, metavar="SECONDS",
    callback=checked(lambda lease: check_number("lease", lease, LEAST_LEASE_S, MOST_LEASE_S)), help="Of claim.",
)  # fmt: skip
@click.option(
    "--max-deliveries", type=int, default=DEFAULT_DELIVERIES, show_default=True,
    help="Of claim and nack: then a job is a dead letter.",
)  # fmt: skip
@store_option
@timeout_option
@json_option
def queue(
    name: str | None,
    action: str,
    words: tuple[str, ...],
    form: str | None,
    delay: float,
    count: int,
    wait: float,
    lease: float,
    max_deliveries: int,
    store: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Look at the work queue NAME, put a job into it, or claim and settle some. Without a NAME: list the queues.

    \b
    stats            how many wait, are delayed, claimed, dead, done
    put VALUE        put a job ('-': standard input); print its id
    claim            claim jobs; print for each JOB and its value
    ack JOB...       these are done; exit code 1 if some were not held any more
    nack JOB...      these are to be delivered again
    renew JOB...     begin their lease anew
    peek             the next ones, left where they are
    dead             those that were delivered too often
    requeue [ID...]  let dead ones, or all, be delivered again
    remove [ID...]   remove dead ones, or all

    A JOB is what claim has printed. A pickled value is shown as "<pickled, N bytes>". A queue is made by its first put
    or claim.
    """  # noqa: D301 - click's mark
    least, most = TAKES[action]
    if not least <= len(words) <= most:
        wanted = "no more words" if not most else "a VALUE" if action == "put" else "the JOBs that claim has printed"
        raise click.UsageError(f"{action} takes {wanted}; got {len(words)}")
    settled = [_job(word) for word in words] if action in {"ack", "nack", "renew"} else []
    value = parsed(value_bytes(words[0]), form) if action == "put" else None
    link = reading.link_to(store)
    session = Session(store, link, "coordinator")
    if name is None:
        _list(session, _own_bucket(link, store, timeout), timeout, as_json=as_json)
        return
    steps = Queues(session, name, lease=lease, max_deliveries=max_deliveries)
    if action not in {"put", "claim"}:
        _check_stands(steps, _own_bucket(link, store, timeout), store, timeout)
    if action == "stats":
        figures = run(steps.stats(timeout=timeout), link)
        click.echo(
            output.as_json(figures) if as_json else "\n".join(f"{what:12} {number}" for what, number in figures.items())
        )
    elif action == "put":
        (job_id,) = run(steps.put_all([value], delay=delay, timeout=timeout), link)
        click.echo(output.as_json({"id": job_id}) if as_json else job_id)
    elif action in {"claim", "peek", "dead"}:
        jobs = {
            "claim": lambda: steps.claim(count, wait=wait, timeout=timeout),
            "peek": lambda: steps.peek(count, timeout=timeout),
            "dead": lambda: steps.dead(count, timeout=timeout),
        }[action]()
        _show(run(jobs, link), as_json=as_json)
    elif action in {"requeue", "remove"}:
        again = action == "requeue"
        changed = run(steps.change_dead(words or None, again=again, timeout=timeout), link)
        click.echo(output.as_json({action: changed}) if as_json else str(changed))
    elif not _settle(steps, link, action, settled, delay, timeout):
        raise click.ClickException(f"some of the {len(settled)} jobs were not held any more: their lease was over")


def _own_bucket(link: Link, store: str, timeout: float) -> Operations | None:
    """Return the operations on the bucket of the queues; None before the first queue."""
    if QUEUES not in [config["name"] for config in run(administration.buckets(timeout=timeout), link)]:
        return None
    return reading.open_bucket(link, store, QUEUES, timeout, create=False)


def _check_stands(steps: Queues, operations: Operations | None, store: str, timeout: float) -> None:
    link = steps.session.link
    if operations is not None and run(steps.stands(operations, timeout), link):
        return
    names: list[str] = []
    with contextlib.suppress(RaykvError):  # only to be of help
        names = run(names_of(operations, min(timeout, NAMES_S)), link) if operations is not None else []
    shown = ", ".join(map(output.shown_key, names[:SHOWN_NAMES])) + ", ..." * (len(names) > SHOWN_NAMES)
    raise click.ClickException(
        f"store {store!r} has no queue {steps.name!r}; it has: {shown or 'none'}. The first put makes one"
    )


def _list(session: Session, operations: Operations | None, timeout: float, *, as_json: bool) -> None:
    found: list[dict[str, Any]] = []
    for name in [] if operations is None else run(names_of(operations, timeout), session.link):
        steps = Queues(session, name)
        try:
            if operations is not None and run(steps.stands(operations, timeout), session.link):
                found.append({"queue": name, **run(steps.stats(timeout=timeout), session.link)})
        except RaykvError as error:
            found.append({"queue": name, "error": str(error)})
    if as_json:
        click.echo(output.as_json(found))
        return
    columns = ["queue", "waiting", "delayed", "claimed", "dead", "done", "put"]
    rows = [[output.shown_key(each["queue"]), *(str(each.get(what, "?")) for what in columns[1:])] for each in found]
    output.show_text(table(columns, rows) if rows else "the store has no queue")
    for each in found:
        if "error" in each:
            click.echo(f"queue {each['queue']!r}: {each['error']}", err=True)


def _settle(steps: Queues, link: Link, action: str, jobs: list[Job[Any]], delay: float, timeout: float) -> bool:
    if action == "ack":
        return run(steps.finish(jobs, timeout=timeout), link)
    if action == "nack":
        return run(steps.give_back(jobs, delay=delay, timeout=timeout), link)
    return run(steps.renew(jobs, timeout=timeout), link)


def _job(word: str) -> Job[Any]:
    job_id, _, claim = word.partition("@")
    return Job(job_id, b"", 0, claim)


def _show(jobs: list[Job[Any]], *, as_json: bool) -> None:
    for job in jobs:
        name = f"{job.id}@{job.claim}" if job.claim else job.id
        value = decode_shown(job.id, job.payload)
        if as_json:
            click.echo(output.as_json({"job": name, "value": value, "deliveries": job.deliveries}))
        else:
            click.echo(f"{name}\t{output.shown(value)}")


COMMANDS = (queue,)

"""The command explain: what a read of one key does."""

from __future__ import annotations

from typing import Any

import click

from raykv.cli import output, reading
from raykv.cli.options import bucket_option, examples, json_option, key_argument, r_option, store_option, timeout_option
from raykv.client.driver import run


@click.command(epilog=examples("raykv explain user:1", "raykv explain user:1 --r all --bucket carts --json"))
@key_argument
@r_option
@bucket_option
@store_option
@timeout_option
@json_option
@click.pass_context
def explain(context: click.Context, key: str, r: Any, bucket: str, store: str, timeout: float, as_json: bool) -> None:
    """Read KEY, and show what that did: where the key lives, whom was asked, what each answered and when.

    In each node: the memtable, filters and blocks that it looked into, with microseconds. The value itself is not shown, nor
    decoded. KEY need not exist.

    Exit code 1 if the read failed; the steps that led to that are shown all the same.
    """
    link = reading.link_to(store)
    operations = reading.open_bucket(link, store, bucket, timeout, create=False)
    found = run(operations.explain_contains(key, r=r, timeout=timeout), link)
    if as_json:
        click.echo(
            output.as_json(
                {
                    "key": key,
                    "exists": found.result,
                    "error": None if found.error is None else f"{type(found.error).__name__}: {found.error.message}",
                    "took_ms": found.took_ms,
                    "requests": found.requests,
                }
            )
        )
    else:
        output.show_text(repr(found))
    if found.error is not None:
        context.exit(1)


COMMANDS = (explain,)

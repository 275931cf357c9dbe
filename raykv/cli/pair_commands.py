"""The commands on pairs: put, get, delete, scan. Keys are text; ``output`` says how keys and values are shown."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from raykv.cli import output, reading
from raykv.cli.options import (
    bound_option,
    bucket_option,
    examples,
    fence_option,
    group_option,
    if_version_option,
    json_option,
    key_argument,
    r_option,
    store_option,
    timeout_option,
    ttl_option,
    versioning_option,
    w_option,
)
from raykv.client.codecs import encode_value
from raykv.client.driver import run
from raykv.config import MAX_PAIR_BYTES, shown
from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from raykv.client.version import Version
    from raykv.client.writes import WriteResult


@click.command(
    epilog=examples(
        "raykv put user:1 Ada",
        """raykv put user:2 --json-value '{"name": "Grace", "age": 46}'""",
        "raykv put logo --bytes - < logo.png",
        "raykv put session:7 token --ttl 3600 --w all",
        "raykv put job:1 mine --if-absent --bucket jobs --versioning linearizable",
    )
)
@key_argument
@click.argument("value")
@click.option("--json-value", "form", flag_value="json", help="VALUE is JSON; store the value that it denotes.")
@click.option("--bytes", "form", flag_value="bytes", help="Store VALUE as raw bytes.")
@ttl_option
@w_option
@click.option("--if-absent", is_flag=True, help="Only if KEY has no value. Linearizable buckets only.")
@if_version_option
@fence_option
@bucket_option
@versioning_option
@group_option
@store_option
@timeout_option
@json_option
def put(
    key: str,
    value: str,
    form: str | None,
    ttl: float | None,
    w: Any,
    if_absent: bool,
    if_version: Version | None,
    fence: int | None,
    bucket: str,
    versioning: str | None,
    group: str | None,
    store: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Write VALUE under KEY.

    VALUE is kept as text. '-' reads it from standard input, as it comes, with its last newline. Before a VALUE that begins
    with a dash, write '--'. A bucket that does not exist is created; for a conditional write, only with --versioning.

    Exit code 1 if a condition does not hold: nothing is written then.
    """
    if if_absent and if_version is not None:
        raise click.UsageError("--if-absent and --if-version exclude each other")
    kept = parsed(value_bytes(value), form)
    link = reading.link_to(store)
    conditional = if_absent or if_version is not None or fence is not None
    create = versioning is not None or not conditional  # not by a condition that it cannot hold to
    operations = reading.open_bucket(link, store, bucket, timeout, create=create, versioning=versioning, group=group)
    written = run(
        operations.put(
            key, kept, w=w, ttl=ttl, if_absent=if_absent, if_version=if_version, fence=fence, timeout=timeout
        ),
        link,
    )
    _say_written("written", key, written, as_json)


def value_bytes(value: str) -> bytes:
    """Return VALUE's own bytes, or standard input."""
    if value != "-":
        return os.fsencode(value)
    data = sys.stdin.buffer.read(MAX_PAIR_BYTES + 1)
    if len(data) > MAX_PAIR_BYTES:
        raise click.UsageError(f"standard input holds more than {MAX_PAIR_BYTES} bytes, the most that any bucket takes")
    return data


def parsed(data: bytes, form: str | None) -> Any:
    """Return the value to store. Raises ``UsageError``."""
    if form == "bytes":
        return data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise click.UsageError("VALUE is not UTF-8 text; --bytes keeps it as it is") from None
    return text if form is None else _parsed_json(text)


def _parsed_json(text: str) -> Any:
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_of_different_names
        )
        encode_value(value, "msgpack")  # any other value would be pickled, and could not be shown again
    except InvalidOption:
        raise click.UsageError(
            "--json-value: it holds what raykv cannot keep exactly: an integer above 64 bits, half a surrogate pair, or "
            "too many levels"
        ) from None
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--json-value: VALUE is not JSON: {error}") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    """Return the number. Python reads one that is too large as infinity, which JSON does not have."""
    number = float(text)
    if not math.isfinite(number):
        raise click.UsageError(f"--json-value: {shown(text)} is beyond what a float can hold")
    return number


def _of_different_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict. Of a name that stands twice, Python would silently keep the last value."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise click.UsageError(f"--json-value: an object has the name {shown(name)} twice")
        found[name] = value
    return found


@click.command(
    epilog=examples("raykv get user:1", "raykv get user:1 --r all --json", "raykv get logo --bytes > logo.png")
)
@key_argument
@click.option("--bytes", "raw", is_flag=True, help="Write the value's bytes as they are, with no newline.")
@click.option("--versions", is_flag=True, help="Print all values that stand side by side, the newest first.")
@click.option(
    "--version",
    is_flag=True,
    help="Print the value's version instead, for --if-version; --json has both. Linearizable buckets only.",
)
@r_option
@bucket_option
@store_option
@timeout_option
@json_option
@click.pass_context
def get(
    context: click.Context,
    key: str,
    raw: bool,
    versions: bool,
    version: bool,
    r: Any,
    bucket: str,
    store: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Print the value of KEY: text as it is, anything else as JSON. Exit code 1 if there is none.

    A pickled value is shown as "<pickled, N bytes>": unpickling runs its writer's code, and a look must not. An array or a
    table is shown as "<numpy, N bytes>" (pyarrow, pandas).
    """
    if raw + versions + version > 1:
        raise click.UsageError("--bytes, --versions and --version exclude each other")
    link = reading.link_to(store)
    operations = reading.open_bucket(link, store, bucket, timeout, create=False)
    if version:
        operations.refuse_elsewhere("--version")
    standing = reading.read(link, operations, key, r, timeout_s=timeout)
    value = standing.newest
    found = bool(standing.values) if versions else value is not reading.ABSENT
    if as_json and versions:
        click.echo(output.as_json({"key": key, "found": found, "values": standing.values}))
    elif as_json:
        told = {"version": standing.version} if operations.linearizable else {}
        click.echo(output.as_json({"key": key, "found": found} | ({"value": value} if found else {}) | told))
    elif version and found:
        click.echo(standing.version)
    elif versions:
        for one in standing.values:
            click.echo(output.shown_alone(one))
    elif found and raw:
        _write_raw(value)
    elif found:
        click.echo(output.shown_alone(value))
    if not versions and len(standing.values) > 1:
        more = len(standing.values) - 1
        click.echo(f"raykv: {more} more written at the same time; --versions shows all", err=True)
    if not found:
        click.echo(f"raykv: there is no key {output.one_line(repr(key))}", err=True)
        context.exit(1)


def _write_raw(value: Any) -> None:
    if not isinstance(value, str | bytes):
        raise click.ClickException(f"the value is neither text nor bytes: {output.shown(value):.60}")
    data = value.encode() if isinstance(value, str) else value
    click.echo(data, nl=False)


@click.command(epilog=examples("raykv delete user:1", "raykv delete user:1 --w all"))
@key_argument
@w_option
@if_version_option
@fence_option
@bucket_option
@store_option
@timeout_option
@json_option
def delete(
    key: str,
    w: Any,
    if_version: Version | None,
    fence: int | None,
    bucket: str,
    store: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Delete KEY, whether or not it has a value. Exit code 1 if a condition does not hold."""
    link = reading.link_to(store)
    operations = reading.open_bucket(link, store, bucket, timeout, create=False)
    steps = operations.delete(key, w=w, if_version=if_version, fence=fence, timeout=timeout)
    _say_written("deleted", key, run(steps, link), as_json)


def _say_written(what: str, key: str, result: WriteResult, as_json: bool) -> None:
    acks, version = sorted(result.acks), bytes(result.version).hex()
    if as_json:
        told = {"version": version} if version else {}
        click.echo(output.as_json({"key": key, "acks": acks, "operation_id": result.operation_id} | told))
    elif version:
        click.echo(f"{what}, version {version}")
    else:
        click.echo(f"{what} {'on' if what == 'deleted' else 'to'} {', '.join(acks)}")


@click.command(
    epilog=examples(
        "raykv scan --prefix user: --limit 20",
        "raykv scan --start 2024-01 --end 2024-02 --reverse",
        "raykv scan --after user:20 --json | jq -r .key",
    )
)
@bound_option("--prefix", "Only keys that begin with this.")
@bound_option("--start", "Only keys from this one on.")
@bound_option("--end", "Only keys before this one.")
@bound_option("--after", "Continue behind this key, where an earlier scan stopped.")
@click.option(
    "--limit",
    metavar="COUNT",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Number of pairs at most.",
)
@click.option("--reverse", is_flag=True, help="From the last key to the first.")
@click.option("--keys-only", is_flag=True, help="Fetch no values.")
@r_option
@bucket_option
@store_option
@timeout_option
@json_option
def scan(
    prefix: str | None,
    start: str | None,
    end: str | None,
    after: str | None,
    limit: int,
    reverse: bool,
    keys_only: bool,
    r: Any,
    bucket: str,
    store: str,
    timeout: float,
    as_json: bool,
) -> None:
    """List pairs in the order of their keys: one line each, key and value separated by a tab.

    With --json, one JSON object a line. If there are more pairs, a line on stderr says how to go on.
    """
    link = reading.link_to(store)
    operations = reading.open_bucket(link, store, bucket, timeout, create=False)
    printed, last = 0, None
    paging = operations.scan(
        prefix, start, end, after=after, reverse=reverse, keys_only=keys_only, r=r, timeout=timeout,
        limit=limit + 1,  # shows whether there are more
    )  # fmt: skip
    for page in reading.pages(link, paging):
        shown = page[: limit - printed]
        if shown:
            click.echo("\n".join(_line(key, value, keys_only, as_json) for key, value in shown))
            last = shown[-1][0]
        printed += len(shown)
        if len(page) > len(shown) and last is not None:
            click.echo(f"raykv: there is more: {_how_to_go_on(last)}", err=True)
            return


def _how_to_go_on(last: str | bytes) -> str:
    if isinstance(last, str) and last.isprintable():
        return f"--after {shlex.quote(last)}, or a larger --limit"
    return "a larger --limit"  # such a key cannot be typed on a command line


def _line(key: str | bytes, value: Any, keys_only: bool, as_json: bool) -> str:
    if as_json:
        return output.as_json({"key": key} if keys_only else {"key": key, "value": value})
    return output.shown_key(key) if keys_only else f"{output.shown_key(key)}\t{output.shown(value)}"


COMMANDS = (put, get, delete, scan)

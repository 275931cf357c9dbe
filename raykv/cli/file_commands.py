"""The commands between a bucket and a file: export, import."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

import raykv
from raykv.cli import output
from raykv.cli.cluster import join_ray
from raykv.cli.options import (
    bound_option,
    bucket_option,
    examples,
    group_option,
    json_option,
    store_option,
    versioning_option,
)
from raykv.client.handle import DEFAULT_BUCKET
from raykv.client.views import size
from raykv.portable import export_file, import_file
from raykv.portable.exporting import format_of
from raykv.portable.importing import check_file

if TYPE_CHECKING:
    from collections.abc import Callable

format_option = click.option(
    "--format", "form", type=click.Choice(["jsonl", "parquet"]), help="Of the file.  [default: by its ending]"
)


@click.command(
    "export",
    epilog=examples(
        "raykv export cities.parquet --bucket cities",
        "raykv export users.jsonl --prefix user:",
        "raykv export all.jsonl --overwrite --unpickle",
    ),
)
@click.argument("path", type=click.Path(dir_okay=False))
@bound_option("--prefix", "Only keys that begin with this.")
@format_option
@click.option("--overwrite", is_flag=True, help="Replace a file that is there, once the new one is whole.")
@click.option(
    "--unpickle", is_flag=True, help="Unpickle pickled values (tuples, dates, ...): runs their writers' code."
)
@bucket_option
@store_option
@json_option
def export_command(
    path: str,
    prefix: str | None,
    form: Any,
    overwrite: bool,
    unpickle: bool,
    bucket: str,
    store: str,
    as_json: bool,
) -> None:
    """Write the records of a bucket into the file PATH, as Parquet or JSON Lines, in key order.

    PATH appears once it is whole; until then the parts are in PATH.partial. Interrupted, the same command goes on where it
    was. Values come back exactly by 'raykv import'; one that the file cannot keep is an error that names its key.
    """
    format_of(path, form)
    handle = _bucket(store, bucket)
    with click.progressbar(length=1, label="records", file=sys.stderr, show_pos=True) as bar:
        report = export_file(
            handle,
            path,
            format=form,
            prefix=prefix,
            overwrite=overwrite,
            unpickle=unpickle,
            progress=_progress(bar),
        )
    resumed = f", {report.resumed:,} of them by an earlier command" if report.resumed else ""
    _say(f"{report.records:,} records{resumed}: {path}, {size(report.bytes)}", report._asdict(), as_json)


@click.command(
    "import",
    epilog=examples(
        "raykv import cities.parquet --bucket cities",
        "raykv import jobs.jsonl --bucket jobs --versioning linearizable --if-absent",
    ),
)
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
@format_option
@click.option("--if-absent", is_flag=True, help="Only keys that have no value. Linearizable buckets only.")
@click.option("--note", metavar="FILE", help="Says how far it is, while it runs.  [default: beside PATH]")
@bucket_option
@versioning_option
@group_option
@store_option
@json_option
def import_command(
    path: str,
    form: Any,
    if_absent: bool,
    note: str | None,
    bucket: str,
    versioning: Any,
    group: str | None,
    store: str,
    as_json: bool,
) -> None:
    """Put the records of the file PATH into a bucket: one of 'raykv export', or a Parquet file with a column "key".

    A bucket that does not exist is created. Interrupted, the same command goes on where it was.
    """
    form = format_of(path, form)
    check_file(path, form)
    rows = form == "parquet"
    create = versioning is not None or not if_absent
    handle = _bucket(store, bucket, create=create, versioning=versioning, group=group)
    with click.progressbar(length=1, label="rows" if rows else "bytes", file=sys.stderr, show_pos=True) as bar:
        report = import_file(handle, path, format=form, if_absent=if_absent, note=note, progress=_progress(bar))
    skipped = f"; {report.skipped:,} keys had a value" if report.skipped else ""
    resumed = f"; {report.resumed:,} of them by an earlier command" if report.resumed else ""
    _say(f"{report.records:,} records imported{skipped}{resumed}", report._asdict(), as_json)


def _bucket(store: str, bucket: str, *, create: bool = False, **options: Any) -> raykv.Bucket[Any, Any]:
    """Return the bucket; only an import creates one: a misspelt name must not."""
    join_ray()
    handle = raykv.connect(store)
    names = handle.buckets()
    if not create and bucket not in names:
        raise click.ClickException(f"store {store!r} has no bucket {bucket!r}; it has: {', '.join(names)}")
    given = {name: value for name, value in options.items() if value is not None}
    return handle if bucket == DEFAULT_BUCKET and not given else handle.bucket(bucket, **given)


def _progress(bar: Any) -> Callable[[int, int], object] | None:
    """Return how to move the bar; None where nobody sees it: an export would count its keys for nothing."""
    return output.progress_on(bar) if sys.stderr.isatty() else None


def _say(text: str, figures: dict[str, Any], as_json: bool) -> None:
    click.echo(output.as_json(figures)) if as_json else output.show_text(text)


COMMANDS = (export_command, import_command)

"""The command ``raykv demo``: load a real data set, kill a node under traffic, and verify that nothing is lost."""

from __future__ import annotations

from typing import Any

import click

from raykv.cli import demo_run, output
from raykv.cli.demo_report import problems, report
from raykv.cli.options import ABOVE_ZERO, checked, examples
from raykv.config import check_number

LEAST_S, MOST_S = 0.5, 3600.0


class RecordsType(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """A number of records, or "all"."""

    name = "records"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number, or "all"."""
        text = str(value)
        if text == "all":
            return text
        if text.isascii() and text.isdigit() and int(text[:12]) > 0:
            return int(text[:12])
        return self.fail(f"{text!r} is neither a number above 0 nor 'all'", param, ctx)


@click.command(
    epilog=examples("raykv demo", "raykv demo --records all --json figures.json", "raykv demo --seconds 30 --keep")
)
@click.option(
    "--records", type=RecordsType(), metavar="COUNT|all",
    help="Number of cities.  [default: the 34,000 or so with more than 15,000 inhabitants; all: 234,908]",
)  # fmt: skip
@click.option(
    "--nodes", type=click.IntRange(3, 64), default=3, show_default=True, metavar="COUNT", help="Storage nodes."
)
@click.option(
    "--seconds", type=ABOVE_ZERO, default=10.0, show_default=True, metavar="SECONDS",
    callback=checked(lambda seconds: check_number("seconds", seconds, LEAST_S, MOST_S)),
    help="Length of the mix before the kill; after it the mix runs at least as long.",
)  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the data, and print its path.")
@click.option(
    "--address", metavar="ADDRESS", help="A running Ray cluster ('auto': this machine's) instead of a new one."
)
@click.option(
    "--json", "file", metavar="FILE", type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    help="Write the figures as JSON; '-' is standard output, and everything else then goes to standard error.",
)  # fmt: skip
@click.pass_context
def demo(
    context: click.Context,
    records: int | str | None,
    nodes: int,
    seconds: float,
    keep: bool,
    address: str | None,
    file: str | None,
) -> None:
    """Load the GeoNames cities, kill a storage node under traffic, and check that nothing is lost.

    Starts a Ray and a store of its own, loads the records, runs a steady mix of reads and writes, kills one storage process
    with SIGKILL, waits until the node is back, and reads every record back. Exit code 1 if an acknowledged write was lost,
    an operation failed, or the node was not back within a minute. Needs pip install 'raykv[demo]'.
    """
    on_stderr = file == "-"

    def say(line: str) -> None:
        click.echo(output.escaped(line, keep="\n"), err=on_stderr)

    options = demo_run.Options(
        records=records if isinstance(records, int) else None,
        everything=records == "all",
        nodes=nodes,
        seconds=seconds,
        keep=keep,
        address=address,
    )
    figures = demo_run.run(options, say, on_stderr=on_stderr)
    wrong = problems(figures)
    figures |= {"seconds": seconds, "ok": not wrong}
    say("\n" + report(figures))
    if file is not None:
        with click.open_file(file, "w", encoding="utf-8") as out:
            out.write(output.as_json(figures, indent=2) + "\n")
    if wrong:
        click.echo(f"raykv: demo: {output.one_line('; '.join(wrong))}", err=True)
        context.exit(1)


COMMANDS = (demo,)

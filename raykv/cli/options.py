"""Options that several commands share. Each is checked while the arguments are read, before Ray is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from raykv.client.exchange import DEFAULT_TIMEOUT_S
from raykv.client.handle import DEFAULT_BUCKET
from raykv.config import MAX_COPIES, check_bucket_name, check_store_name, check_timeout, check_ttl
from raykv.errors import InvalidOption
from raykv.records.keys import encode_bound, encode_key

F = TypeVar("F", bound=Callable[..., Any])


class LevelType(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """A consistency level: 1..N, one, quorum, all."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return a number, or one of the three names."""
        text = str(value)
        if text in {"one", "quorum", "all"}:
            return text
        if text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= MAX_COPIES:
            return int(text[:4])
        return self.fail(f"{text!r} is none of 1..N, one, quorum, all", param, ctx)


def _checked(check: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a click callback that passes a given value to one of raykv's own checks, and leaves the value as it is."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is not None:
            try:
                check(value)
            except InvalidOption as error:
                raise click.BadParameter(error.message, context, parameter) from None
        return value

    return callback


def examples(*lines: str) -> str:
    """Return a help text's last paragraph."""
    return "\b\n" + ("Example:" if len(lines) == 1 else "Examples:") + "".join(f"\n  {line}" for line in lines)


store_option = click.option(
    "--store", metavar="NAME", default="default", show_default=True, callback=_checked(check_store_name),
    help="The store's name.",
)  # fmt: skip
bucket_option = click.option(
    "--bucket", metavar="NAME", default=DEFAULT_BUCKET, show_default=True, callback=_checked(check_bucket_name),
    help="The bucket's name.",
)  # fmt: skip
timeout_option = click.option(
    "--timeout", metavar="SECONDS", type=float, default=DEFAULT_TIMEOUT_S, show_default=True,
    callback=_checked(check_timeout), help="How long to wait for an answer, once connected.",
)  # fmt: skip
ttl_option = click.option(
    "--ttl",
    metavar="SECONDS",
    type=float,
    callback=_checked(check_ttl),
    help="After this long the pair is absent again.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
r_option = click.option(
    "--r",
    type=LevelType(),
    metavar="1..N|one|quorum|all",
    help="Replicas that must answer.  [default: the bucket's, usually a majority]",
)
w_option = click.option(
    "--w",
    type=LevelType(),
    help="Replicas that must hold it durably.  [default: the bucket's, usually a majority]",
)
key_argument = click.argument("key", callback=_checked(encode_key))


def bound_option(name: str, text: str) -> Callable[[F], F]:
    """Return an option that takes a key, or part of one, as a bound of a scan."""
    return click.option(name, metavar="KEY", callback=_checked(encode_bound), help=text)

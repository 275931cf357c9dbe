"""Options that several commands share. Each is checked while the arguments are read, before Ray is imported."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from raykv.client.exchange import DEFAULT_TIMEOUT_S
from raykv.client.handle import DEFAULT_BUCKET
from raykv.client.version import Version
from raykv.config import (
    MAX_COPIES,
    VERSIONINGS,
    check_bucket_name,
    check_group,
    check_store_name,
    check_timeout,
    check_ttl,
)
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


class NumberType(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """A finite number above 0, or from 0 on. click's own lets NaN through any bounds, and infinity where there are none."""

    name = "number"

    def __init__(self, *, or_zero: bool = False) -> None:
        self._or_zero = or_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and (number > 0 or (self._or_zero and number == 0)):
            return number
        return self.fail(
            f"{str(value)!r} is no finite number {'from 0 on' if self._or_zero else 'above 0'}", param, ctx
        )


ABOVE_ZERO = NumberType()
FROM_ZERO = NumberType(or_zero=True)


def checked(check: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a click callback that lets a check of raykv's own judge a given value, and keeps the value as it is.

    Of an option that repeats, each value.
    """

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        for each in value if parameter.multiple else () if value is None else (value,):
            try:
                check(each)
            except InvalidOption as error:
                raise click.BadParameter(error.message, context, parameter) from None
        return value

    return callback


def _version(context: click.Context, parameter: click.Parameter, value: str | None) -> Version | None:
    if value is None:
        return None
    try:
        return Version(bytes.fromhex(value))
    except ValueError:  # InvalidOption is one
        raise click.BadParameter(f"{value!r} is no version: 48 hex digits", context, parameter) from None


def examples(*lines: str) -> str:
    """Return a help text's last paragraph."""
    return "\b\n" + ("Example:" if len(lines) == 1 else "Examples:") + "".join(f"\n  {line}" for line in lines)


store_option = click.option(
    "--store", metavar="NAME", default="default", show_default=True, callback=checked(check_store_name),
    help="The store's name.",
)  # fmt: skip


def bucket_option_of(default: str) -> Callable[[F], F]:
    """Return the option that names a bucket."""
    return click.option(
        "--bucket", metavar="NAME", default=default, show_default=True, callback=checked(check_bucket_name),
        help="The bucket's name.",
    )  # fmt: skip


bucket_option = bucket_option_of(DEFAULT_BUCKET)


def timeout_option_of(default_s: float, text: str) -> Callable[[F], F]:
    """Return an option that says how long to wait. A command that checks it only when it waits has done its part by then."""
    return click.option(
        "--timeout", metavar="SECONDS", type=ABOVE_ZERO, default=default_s, show_default=True,
        callback=checked(check_timeout), help=text,
    )  # fmt: skip


timeout_option = timeout_option_of(DEFAULT_TIMEOUT_S, "How long to wait for an answer, once connected.")
ttl_option = click.option(
    "--ttl",
    metavar="SECONDS",
    type=ABOVE_ZERO,
    callback=checked(check_ttl),
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
if_version_option = click.option(
    "--if-version", metavar="HEX", callback=_version,
    help="Only if this version stands (see 'raykv get --version'). Linearizable buckets only.",
)  # fmt: skip
fence_option = click.option(
    "--fence", metavar="TOKEN", type=click.IntRange(min=1),
    help="Only if the key has seen no later fencing token (see 'raykv lock'). Linearizable buckets only.",
)  # fmt: skip
versioning_option = click.option(
    "--versioning", type=click.Choice(VERSIONINGS),
    help="Of a bucket that has to be created; an existing one must have it.",
)  # fmt: skip
group_option = click.option(
    "--group", metavar="TEXT", callback=checked(check_group),
    help="Of a bucket that has to be created: what stands before the first TEXT of a key decides where it lies, so that the "
    "keys of a group lie together. An existing bucket must have it.",
)  # fmt: skip
key_argument = click.argument("key", callback=checked(encode_key))


def bound_option(name: str, text: str) -> Callable[[F], F]:
    """Return an option that takes a key, or part of one, as a bound of a scan."""
    return click.option(name, metavar="KEY", callback=checked(encode_bound), help=text)

r"""Output for people and for programs.

Keys and values come from anyone who can write to the store. On a terminal, characters that could steer it (escape sequences,
carriage returns, text that runs backwards) are shown as ``\u001b``; a pickled value is shown by its size and never
unpickled, an array or a table by its library and size. ``--json`` is plain ASCII; a value that JSON lacks is an object with
one ``$`` name: ``{"$bytes": base64}``, ``{"$pickled": size}``, ``{"$numpy": size}`` (``$pyarrow``, ``$pandas``),
``{"$float": "nan"}``; a dict with a name that is no text, or that would read as one of these, is
``{"$dict": [[name, value], ...]}``, as ``raykv.portable`` has it: as names, 1 and "1" would be one.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from typing import TYPE_CHECKING, Any

import click

from raykv.client.faces import Pickled, Unread

if TYPE_CHECKING:
    from collections.abc import Callable

TAGS = frozenset({"$bytes", "$pickled", "$numpy", "$pyarrow", "$pandas", "$float", "$dict"})


def escaped(text: str, keep: str = "") -> str:
    r"""Return the text with all unprintable characters except those in ``keep`` as ``\uXXXX``.

    >>> escaped("a\x1b[2Jb")
    'a\\u001b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _code(char) for char in text)


def progress_on(bar: Any) -> Callable[[int, int], None]:
    """Return a ``progress(done, all)`` that moves a click progress bar."""

    def progress(done: int, every: int) -> None:
        bar.length = every
        bar.update(done - bar.pos)

    return progress


def one_line(text: str) -> str:
    """Return a message as one printable line."""
    return escaped(" ".join(text.split()))


def shown_key(key: str | bytes) -> str:
    """Return a key as one line: a str as it is, bytes as Python writes them."""
    return escaped(key) if isinstance(key, str) else repr(key)


def shown(value: Any) -> str:
    """Return a value as one line: a str as it is, bytes as Python writes them, a pickled one by size, else JSON."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, Pickled):
        return f"<pickled, {value.size_bytes} bytes>"
    if isinstance(value, Unread):
        return repr(value)
    if isinstance(value, bytes):
        return repr(value)
    return escaped(json.dumps(plain(value), ensure_ascii=False))


def shown_alone(value: Any) -> str:
    """Return a value that is the only output: as ``shown``, but a str keeps its lines, and all of it off a terminal."""
    if not isinstance(value, str):
        return shown(value)
    return escaped(value, keep="\n\t") if sys.stdout.isatty() else value


def as_json(data: Any, *, indent: int | None = None) -> str:
    """Return JSON in ASCII."""
    return json.dumps(plain(data), indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """Return the value in JSON's types."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Pickled):
        return {"$pickled": value.size_bytes}
    if isinstance(value, Unread):
        return {f"${value.library}": value.size_bytes}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        if all(isinstance(name, str) for name in value) and not (len(value) == 1 and TAGS & value.keys()):
            return {name: plain(item) for name, item in value.items()}
        return {"$dict": [[plain(name), plain(item)] for name, item in value.items()]}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)  # an extension type of msgpack, of which raykv writes none


def show_text(text: str) -> None:
    """Print a table or a report; its control characters are escaped whatever stdout is."""
    click.echo(escaped(text, keep="\n"))


def _code(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"

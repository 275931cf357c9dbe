"""How handles and results show themselves in a notebook: small HTML, escaped, readable on light and dark pages.

Colours of text come from the page; lines and stripes are translucent. Nothing here unpickles a value: a face is a look, and
must not run what others have stored. A face that has to ask the store waits two seconds at most, then the text has to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from raykv.client.codecs import TAG_BYTES, decode_of, encode_value, library_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.records.keys import Key

LOOK_TIMEOUT_S = 2.0
ROWS = 10
MAX_CHARS = 200
"""Of a key, a value or a line: a face stays below 20 KB."""
UP, DOWN, BETWEEN = "#1a7f37", "#d1242f", "#9a6700"
"""Readable on white and on black."""
_PICKLE_TAG = encode_value((), "auto")[:TAG_BYTES]  # a tuple is not plain: this is the tag of pickled payloads
_LINE = "1px solid rgba(128,128,128,.35)"


class Pickled(NamedTuple):
    """Stands for a pickled value that was not unpickled."""

    size_bytes: int

    def __repr__(self) -> str:
        return f"<pickled, {self.size_bytes} bytes>"


@dataclass(frozen=True, repr=False)
class Unread:
    """Stands for a value of numpy, pyarrow or pandas: a look imports no library of that size."""

    library: str
    size_bytes: int

    def __repr__(self) -> str:
        return f"<{self.library}, {self.size_bytes} bytes>"


def decode_shown(key: Key, payload: bytes, _codec: str = "") -> Any:
    """Return the value of a key, ``Pickled`` for a pickled one, ``Unread`` for an array or a table."""
    if payload[:TAG_BYTES] == _PICKLE_TAG:
        return Pickled(len(payload) - TAG_BYTES)
    library = library_of(payload)
    if library is not None:
        return Unread(library, len(payload) - TAG_BYTES)
    return decode_of(key, payload, "msgpack")


def short(value: Any) -> str:
    """Return a value's repr, cut and printable, for HTML."""
    return text_of(repr(value))


def text_of(text: str) -> str:
    """Return text for HTML: cut, printable, escaped."""
    text = text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"
    return escape("".join(char if char.isprintable() else "?" for char in text))


def card(title: str, *parts: str) -> str:
    """Return a titled box. ``title`` and ``parts`` are HTML."""
    return (
        f'<div style="border:{_LINE};border-radius:6px;padding:8px 12px;display:inline-block;max-width:100%;'
        f'overflow-x:auto;font-size:13px"><div style="font-weight:bold">{title}</div>{"".join(parts)}</div>'
    )


def line(text: str) -> str:
    """Return a line of a card, escaped."""
    return f'<div style="opacity:.75">{text_of(text)}</div>'


def rows(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already."""
    head = "".join(f'<th style="text-align:left;padding:2px 10px 2px 0">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr style="border-top:{_LINE}">'
        + "".join(f'<td style="text-align:left;padding:2px 10px 2px 0">{cell}</td>' for cell in row)
        + "</tr>"
        for row in cells
    )
    style = "border-collapse:collapse;margin:4px 0 0"
    return f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def state(text: str) -> str:
    """Return a node's state in its colour: green for up, red for down, brown between."""
    colour = UP if text == "up" else DOWN if text == "down" else BETWEEN
    return f'<span style="color:{colour};font-weight:bold">{escape(text)}</span>'


def chips(words: Sequence[str]) -> str:
    """Return words as small boxes, each."""
    return " ".join(
        f'<span style="border:{_LINE};border-radius:4px;padding:0 5px">{escape(word)}</span>' for word in words
    )

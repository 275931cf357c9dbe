"""JSON Lines: a record a line, ``{"key": ..., "value": ...}``, both as ``tagged`` says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from raykv.config import MAX_PAIR_BYTES, shown
from raykv.errors import InvalidOption
from raykv.portable.tagged import decode_json, encode_json, restored, tagged_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raykv.records.keys import Key

WHOLE = "whole"
MAX_LINE_BYTES = 8 * MAX_PAIR_BYTES
"""A byte takes six characters at the most, as an escape in a text."""


class LinesOut:
    """The end of a file of lines, which is cut to what was noted and then grows."""

    def __init__(self, directory: str, state: dict[str, Any]) -> None:
        """``state``: what ``append`` returned last; empty for a new file."""
        self.path = f"{directory}/{WHOLE}"
        noted = state.get("bytes", 0)
        if state and (not os.path.exists(self.path) or os.path.getsize(self.path) < noted):
            raise InvalidOption(f"{self.path} has less than was noted of it; remove {directory} to begin anew")
        self._file: BinaryIO = open(self.path, "r+b" if state else "wb")  # noqa: SIM115 - closed by ``finish`` or ``close``
        self._file.truncate(noted)
        self._file.seek(0, os.SEEK_END)

    def append(self, keys: Sequence[Key], values: Sequence[Any], tagged: Sequence[Any]) -> dict[str, Any]:
        """Add a chunk of records; return, once it is on disk, what is to be noted."""
        del values
        lines = [
            encode_json({"key": tagged_of(key, key), "value": value}) for key, value in zip(keys, tagged, strict=True)
        ]
        self._file.write(b"\n".join([*lines, b""]))
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self._file.tell()}

    def finish(self) -> str:
        """Return the path of the whole file."""
        self._file.close()
        return self.path

    def close(self) -> None:
        """End without finishing."""
        self._file.close()


class LinesIn:
    """A file of lines, read from a place on."""

    def __init__(self, path: str, state: dict[str, Any]) -> None:
        """``state``: that of the last pair that is not wanted again; empty: from the beginning."""
        self._path = path
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by ``close``
        self.size = os.fstat(self._file.fileno()).st_size
        self._file.seek(state.get("bytes", 0))
        self._line = state.get("lines", 0)

    def chunks(self, rows: int) -> Iterator[tuple[list[tuple[Key, Any]], dict[str, Any], int]]:
        """Yield pairs, at most ``rows`` at a time, with the state behind them and how far that is, of ``size``."""
        while True:
            pairs: list[tuple[Key, Any]] = []
            while len(pairs) < rows and (line := self._file.readline(MAX_LINE_BYTES + 1)):
                self._line += 1
                if len(line) > MAX_LINE_BYTES:
                    raise self._wrong(f"has more than {MAX_LINE_BYTES} bytes")
                if line.strip():
                    pairs.append(self._pair(line))
            if not pairs:
                return
            at = self._file.tell()
            yield pairs, {"bytes": at, "lines": self._line}, at

    def _pair(self, line: bytes) -> tuple[Key, Any]:
        try:
            record = decode_json(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._wrong(f"is no JSON ({error})") from None
        if not isinstance(record, dict) or record.keys() != {"key", "value"}:
            raise self._wrong('is no object with "key" and "value"')
        try:
            key, value = restored(record["key"]), restored(record["value"])
        except (ValueError, RecursionError) as error:
            raise self._wrong(str(error)) from None
        if not isinstance(key, str | bytes):
            raise self._wrong(f"has the key {shown(key)}, which is neither text nor bytes")
        return key, value

    def _wrong(self, what: str) -> InvalidOption:
        return InvalidOption(f"{self._path}, line {self._line}: it {what}; the lines before it are imported")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

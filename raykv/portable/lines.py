"""JSON Lines: a record a line, ``{"key": ..., "value": ...}``, both as ``tagged`` says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO

from raykv.config import MAX_PAIR_BYTES, MIB
from raykv.errors import InvalidOption
from raykv.portable.tagged import decode_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raykv.records.keys import Key

WHOLE = "whole"
MAX_LINE_BYTES = 8 * MAX_PAIR_BYTES
"""A byte takes six characters at the most, as an escape in a text."""
BATCH_BYTES = 16 * MIB
"""A batch ends with the line with which it reaches so many."""


class LinesOut:
    """The end of a file of lines, which is cut to what was noted and then grows."""

    def __init__(self, directory: str, state: dict[str, int]) -> None:
        """``state``: what ``append`` returned last; empty for a new file."""
        self.path = f"{directory}/{WHOLE}"
        noted = state.get("bytes", 0)
        if state and (not os.path.exists(self.path) or os.path.getsize(self.path) < noted):
            raise InvalidOption(f"{self.path} has less than was noted of it; remove {directory} to begin anew")
        self._file: BinaryIO = open(self.path, "r+b" if state else "wb")  # noqa: SIM115 - closed by ``finish`` or ``close``
        self._file.truncate(noted)
        self._file.seek(0, os.SEEK_END)

    def append(self, keys: Sequence[Key], values: Sequence[Any], lines: Sequence[bytes]) -> dict[str, int]:
        """Add a chunk of records; return, once it is on disk, what is to be noted."""
        del keys, values
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

    def __init__(self, path: str, state: dict[str, int]) -> None:
        """``state``: that of the last pair that is not wanted again; empty: from the beginning."""
        self._path = path
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by ``close``
        self.size = os.fstat(self._file.fileno()).st_size
        self._bytes = state.get("bytes", 0)
        self._lines = state.get("lines", 0)
        self._file.seek(self._bytes)

    def chunks(self, rows: int) -> Iterator[tuple[list[tuple[Key, Any]], dict[str, int], int]]:
        """Yield pairs, at most ``rows`` at a time, with the state behind them and how far that is, of ``size``.

        Raises ``InvalidOption`` for a line that is no record, after the pairs before it.
        """
        while True:
            pairs, wrong = self._batch(rows)
            if pairs:
                yield pairs, {"bytes": self._bytes, "lines": self._lines}, self._bytes
            if wrong is not None:
                raise InvalidOption(
                    f"{self._path}, line {self._lines + 1:,}: {wrong}; the lines before it are imported"
                )
            if not pairs:
                return

    def _batch(self, rows: int) -> tuple[list[tuple[Key, Any]], str | None]:
        """Return the next pairs, and what is wrong with the line behind them."""
        pairs: list[tuple[Key, Any]] = []
        end = self._bytes + BATCH_BYTES
        while (
            len(pairs) < rows and (self._bytes < end or not pairs) and (line := self._file.readline(MAX_LINE_BYTES + 1))
        ):
            if len(line) > MAX_LINE_BYTES:
                return pairs, f"it has more than {MAX_LINE_BYTES:,} bytes"
            if line.strip():
                try:
                    pairs.append(decode_record(line))
                except ValueError as error:
                    return pairs, str(error)
            self._bytes += len(line)
            self._lines += 1
        return pairs, None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

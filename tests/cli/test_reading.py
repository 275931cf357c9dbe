from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from raykv.client.codecs import encode_value
from raykv.client.faces import Pickled, Unread, decode_shown
from raykv.errors import CorruptData

if TYPE_CHECKING:
    from pathlib import Path


class MakesDirectory:
    """Unpickling this runs code."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "é", b"\x00", [1, {"a": b"b"}]])
def test_plain_values_are_decoded(value: object) -> None:
    assert decode_shown("k", encode_value(value, "auto")) == value


def test_a_pickled_value_is_not_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    payload = encode_value(MakesDirectory(str(trap)), "auto")
    assert decode_shown("k", payload) == Pickled(len(payload) - 1)
    assert not trap.exists()


@pytest.mark.parametrize(("tag", "library"), [(b"\x05", "numpy"), (b"\x06", "pyarrow"), (b"\x07", "pandas")])
def test_an_array_or_a_table_is_shown_by_its_library_and_size(tag: bytes, library: str) -> None:
    assert decode_shown("k", tag + b"anything") == Unread(library, 8)
    assert repr(Unread(library, 8)) == f"<{library}, 8 bytes>"


@pytest.mark.parametrize("payload", [b"", b"\xff?", b"\x02\xc1", b"\x01\xff"])
def test_what_is_no_payload_is_corrupt(payload: bytes) -> None:
    with pytest.raises(CorruptData):
        decode_shown("k", payload)

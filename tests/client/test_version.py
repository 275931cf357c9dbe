"""Versions: opaque, stored as bytes, equal if they name the same write."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import raykv
from raykv import Version, Versioned

DATA = bytes(range(24))


def test_a_version_is_stored_as_bytes() -> None:
    version = Version(DATA)
    assert bytes(version) == DATA
    assert Version(bytes(version)) == version
    assert eval(repr(version)) == version
    for copied in (pickle.loads(pickle.dumps(version)), copy.deepcopy(version)):
        assert copied == version


def test_versions_compare_by_what_they_name() -> None:
    one, other = Version(DATA), Version(DATA[::-1])
    assert one != other
    assert one != DATA
    assert len({one, other, Version(DATA)}) == 2
    with pytest.raises(TypeError):
        one < other  # type: ignore[operator]  # noqa: B015 - there is no order to rely on


def test_there_is_a_version_of_nothing() -> None:
    assert not Version()
    assert Version(DATA)
    assert Version(b"") == Version()


@pytest.mark.parametrize("data", ["text", DATA[:-1], DATA + b"x", None, 7, bytearray(DATA)])
def test_what_is_no_version_is_refused(data: Any) -> None:
    with pytest.raises(raykv.InvalidOption, match="not the bytes of a version"):
        Version(data)


def test_a_versioned_value_comes_apart() -> None:
    value, version = Versioned("kept", Version(DATA))
    assert (value, version) == ("kept", Version(DATA))

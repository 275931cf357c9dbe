"""Rows as pairs. How a dataset is written is in ``test_on_ray``."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from raykv.data.writing import pairs_of_rows
from raykv.errors import InvalidKey, InvalidOption

WHEN = dt.datetime(2026, 11, 30, 1, 2, 3, 4, tzinfo=dt.UTC)


def test_rows_are_pairs_of_python_s_values() -> None:
    table = pa.table({"id": ["a", "b"], "at": pa.array([WHEN, None], pa.timestamp("ns", "UTC")), "n": [1, 2]})
    pairs = dict(pairs_of_rows(table, "id", None))
    assert pairs == {"a": {"at": WHEN, "n": 1}, "b": {"at": None, "n": 2}}
    assert type(pairs["a"]["at"]) is dt.datetime
    assert dict(pairs_of_rows(table, "id", "n")) == {"a": 1, "b": 2}
    assert dict(pairs_of_rows(table.select(["id"]), "id", None)) == {"a": {}, "b": {}}


@pytest.mark.parametrize(
    ("table", "error", "told"),
    [
        (pa.table({"id": ["a"]}), InvalidOption, "no column 'key'; it has id"),
        (pa.table({"key": [1]}), InvalidKey, "'key' has 1, and a key is a str or bytes"),
        (pa.table({"key": ["a", None]}), InvalidKey, "'key' has None"),
        (pa.table([["a"], [1], [2]], names=["key", "n", "n"]), InvalidOption, "the same name: key, n, n"),
        (pa.table({"key": ["a"], "at": pa.array([1], pa.timestamp("ns"))}), InvalidOption, "'at' is of type timestamp"),
    ],
    ids=repr,
)
def test_what_is_no_pair(table: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        pairs_of_rows(table, "key", None)

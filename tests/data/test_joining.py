"""A ``Lookup`` by itself, on a simulated store. In a dataset it is in ``test_on_ray``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from raykv import data, sim
from raykv.data.writing import column_values
from raykv.errors import InvalidKey, InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def cities() -> Iterator[Any]:
    with sim.start(seed=7, nodes=3, partitions=8) as world:
        cities = world.store.bucket("cities")
        cities.put_many({"a": {"n": 1}, "b": {"n": 2}})
        yield cities


@pytest.fixture(scope="module", params=["one shape", "several"])
def vectors(request: pytest.FixtureRequest) -> Iterator[Any]:
    with sim.start(seed=8, nodes=3, partitions=8) as world:
        vectors = world.store.bucket("vectors")
        more = int(request.param == "several")
        vectors.put_many({key: {"v": np.full(2 + more * at, at), "n": at} for at, key in enumerate("abc")})
        yield vectors


@pytest.mark.parametrize(
    "keys",
    [
        pa.array(["b", None, "x", "a"]),
        pa.array(["b", None, "x", "a"]).dictionary_encode(),
        pa.chunked_array([pa.array(["b", None]).dictionary_encode(), pa.array(["x", "a"]).dictionary_encode()]),
        pa.array(["b", None, "x", "a"], pa.large_string()),
    ],
    ids=["text", "categories", "categories in chunks", "large text"],
)
def test_keys_of_any_form(cities: Any, keys: Any) -> None:
    batch = pa.table({"city": keys})
    assert data.Lookup(cities, on="city")(batch).column("n").to_pylist() == [2, None, None, 1]
    assert data.Lookup(cities, on="city", how="inner")(batch).column("n").to_pylist() == [2, 1]


@pytest.mark.parametrize(
    "keys", [pa.array([], pa.string()), pa.array([], pa.null()), pa.array([None])], ids=["text", "nulls", "a null"]
)
def test_no_keys(cities: Any, keys: Any) -> None:
    joined = data.Lookup(cities, on="city")(pa.table({"city": keys}))
    assert joined.column("n").to_pylist() == [None] * len(keys)
    assert joined.schema.field("n").type == pa.int64()


@pytest.mark.parametrize("keys", [[1], [["a"]], [{"a": 1}]], ids=repr)
def test_what_is_no_key(cities: Any, keys: Any) -> None:
    with pytest.raises(InvalidKey, match="a key is a str or bytes"):
        data.Lookup(cities, on="city")(pa.table({"city": keys}))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"columns": ["name"]}, "no column 'name'.*there are n$"),
        ({"columns": "n"}, "a list of names"),
        ({"columns": []}, "one at least"),
        ({"how": "outer"}, "left"),
        ({"schema": {"n": int}}, r"schema is a pyarrow\.Schema"),
        ({"schema": pa.schema([("n", pa.int64()), ("n", pa.string())])}, "a name of its own"),
    ],
    ids=repr,
)
def test_bad_options(cities: Any, options: Any, told: str) -> None:
    with pytest.raises(InvalidOption, match=told):
        data.Lookup(cities, on="city", **options)


def test_columns_that_are_there(cities: Any) -> None:
    with pytest.raises(InvalidOption, match="has a column 'n' already"):
        data.Lookup(cities, on="city")(pa.table({"city": ["a"], "n": [1]}))
    with pytest.raises(InvalidOption, match="no column 'city'; it has n"):
        data.Lookup(cities, on="city")(pa.table({"n": [1]}))


def test_a_row_without_an_array_is_told(vectors: Any) -> None:
    left = data.Lookup(vectors, on="city")
    for keys, told in ((["z", "a", "b"], "'z'"), (["a", None], "None"), (["z"], "'z'"), ([None], "None")):
        with pytest.raises(
            InvalidOption, match=f"column 'v' has arrays.*key {told} of column 'city' .*inner.*columns="
        ) as caught:
            left(pa.table({"city": pa.array(keys, pa.string())}))
        assert repr(caught.value.details["key"]) == told


def test_a_row_has_the_array_of_its_own_key(vectors: Any) -> None:
    batch = pa.table({"city": ["z", "c", "a", None, "c"]})
    inner = data.Lookup(vectors, on="city", how="inner")(batch)
    assert [array[0] for array in column_values(inner, "v")] == inner.column("n").to_pylist() == [2, 0, 2]
    left = data.Lookup(vectors, on="city")(pa.table({"city": ["c", "a", "c"]}))
    assert [array[0] for array in column_values(left, "v")] == [2, 0, 2]
    assert left.column("v").null_count == 0
    assert data.Lookup(vectors, on="city")(batch.slice(0, 0)).num_rows == 0
    assert data.Lookup(vectors, on="city", columns=["n"])(batch).column("n").to_pylist() == [None, 2, 0, None, 2]

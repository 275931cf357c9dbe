"""The names of the columns wanted, in any form. What is read by them is in ``test_on_ray``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from raykv import data, sim
from raykv.data.bucket import sampled
from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def cities() -> Iterator[Any]:
    with sim.start(seed=7, nodes=3, partitions=8) as world:
        cities = world.store.bucket("cities")
        cities.put_many({"a": {"n": 1, "m": 3, "l": 5}, "b": {"n": 2, "m": 4, "l": 6}})
        yield cities


FORMS: list[Any] = [list, tuple, dict.fromkeys, iter, lambda names: map(str, names), lambda names: (n for n in names)]


@pytest.mark.parametrize("form", FORMS)
def test_the_columns_are_those_of_any_iterable(cities: Any, form: Any) -> None:
    layout = sampled(cities, None, 10, key="key", columns=form(["m", "n"]), schema=None)
    assert [*layout.fields] == ["m", "n"]
    joined = data.Lookup(cities, on="city", columns=form(["m", "n"]))(pa.table({"city": ["b"]}))
    assert joined.to_pylist() == [{"city": "b", "m": 4, "n": 2}]


@pytest.mark.parametrize("columns", ["n", [], iter(()), 5, [1], iter([b"n"]), b"n", object()])
def test_what_is_no_list_of_names_is_refused(cities: Any, columns: Any) -> None:
    with pytest.raises(InvalidOption, match="columns is a list of names"):
        sampled(cities, None, 10, key="key", columns=columns, schema=None)
    with pytest.raises(InvalidOption, match="columns is a list of names"):
        data.Lookup(cities, on="city", columns=columns)


def test_what_the_callers_own_code_raises_is_passed_on(cities: Any) -> None:
    def broken() -> Iterator[str]:
        yield "n"
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        sampled(cities, None, 10, key="key", columns=broken(), schema=None)

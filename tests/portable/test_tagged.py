"""Values as JSON: what comes back is what went in, or nothing went in."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import math
import uuid
import zoneinfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykv.errors import InvalidOption
from raykv.portable.tagged import decode_json, encode_json, restored, tagged, tagged_of


class Colour(enum.IntEnum):
    RED = 1


class Named(dict):
    pass


offsets = st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
times = (
    st.datetimes(timezones=st.none() | st.just(dt.UTC) | offsets).map(lambda when: when.replace(fold=0))
    | st.dates()
    | st.times(timezones=st.none() | st.just(dt.UTC)).map(lambda when: when.replace(fold=0))
    | st.timedeltas()
)
atoms = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.uuids() | times
    | st.decimals() | st.sampled_from(["$bytes", "\ud800", -0.0, 2**64, -(2**63) - 1])
)  # fmt: skip
hashable = st.text() | st.binary() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashable, max_size=4)
        | st.frozensets(hashable, max_size=4)
        | st.dictionaries(hashable | st.sampled_from(["$bytes", "$", "$dict"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def exact(value):
    """Return a text that differs where a value or a type does; sets have no order."""
    kind = type(value)
    if kind in {set, frozenset}:
        return f"{kind.__name__}{sorted(map(exact, value))}"
    if kind in {list, tuple}:
        return f"{kind.__name__}[{', '.join(map(exact, value))}]"
    if kind is dict:
        return f"dict{[(exact(name), exact(item)) for name, item in value.items()]}"
    return f"{kind.__name__} {value!r}"


@given(values)
def test_it_comes_back_as_what_it_was(value):
    encoded = encode_json(tagged(value))
    assert exact(restored(decode_json(encoded))) == exact(value)
    json.loads(encoded)
    assert b"\n" not in encoded


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"name": "Ada", "n": [1, 2.5, None, True]}, '{"name":"Ada","n":[1,2.5,null,true]}'),
        (b"\x00\xff", '{"$bytes":"AP8="}'),
        (math.nan, '{"$float":"nan"}'),
        ((1, "a"), '{"$tuple":[1,"a"]}'),
        ({1: "a"}, '{"$dict":[[1,"a"]]}'),
        ({"$x": 1}, '{"$dict":[["$x",1]]}'),
        (dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC), '{"$datetime":"2026-11-29T12:00:00+00:00"}'),
        (decimal.Decimal("1.10"), '{"$decimal":"1.10"}'),
        (uuid.UUID(int=5), '{"$uuid":"00000000-0000-0000-0000-000000000005"}'),
    ],
    ids=repr,
)
def test_how_it_is_written(value, written):
    assert encode_json(tagged(value)).decode() == written


DEEP: list = []
for _ in range(150):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED, Named(a=1), np.float64(1), np.arange(3), object(), {"a": [object()]}, DEEP, 1 + 2j, bytearray(b"a"),
        dt.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        dt.datetime(2026, 10, 25, 2, 30, tzinfo=dt.UTC, fold=1),
    ],
    ids=lambda value: f"{type(value).__name__}",
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_with_its_key(value):
    with pytest.raises(InvalidOption, match="'user:1'") as caught:
        tagged_of("user:1", value)
    assert caught.value.details["key"] == "user:1"


@pytest.mark.parametrize(
    "text",
    [
        '{"$bytes":"?"}', '{"$bytes":5}', '{"$none":1}', '{"$tuple":5}', '{"$dict":[[1]]}', '{"$datetime":"today"}',
        '{"$int":"x"}', '{"$float":"much"}', '{"$uuid":"1"}', '{"$decimal":"ten"}', '{"$set":[[1]]}', '{"$timedelta":["a"]}',
        '{"$bytes":"AA==","a":1}', '{"$dict":[[{"a":1},1]]}', '{"$text":"/w=="}', '{"$timedelta":[99999999999,0,0]}',
    ],
)  # fmt: skip
def test_a_tag_that_says_nothing_is_an_error(text):
    with pytest.raises(ValueError, match=r"\$"):
        restored(decode_json(text.encode()))

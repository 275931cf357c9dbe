"""An online feature store: features by entity, each with the time of the event that it tells of, read with a maximal age.

The problem. Tasks compute features from events, in parallel, late ones after newer ones; a model asks for the
features of some hundred entities at once, and must not be given those of last week as if they were of today. Here the
bucket's resolver and the writer keep what has the latest *event time*, in whatever order writes arrive, and ``read``
says of every entity how old what it returns is: fresh, stale or missing.

Without raykv. ``lww`` or any plain store (a dict actor, Redis SET) keeps what was *written* last: a late event
overwrites a newer one. With Redis a script on the server compares (EVAL), or features get a TTL, and then stale
and never computed look the same. Ray's object store holds immutable objects that go with their owner: good for a
training set, not for this. A feature platform (Feast and others) brings definitions, history and point-in-time joins,
with its own online store to run.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

sys.path.append(str(Path(__file__).parents[1]))  # this file is run by its own path

from examples import alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import raykv

MOST_AHEAD_S = 60.0
"""How far an event's time may be ahead of the clock: a clock that is wrong must not keep all later events out."""


class Feature(NamedTuple):
    """What is known of an entity. ``age_s``: since its event, at least 0; None where it is missing."""

    state: Literal["fresh", "stale", "missing"]
    values: dict[str, Any] | None
    age_s: float | None


class Stale(Exception):
    """Features are older than they may be, or were never written. ``features``: those."""

    def __init__(self, features: dict[str, Feature]) -> None:
        names = ", ".join(f"{entity} ({feature.state})" for entity, feature in list(features.items())[:10])
        super().__init__(f"{len(features)} without fresh features: {names}")
        self.features = features


def latest_event(rows: list[list[Any]]) -> list[Any]:
    """Return the row of the latest event: the bucket's resolver, for rows that were written at the same time."""
    return max(rows, key=lambda row: row[0])


class Features:
    """A view: features that are computed together. ``bucket``: of vector versioning, with ``latest_event`` as resolver."""

    def __init__(self, bucket: raykv.Bucket[str, list[Any]], view: str, now: Callable[[], float] = time.time) -> None:
        self._bucket, self._view, self._now = bucket, view, now

    def write(self, entity: str, event_time_s: float, values: dict[str, Any]) -> None:
        """Keep the values, unless those of a later event are there. Done twice it is the same. Raises as ``modify``."""
        if event_time_s > self._now() + MOST_AHEAD_S:
            raise ValueError(f"the event of {entity!r} lies {event_time_s - self._now():.0f} s ahead of this clock")
        row = [event_time_s, values]
        self._bucket.modify(f"{self._view}/{entity}", lambda known: latest_event([known, row]) if known else row)

    def read(
        self, entities: Iterable[str], max_age_s: float, stale: Literal["mark", "refuse"] = "mark"
    ) -> dict[str, Feature]:
        """Return the features of all entities, asked for at once. ``stale="refuse"``: raises ``Stale`` unless all are fresh.

        A read that fails raises (``BatchError``): what could not be read is not "missing".
        """
        keys = {f"{self._view}/{entity}": entity for entity in entities}
        now_s = self._now()
        found: dict[str, Feature] = {}
        for key, row in self._bucket.get_many(keys).items():
            if row is None:
                found[keys[key]] = Feature("missing", None, None)
                continue
            age_s = max(0.0, now_s - row[0])
            found[keys[key]] = Feature("fresh" if age_s <= max_age_s else "stale", row[1], age_s)
        not_fresh = {entity: feature for entity, feature in found.items() if feature.state != "fresh"}
        if stale == "refuse" and not_fresh:
            raise Stale(not_fresh)
        return found


def ingest(bucket: raykv.Bucket[str, list[Any]], events: list[tuple[str, float, dict[str, Any]]]) -> int:
    """Write the features of some events; return their number. The demo runs it as a Ray task."""
    features = Features(bucket, "rides")
    for entity, event_time_s, values in events:
        features.write(entity, event_time_s, values)
    return len(events)


def shown(features: Mapping[str, Feature]) -> str:
    """Return a line for each entity."""
    return "\n".join(
        f"  {entity}: {feature.state}"
        + ("" if feature.age_s is None else f", {feature.values}, of {feature.age_s:.0f} s ago")
        for entity, feature in features.items()
    )


def demo(store: raykv.Store) -> None:
    """Write from two tasks at once, one of which has a late event, and read."""
    import ray

    bucket = store.bucket("features", resolver=latest_event)
    now_s = time.time()
    parts: list[list[tuple[str, float, dict[str, Any]]]] = [
        [("ada", now_s - 5, {"rides": 12}), ("grace", now_s - 7200, {"rides": 3})],
        [("ada", now_s - 600, {"rides": 11}), ("edsger", now_s - 30, {"rides": 7})],  # ada's is the late one
    ]
    task = ray.remote(num_cpus=0)(ingest)
    print(f"{sum(ray.get([task.remote(bucket, part) for part in parts], timeout=120))} events written by 2 tasks")
    features, wanted = Features(bucket, "rides"), ["ada", "grace", "edsger", "barbara"]
    print("read with a maximal age of an hour:")
    print(shown(features.read(wanted, max_age_s=3600)))
    try:
        features.read(wanted, max_age_s=3600, stale="refuse")
    except Stale as refused:
        print(f"refused: {refused}")


def main() -> int:
    """Run the demo on a store of its own; return the exit code."""
    return alone(lambda store, _: demo(store))


if __name__ == "__main__":
    sys.exit(main())

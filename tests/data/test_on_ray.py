"""Datasets of Ray Data on a real store: what is written is what is read, whatever dies meanwhile."""

from __future__ import annotations

import datetime as dt
import os
import pickle
import re
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

import raykv
from raykv import data

pytestmark = pytest.mark.ray


@pytest.fixture(autouse=True)
def quiet(ray_cluster: None) -> None:
    """Let Ray Data log to its file only."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def rows_of(dataset: Any) -> list[dict[str, Any]]:
    return sorted(dataset.take_all(), key=lambda row: row["key"])


def test_a_bucket_is_read_and_written_whole(shared_store: raykv.Store) -> None:
    source, target = shared_store.bucket("data source"), shared_store.bucket("data target")
    when = dt.datetime(2026, 11, 29, 12, 30, tzinfo=dt.UTC)
    records = {
        f"k{number:04d}": {
            "n": number, "x": number / 3, "name": f"é{number}", "raw": bytes([number % 256]), "flag": number % 2 == 0,
            "tags": ["a"] * (number % 4), "place": {"lat": 1.5, "at": [number]}, "when": when, "none": None,
            "vector": np.arange(4, dtype=np.float32) + number,
        }
        for number in range(700)
    }  # fmt: skip
    source.put_many(records)
    dataset = data.read(source, parallelism=5)
    assert {name: str(kind) for name, kind in zip(dataset.schema().names, dataset.schema().types, strict=True)} | {
        "key": "string", "n": "int64", "x": "double", "raw": "binary", "flag": "bool", "tags": "list<item: string>",
        "when": "timestamp[us, tz=UTC]",
    } == {name: str(kind) for name, kind in zip(dataset.schema().names, dataset.schema().types, strict=True)}  # fmt: skip
    assert data.write(dataset, target) == data.Written(rows=700)
    copied = dict(target.scan())
    assert copied.keys() == records.keys()
    for key, record in records.items():
        np.testing.assert_array_equal(copied[key].pop("vector"), record.pop("vector"))
        assert copied[key] == record
    some = rows_of(data.read(source, columns=["key", "n"], prefix="k000"))
    assert some == [{"key": f"k000{number}", "n": number} for number in range(10)]
    assert data.read(shared_store.bucket("data nothing")).count() == 0


def test_values_that_are_no_dicts_and_rows_with_a_condition(shared_store: raykv.Store) -> None:
    names = shared_store.bucket("data names", versioning="linearizable")
    dataset = ray.data.from_items([{"id": f"n{number}", "name": f"name {number}"} for number in range(50)])
    names.put("n7", "taken")
    assert data.write(dataset, names, key="id", value="name", if_absent=True) == data.Written(rows=49, skipped=1)
    assert rows_of(data.read(names))[7] == {"key": "n15", "value": "name 15"}
    assert names["n7"] == "taken"
    assert data.write(data.read(names), shared_store.bucket("data names too")).rows == 50
    assert shared_store.bucket("data names too")["n8"] == "name 8"


def test_what_does_not_fit_is_told_with_its_key(shared_store: raykv.Store) -> None:
    bucket = shared_store.bucket("data mixed")
    bucket.put_many({f"k{number:03d}": {"n": number} for number in range(300)})
    bucket.put("k150", {"n": "one hundred and fifty"})
    with pytest.raises(raykv.InvalidOption, match=r"'n' has values of several types.*'k150'"):
        data.read(bucket)
    with pytest.raises(Exception, match="'k150' has a str"):
        data.read(bucket, sample=50).materialize()
    wrong = ray.data.from_items([{"id": "a" * 20, "value": 1}, {"id": "b" * 2000, "value": 2}])
    with pytest.raises(raykv.InvalidKey, match="at most 1024"):
        data.write(wrong, bucket, key="id")
    with pytest.raises(raykv.InvalidOption, match="no column 'key'"):
        data.write(wrong, bucket)
    with pytest.raises(raykv.InvalidOption, match="linearizable"):
        data.write(wrong, bucket, key="id", if_absent=True)
    with pytest.raises(raykv.InvalidOption, match=r"takes a ray\.data\.Dataset"):
        data.write([{"key": "a"}], bucket)  # type: ignore[arg-type]
    with pytest.raises(raykv.InvalidOption, match="concurrency"):
        data.write(wrong, bucket, key="id", concurrency=0)
    with pytest.raises(raykv.InvalidOption, match="key is the name of a column"):
        data.read(bucket, key=5)  # type: ignore[arg-type]
    with pytest.raises(raykv.InvalidOption, match="awaitable bucket"):
        data.read(bucket.aio)


def test_columns_of_the_store_beside_those_of_a_batch(shared_store: raykv.Store) -> None:
    cities = shared_store.bucket("data cities")
    cities.put_many({f"c{number}": {"name": f"City {number}", "people": number * 1000} for number in range(20)})
    visits = ray.data.from_items([{"city": f"c{number % 25}", "n": number} for number in range(100)])
    joined = visits.map_batches(data.Lookup(cities, on="city", prefix="city_"), batch_size=30).take_all()
    assert len(joined) == 100
    for row in joined:
        number = int(row["city"][1:])
        known = (
            {"city_name": f"City {number}", "city_people": number * 1000}
            if number < 20
            else dict.fromkeys(["city_name", "city_people"])
        )
        assert row == {"city": row["city"], "n": row["n"], **known}
    inner = visits.map_batches(
        data.Lookup, fn_constructor_args=(cities, "city"), fn_constructor_kwargs={"how": "inner", "columns": ["people"]},
        concurrency=1,
    )  # fmt: skip
    assert sorted(row["n"] for row in inner.take_all()) == [n for n in range(100) if n % 25 < 20]


def test_splits_travel_to_tasks(shared_store: raykv.Store) -> None:
    bucket = shared_store.bucket("data splits")
    pairs = {f"k{number}": number for number in range(500)}
    bucket.put_many(pairs)
    splits = bucket.splits(4)
    there = ray.remote(num_cpus=0)(lambda split: [*split])
    found = [pair for part in ray.get([there.remote(split) for split in splits]) for pair in part]
    assert (len(found), dict(found)) == (500, pairs)
    again = pickle.loads(pickle.dumps(splits[0]))
    assert (again.partitions, dict(again)) == (splits[0].partitions, dict(splits[0]))


def test_the_readme_s_example_runs(shared_store: raykv.Store, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shared_store.bucket("cities").put_many({
        "c1": {"name": "Berlin", "population": 3_600_000, "code": "DE"},
        "c2": {"name": "Andorra la Vella", "population": 20_430, "code": "AD"},
    })  # fmt: skip
    names: dict[str, Any] = {"store": shared_store, "visits": ray.data.from_items([{"city": "c2"}, {"city": "c3"}])}
    exec(block, names)
    assert "Written(rows=1, skipped=0, retries=0)" in capsys.readouterr().out
    assert [shared_store.bucket("big").get(key) for key in ("c1", "c2")] == ["Berlin", None]
    assert [row["name"] for row in names["visits"].take_all()] == ["Andorra la Vella", None]


def test_each_record_once_while_storage_processes_are_killed(start_store: Any) -> None:
    store = start_store(nodes=3, durability="interval")
    records = {f"k{number:05d}": {"n": number, "text": "x" * 50} for number in range(6000)}
    table = pa.table({
        "key": [*records], "n": [each["n"] for each in records.values()], "text": ["x" * 50] * len(records),
    })  # fmt: skip
    bucket = store.bucket("killed")
    over = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        beside = raykv.connect(store.store_name)
        while True:
            up = [node["pid"] for node in beside.status(timeout=60)["nodes"] if node["state"] == "up"]
            if len(up) == 3:  # one at a time
                os.kill(up[len(killed) % 3], signal.SIGKILL)
                killed.append(up[len(killed) % 3])
            if over.wait(1.5):
                beside.close()
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        written = data.write(ray.data.from_arrow(table).repartition(6), bucket, batch=300)
        assert (written.rows, written.skipped) == (6000, 0)
        rows = data.read(bucket, parallelism=6).take_all()
    finally:
        over.set()
        killer.join()
    assert killed
    assert len(rows) == 6000
    assert {row.pop("key"): row for row in rows} == records

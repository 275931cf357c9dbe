"""The load of a node, counted."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from raykv.protocol import frames as f
from raykv.records.keys import encode_key, storage_prefix
from raykv.replica.load import BUSY, MAX_HISTOGRAMS, SAMPLED, SAMPLED_WHEN_BUSY, WINDOW_S, LoadMeter, SpaceSaving
from raykv.ring import partition_of_key


def test_a_window_is_reported_once_it_is_over() -> None:
    meter = LoadMeter(lambda _, key: partition_of_key(key, 8), 0.0)
    for step in range(100):
        meter.note(f.Read(1, [encode_key("a")]), 0.001, step / 10)
    assert meter.figures(9.95) == {}
    figures = meter.figures(WINDOW_S)
    assert figures["ops_per_s"] == 10.0
    assert 1.0 <= figures["p99_ms"] <= 1.2
    assert meter.figures(15.0) == figures
    assert meter.figures(2 * WINDOW_S)["ops_per_s"] == 0.0, "nobody asked for anything since"


def test_what_counts() -> None:
    meter = LoadMeter(lambda _, key: partition_of_key(key, 8), 0.0)
    keys = [encode_key(f"k{number}") for number in range(5)]
    meter.note(f.Read(1, keys), 0.001, 1.0)
    meter.note(f.Write(1, [(key, b"") for key in keys]), 0.001, 1.0)
    meter.note(f.ReserveDots(1, keys, [b""] * 5), 0.001, 1.0)
    meter.note(f.Scan(1, b"", b"z", 10, False, False, [1]), 0.001, 1.0)
    assert meter.figures(10.0)["ops_per_s"] == 1.1


def test_a_change_counts_at_its_leader_and_nowhere_else() -> None:
    meter = LoadMeter(lambda _, key: partition_of_key(key, 8), 0.0)
    keys = [encode_key(f"k{number}") for number in range(5)]
    meter.note(f.Apply(1, [f.Change(key, f.PUT, b"v", bytes(8), 1) for key in keys], 7, 1.0), 0.001, 1.0)
    meter.note(f.ReadHeads(1, keys), 0.001, 1.0)
    meter.note(f.Look(1, 3, "n1", [(5, bytes(16), keys)]), 0.001, 1.0)
    meter.note(f.Accept(3, "n1", 9, [(5, bytes(16), [(1, key, b"") for key in keys])]), 0.001, 1.0)
    meter.note(f.Promise(5, 3, bytes(16), "n1"), 0.001, 1.0)
    assert meter.figures(10.0)["ops_per_s"] == 1.0


def test_the_slowest_of_a_hundred() -> None:
    meter = LoadMeter(lambda _, key: partition_of_key(key, 8), 0.0)
    for number in range(1000):
        meter.note(f.Read(1, [b"\x02a"]), 0.5 if number % 50 == 0 else 0.0001, 1.0)
    assert 500 <= meter.figures(10.0)["p99_ms"] <= 600


def test_a_hot_key_and_its_partition_are_found_in_singles_and_in_batches() -> None:
    rng, hot = random.Random(3), encode_key("hot")
    for batch in (1, 10, 14):
        meter = LoadMeter(lambda _, key: partition_of_key(key, 64), 0.0)
        for _ in range(7000 // batch):
            keys = [hot if rng.random() < 0.3 else encode_key(f"k{rng.randrange(5000)}") for _ in range(batch)]
            meter.note(f.Read(9, keys), 0.001, 1.0)
        figures = meter.figures(10.0)
        partition = partition_of_key(hot, 64)
        assert figures["partitions"][0][0] == partition
        key, drawn = figures["keys"][0]
        assert key == storage_prefix(partition, 9) + hot
        assert 0.2 * 700 < drawn < 0.45 * 700


def test_space_saving_keeps_every_frequent_key_and_counts_none_too_low() -> None:
    rng = random.Random(7)
    sketch, exact = SpaceSaving(20), Counter[bytes]()
    for _ in range(5000):
        key = str(min(int(rng.paretovariate(0.7)), 10_000)).encode()
        sketch.add(key)
        exact[key] += 1
    figures = dict(sketch.most(20))
    assert len(figures) == 20
    for key, count in exact.items():
        assert count <= 5000 / 20 or key in figures
        assert figures.get(key, count) >= count
    assert SAMPLED % 2


def test_after_a_busy_window_fewer_are_looked_at_and_the_figures_stay():
    meter, keys = (
        LoadMeter(lambda _, key: partition_of_key(key, 8), 0.0),
        [b"\x02k%d" % (number % 40) for number in range(BUSY)],
    )
    for window in range(3):
        meter.note(f.Read(1, keys), 0.001, window * WINDOW_S + 1)
        figures = meter.figures((window + 1) * WINDOW_S)
        assert figures["ops_per_s"] == BUSY / WINDOW_S
        assert sum(seen for _, seen in figures["partitions"]) <= 1.01 * BUSY / WINDOW_S
        for _, seen in figures["keys"]:
            assert 0.8 < seen / (BUSY / WINDOW_S / 40) < 1.3
        assert meter._every == SAMPLED_WHEN_BUSY
    meter.note(f.Read(1, keys[:10]), 0.001, 4 * WINDOW_S + 1)
    meter.figures(5 * WINDOW_S)
    assert meter._every == SAMPLED


def test_every_seventh_item_is_looked_at_however_they_come():
    rng = random.Random(1)
    meter, seen = LoadMeter(lambda _, key: partition_of_key(key, 8), 0.0), []
    meter._count = lambda _, key: seen.append(int(key))
    number = 0
    while number < 2000:
        keys = [b"%d" % at for at in range(number, number + rng.choice((1, 1, 2, 6, 7, 8, 30)))]
        number += len(keys)
        meter.note(f.Read(1, keys) if rng.random() < 0.5 else f.Write(1, [(key, b"") for key in keys]), 0.001, 1.0)
    assert seen == list(range(6, number, 7))


def test_latencies_are_kept_by_kind_and_bucket_since_the_start():
    meter = LoadMeter(lambda bucket_id, key: 0, 0.0)
    key = encode_key("k")
    for number in range(20):
        meter.note(f.Read(1, [key]), 0.0003, float(number))
    meter.note(f.Read(2, [key]), 0.003, 30.0)
    meter.note(f.Write(1, [(key, b"r")]), 99.0, 60.0)
    found = {(each["kind"], each["bucket_id"]): each for each in meter.latencies()}
    assert {*found} == {("Read", 1), ("Read", 2), ("Write", 1)}
    assert dict(map(tuple, found["Read", 1]["counts"]))[0.0005] == 20
    assert found["Read", 1]["sum_s"] == pytest.approx(0.006)
    assert found["Write", 1]["beyond"] == 1


def test_more_buckets_than_are_kept_apart_take_no_more_room():
    meter = LoadMeter(lambda bucket_id, key: 0, 0.0)
    for bucket_id in range(MAX_HISTOGRAMS + 50):
        meter.note(f.Read(bucket_id, [b"\x02k"]), 0.001, 0.0)
    assert len(meter.latencies()) == MAX_HISTOGRAMS

import random

from raykv.storage.memtable import ENTRY_OVERHEAD_BYTES, Found, Memtable


def collect(memtable, start=b"", end=None, reverse=False):
    out = []
    for keys, found in memtable.batches(start, end, reverse=reverse):
        assert keys == sorted(keys)
        pairs = [(key, item.record) for key, item in zip(keys, found, strict=True)]
        out += reversed(pairs) if reverse else pairs
    return out


def test_against_a_dict():
    rng = random.Random(5)
    memtable, model = Memtable(1), {}
    for step in range(3000):
        key, record = b"%04d" % rng.randrange(1500), rng.randbytes(rng.randrange(30))
        memtable.put(key, record, step + 1)
        model[key] = record
        if step % 500 == 17:
            memtable.check()
            low, high = sorted(b"%04d" % rng.randrange(1600) for _ in range(2))
            for end in (high, None):
                want = sorted((k, v) for k, v in model.items() if k >= low and (end is None or k < end))
                assert collect(memtable, low, end) == want
                assert collect(memtable, low, end, reverse=True) == want[::-1]
    memtable.check()
    flat = [pair for batch in memtable.sorted_batches() for pair in zip(*batch, strict=True)]
    assert flat == sorted(model.items())


def test_position_is_that_of_the_newest():
    memtable = Memtable(1)
    memtable.put(b"k", b"old", 3)
    memtable.put(b"k", b"newer", 9)
    assert memtable.entries[b"k"] == Found(b"newer", 9)
    assert memtable.bytes == len(b"k" + b"newer") + ENTRY_OVERHEAD_BYTES


def test_scan_goes_on_while_keys_come_in():
    for reverse in (False, True):
        memtable = Memtable(1)
        for number in range(0, 2000, 2):
            memtable.put(b"%05d" % number, b"", 1)
        seen = []
        for keys, _ in memtable.batches(b"", None, reverse=reverse):
            seen += reversed(keys) if reverse else keys
            for number in range(1, 2000, 400):
                memtable.put(b"%05d" % (number + len(seen)), b"", 2)
        assert seen == sorted(set(seen), reverse=reverse)
        assert {b"%05d" % number for number in range(0, 2000, 2)} <= set(seen)

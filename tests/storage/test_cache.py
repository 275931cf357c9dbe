from raykv.storage.cache import RECORD_OVERHEAD_BYTES, BlockCache, RecordCache, first_name
from raykv.storage.memtable import Found

BLOCK = ([b"k"], [b"r"])


def test_hit_and_miss_are_counted():
    cache = BlockCache(10_000)
    assert cache.get(1) is None
    cache.put(1, BLOCK, 100)
    assert cache.get(1) is BLOCK
    assert (cache.hits, cache.misses) == (1, 1)


def test_the_least_recently_used_goes_first():
    cache = BlockCache(3 * 400)
    for name in (1, 2, 3):
        cache.put(name, BLOCK, 100)  # 382 bytes each
    cache.get(1)
    cache.put(4, BLOCK, 100)
    assert [name for name in (1, 2, 3, 4) if cache.get(name)] == [1, 3, 4]


def test_bytes_are_bounded_and_accounted():
    cache = BlockCache(5_000)
    for name in range(100):
        cache.put(name % 30, BLOCK, 10 * name)
        assert 0 <= cache.used_bytes <= 5_000
    for table in (0, 1):
        cache.discard_table(table, 100)
    assert (len(cache), cache.used_bytes) == (0, 0)


def test_too_big_a_block_and_no_capacity():
    cache = BlockCache(0)
    cache.put(1, BLOCK, 1)
    assert len(cache) == 0
    cache = BlockCache(1000)
    cache.put(1, BLOCK, 100)
    cache.put(2, BLOCK, 5000)
    assert cache.get(1) is BLOCK, "a block that cannot fit pushes nothing out"


def test_a_table_is_forgotten_alone():
    cache = BlockCache(10_000)
    cache.put(first_name(1), BLOCK, 1)
    cache.put(first_name(2), BLOCK, 1)
    cache.discard_table(1, 5)
    assert cache.get(first_name(1)) is None
    assert cache.get(first_name(2)) is BLOCK


def test_a_record_is_good_for_as_long_as_no_flush_has_ended():
    cache, found = RecordCache(10_000), Found(b"1", 0)
    cache.put(b"k", found, 3)
    assert cache.get(b"k", 3) is found
    assert cache.get(b"k", 4) is None
    newer = Found(b"2", 0)
    cache.put(b"k", newer, 4)
    assert cache.get(b"k", 4) is newer
    assert cache.used_bytes == 2 + RECORD_OVERHEAD_BYTES


def test_records_are_bounded_and_accounted_and_the_oldest_go_first():
    each = 2 + 10 + RECORD_OVERHEAD_BYTES
    cache = RecordCache(3 * each)
    for number in range(50):
        cache.put(b"%02d" % number, Found(bytes(10), 0), 0)
        assert cache.used_bytes == min(number + 1, 3) * each
    assert [number for number in range(50) if cache.get(b"%02d" % number, 0)] == [47, 48, 49]
    cache.put(b"xx", Found(bytes(3 * each), 0), 0)
    assert cache.get(b"49", 0), "one that cannot fit pushes nothing out"
    assert cache.get(b"xx", 0) is None

from raykv.storage.cache import BlockCache, first_name

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

import random

import pytest

from raykv.config import NodeConfig
from raykv.errors import CorruptData
from raykv.storage.cache import BlockCache
from raykv.storage.damage import CorruptBlock
from raykv.storage.sstable import FOOTER, MAGIC, VERSION, Table, table_name
from raykv.storage.sstable_writer import TableWriter, _separator

CONFIG = NodeConfig(block_bytes=256)
PAIRS = [(b"key%05d" % (2 * number), b"record %d " % number * (number % 7)) for number in range(1000)]


@pytest.fixture
def folder(disk):
    disk.make_directories("/d")
    return disk


def write(disk, pairs=PAIRS, number=7, config=CONFIG):
    writer = TableWriter(disk, "/d", number, config)
    for at in range(0, len(pairs), 33):
        part = pairs[at : at + 33]
        writer.add([key for key, _ in part], [record for _, record in part])
    return writer.finish()


def flat(batches):
    return [pair for batch in batches for pair in zip(*batch, strict=True)]


@pytest.mark.parametrize("compression", ["lz4", "none", "zstd"])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_everything_written_is_read(folder, compression, cache_bytes):
    if compression == "zstd":
        pytest.importorskip("zstandard")
    info = write(folder, config=NodeConfig(block_bytes=256, compression=compression))
    assert (info.count, info.smallest, info.largest) == (1000, PAIRS[0][0], PAIRS[-1][0])
    assert info.size_bytes == folder.size("/d/00000007.sst") == folder.synced_size("/d/00000007.sst")
    table = Table(folder, "/d", info, BlockCache(cache_bytes))
    for key, record in PAIRS:
        assert table.find(key) == record
        assert table.find(key + b"x") is None
        assert table.filter.might_contain(key)
    assert table.find(b"a") is None
    assert table.find(b"z") is None
    assert flat(table.stream(pytest.fail)) == PAIRS


def test_ranges(folder):
    table = Table(folder, "/d", write(folder), BlockCache(1 << 20))
    rng = random.Random(2)
    bounds = [b"", b"key", b"key00000", b"zzz", *[b"key%05d" % rng.randrange(2100) for _ in range(40)]]
    for start in bounds:
        for end in [None, *bounds]:
            want = [(key, record) for key, record in PAIRS if key >= start and (end is None or key < end)]
            assert flat(table.batches(start, end, reverse=False)) == want
            back = list(table.batches(start, end, reverse=True))
            assert [pair for batch in back for pair in reversed(flat([batch]))] == want[::-1]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_scan_reads_ahead(folder, cache_bytes, monkeypatch):
    """Each read from the file fetches more than the one before; what is in the cache is not read again."""
    table = Table(folder, "/d", write(folder), BlockCache(cache_bytes))
    reads = count_reads(folder, monkeypatch)
    assert flat(table.batches(b"", None, reverse=False)) == PAIRS
    forwards, blocks = len(reads), table.blocks
    assert 6 * forwards < blocks
    assert sum(length for _, length in reads) == table._offsets[-1] - table._offsets[0], "every byte once"
    back = [pair for batch in table.batches(b"", None, reverse=True) for pair in reversed(flat([batch]))]
    assert back == PAIRS[::-1]
    assert len(reads) < 3 * forwards
    reads.clear()
    assert flat(table.batches(b"", PAIRS[10][0], reverse=False)) == PAIRS[:10]
    assert bool(reads) != bool(cache_bytes)


def test_a_long_scan_leaves_the_cache_to_others(folder):
    cache = BlockCache(1 << 20)
    table = Table(folder, "/d", write(folder), cache)
    for _ in table.batches(b"", None, reverse=False):
        pass
    assert 0 < len(cache) < 70 < table.blocks


def test_reading_ahead_costs_a_scan_nothing_that_is_intact(folder):
    """A corrupt block among those read at once is raised when the scan comes to it, not before."""
    info = write(folder)
    table = Table(folder, "/d", info, BlockCache(0))
    for number in (0, 1, 5, 60, table.blocks - 1):
        offset = table._offsets[number] + 12
        folder.flip_bit("/d/00000007.sst", offset)
        intact = [number, table.blocks - number - 1]
        for reverse, before in ((False, intact[0]), (True, intact[1])):
            seen, damage = scan_to_damage(table, reverse)
            assert damage.offset == table._offsets[number]
            start, end = damage.start, damage.end
            expected = [key for key, _ in PAIRS if (key >= end if reverse else key < start)]
            assert seen == expected
            assert bool(seen) == bool(before)
        folder.flip_bit("/d/00000007.sst", offset)


def scan_to_damage(table, reverse):
    seen = []
    try:
        for keys, _ in table.batches(b"", None, reverse=reverse):
            seen = [*keys, *seen] if reverse else [*seen, *keys]
    except CorruptBlock as corrupt:
        return seen, corrupt.damage
    raise AssertionError("the corruption was passed over")


def test_a_read_ahead_that_fails_falls_back_to_one_block(folder):
    table = Table(folder, "/d", write(folder), BlockCache(0))
    batches = table.batches(b"", None, reverse=False)
    first = next(batches)
    folder.fail("pread")
    assert flat([first, *batches]) == PAIRS


def count_reads(disk, monkeypatch):
    reads = []
    kind = type(disk.open_read("/d/00000007.sst"))
    pread = kind.pread

    def counting(self, offset, length):
        reads.append((offset, length))
        return pread(self, offset, length)

    monkeypatch.setattr(kind, "pread", counting)
    return reads


def test_an_absent_key_costs_a_seek_only_where_the_filter_errs(folder, monkeypatch):
    table = Table(folder, "/d", write(folder), BlockCache(0))
    reads = count_reads(folder, monkeypatch)
    absent = [key + b"x" for key, _ in PAIRS]
    passed = [key for key in absent if table.filter.might_contain(key)]
    assert len(passed) < len(absent) / 20
    assert [table.find(key) for key in passed] == [None] * len(passed)
    assert len(reads) == len(passed), "and one seek then"


def test_large_and_empty_records_and_odd_keys(folder):
    pairs = [(b"", b""), (b"\x00", b"x" * 1_100_000), (b"\xff" * 1100, b"")]
    table = Table(folder, "/d", write(folder, pairs), BlockCache(1 << 20))
    assert [table.find(key) for key, _ in pairs] == [record for _, record in pairs]


@pytest.mark.parametrize("bit", range(0, 8, 3))
def test_a_flipped_bit_anywhere_is_never_wrong_data(folder, bit):
    info = write(folder, PAIRS[:150])
    rng = random.Random(bit)
    path = f"/d/{table_name(7)}"
    ranges = []
    for offset in [*range(12, info.size_bytes, 41), *rng.sample(range(12, info.size_bytes), 50)]:
        folder.flip_bit(path, offset, bit)
        try:
            table = Table(folder, "/d", info, BlockCache(0))
        except CorruptBlock as corrupt:
            ranges.append((corrupt.damage.start, info.smallest, corrupt.damage.end))
        else:
            for key, record in PAIRS[:150]:
                try:
                    assert table.find(key) == record
                except CorruptBlock as corrupt:
                    ranges.append((corrupt.damage.start, key, corrupt.damage.end))
            found = []
            streamed = flat(table.stream(found.append))
            lost = [pair for pair in PAIRS[:150] if pair not in streamed]
            assert len(found) == (not table.filter_lost)
            assert bool(lost) != bool(table.filter_lost), "a corrupt filter costs nothing"
            assert all(found[0].damage.start <= key < found[0].damage.end for key, _ in lost)
            table.release()
        folder.flip_bit(path, offset, bit)
    assert ranges
    assert all(start <= key < end for start, key, end in ranges)


def test_a_read_error_costs_one_block_only(folder):
    table = Table(folder, "/d", write(folder), BlockCache(0))
    folder.fail("pread", after=0)
    folder.fail("pread", after=0)
    found = []
    streamed = flat(table.stream(found.append))
    assert len(found) == 1
    assert {key for key, _ in PAIRS} - {key for key, _ in streamed} == {
        key for key, _ in PAIRS if found[0].damage.start <= key < found[0].damage.end
    }
    folder.fail("pread")
    with pytest.raises(CorruptBlock):
        table.find(PAIRS[0][0])
    assert table.find(PAIRS[0][0]) == PAIRS[0][1], "only a read that failed is a failure"


def test_a_skipped_block_reads_as_empty(folder):
    table = Table(folder, "/d", write(folder), BlockCache(0))
    folder.flip_bit("/d/00000007.sst", 20)
    with pytest.raises(CorruptBlock) as caught:
        table.find(PAIRS[0][0])
    table.skipped = frozenset({caught.value.damage.offset})
    assert table.find(PAIRS[0][0]) is None
    assert table.find(PAIRS[-1][0]) == PAIRS[-1][1]
    assert len(flat(table.stream(pytest.fail))) < len(PAIRS)


def test_another_table_under_this_name_is_refused(folder):
    info = write(folder)
    write(folder, number=8)
    folder.unlink("/d/00000007.sst")
    folder.rename("/d/00000008.sst", "/d/00000007.sst")
    with pytest.raises(CorruptBlock, match="another table"):
        Table(folder, "/d", info, BlockCache(0))


def test_a_format_of_the_future_is_refused_not_called_corruption(folder):
    from crc32c import crc32c

    info = write(folder)
    data = bytearray(folder.read_file("/d/00000007.sst", 1 << 20))
    offset, length, *_ = FOOTER.unpack_from(data, len(data) - FOOTER.size)
    checksum = crc32c(FOOTER.pack(offset, length, VERSION + 1, 0, MAGIC))
    FOOTER.pack_into(data, len(data) - FOOTER.size, offset, length, VERSION + 1, checksum, MAGIC)
    folder.unlink("/d/00000007.sst")
    folder.create("/d/00000007.sst").append(bytes(data))
    with pytest.raises(CorruptData, match=f"format {VERSION + 1}"):
        Table(folder, "/d", info, BlockCache(0))


def test_missing_and_cut_files_are_corruption(folder):
    info = write(folder)
    folder.truncate("/d/00000007.sst", info.size_bytes - 1)
    with pytest.raises(CorruptBlock):
        Table(folder, "/d", info, BlockCache(0))
    folder.unlink("/d/00000007.sst")
    with pytest.raises(CorruptBlock, match="cannot be opened"):
        Table(folder, "/d", info, BlockCache(0))


@pytest.mark.parametrize(
    ("before", "first", "expected"),
    [
        (b"abc", b"abd", b"abd"),  # codespell:ignore
        (b"abc", b"b", b"b"),
        (b"abc", b"abcde", b"abcd"),
        (b"", b"xyz", b"x"),
        (b"a", b"bcd", b"b"),
    ],
)
def test_separators(before, first, expected):
    assert _separator(before, first) == expected
    assert before < expected <= first


def test_writer_wants_ascending_keys(folder):
    writer = TableWriter(folder, "/d", 1, CONFIG)
    writer.add([b"b"], [b""])
    with pytest.raises(ValueError, match="ascend"):
        writer.add([b"a"], [b""])


def test_the_file_closes_with_its_last_reader(folder):
    table = Table(folder, "/d", write(folder), BlockCache(0))
    table.retain()
    table.release()
    assert table.find(PAIRS[3][0]) == PAIRS[3][1]
    table.release()
    with pytest.raises(CorruptBlock):
        table.find(PAIRS[3][0])

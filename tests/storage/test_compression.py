"""zstd and its dictionaries; lz4 and none are in every other test of tables."""

import random
import sys

import pytest

from raykv.config import NodeConfig
from raykv.errors import RaykvError
from raykv.storage import compression
from raykv.storage.cache import BlockCache
from raykv.storage.compression import LZ4, PLAIN, ZSTD, ZSTD_MOST, Packer, Unpacker, check_available, train
from raykv.storage.damage import CompressionMissing, CorruptBlock
from raykv.storage.sstable import Table
from raykv.storage.sstable_writer import TableWriter

WORDS = [b"population", b"latitude", b"longitude", b"Europe/Amsterdam", b"countrycode", b"alternatenames"]


def records(count, seed=1):
    """Records of some 300 bytes that have much in common with one another, and little within themselves."""
    rng = random.Random(seed)
    return [
        (b"city:%06d" % number, b"|".join(b"%s=%s" % (word, rng.randbytes(8).hex().encode()) for word in WORDS) * 2)
        for number in range(count)
    ]


def write(disk, pairs, **settings):
    disk.make_directories("/d")
    writer = TableWriter(disk, "/d", 7, NodeConfig(**settings))
    for at in range(0, len(pairs), 1000):
        part = pairs[at : at + 1000]
        writer.add([key for key, _ in part], [record for _, record in part])
    return writer.finish()


def read(disk, info):
    table = Table(disk, "/d", info, BlockCache(0))
    return [pair for batch in table.stream(pytest.fail) for pair in zip(*batch, strict=True)]


class TestWithZstd:
    @pytest.fixture(autouse=True)
    def zstd(self):
        return pytest.importorskip("zstandard")

    def test_what_is_packed_is_unpacked(self):
        samples = [record for _, record in records(2000)]
        for dictionary in (b"", train(samples)):
            packer, unpacker = Packer("zstd", dictionary), Unpacker("t", dictionary)
            for payload in (b"", b"x", *samples[:50], b"".join(samples)):
                kind, data = packer.pack(payload)
                assert unpacker.unpack(kind, data, len(payload)) == payload

    def test_a_dictionary_pays_on_records_of_300_bytes(self, disk):
        pairs = records(4000)
        sizes = {}
        for kind in ("none", "lz4", "zstd"):
            info = write(disk, pairs, compression=kind, block_bytes=1024)
            assert read(disk, info) == pairs
            sizes[kind] = info.size_bytes
            table = Table(disk, "/d", info, BlockCache(0))
            assert bool(table._dictionary) == (kind == "zstd")
            assert [table.find(key) for key, _ in pairs[::97]] == [record for _, record in pairs[::97]]
            disk.unlink("/d/00000007.sst")
        assert sizes["zstd"] < 0.85 * sizes["lz4"] < 0.85 * sizes["none"]

    def test_a_small_table_has_none_and_noise_has_none(self, disk):
        assert train([record for _, record in records(100)]) == b""
        rng = random.Random(3)
        assert train([rng.randbytes(300) for _ in range(3000)]) == b""
        assert train([b"the same"] * 100_000) == b""
        pairs = records(50)
        assert read(disk, write(disk, pairs, compression="zstd")) == pairs

    def test_tables_of_all_kinds_lie_in_one_store(self, drive, disk):
        model = {}
        for kind in ("none", "zstd", "lz4", "zstd"):
            engine = drive.open(disk, compression=kind, runs_per_level=8)
            model |= drive.fill(engine, 300, prefix=kind, size=300)
            drive.sync(engine)
            assert drive.content(engine) == model
            engine.close()
        engine = drive.open(disk, compression="none")
        assert drive.content(engine) == model
        drive.flush(engine)
        assert drive.content(engine) == model

    def test_what_zstd_would_shrink_beyond_the_bound_is_left_to_lz4(self):
        kind, data = Packer("zstd").pack(bytes(1 << 22))
        assert kind == LZ4
        assert Packer("zstd").pack(bytes(4096))[0] == ZSTD
        assert Packer("zstd").pack(b"xy")[0] == PLAIN
        assert Unpacker().unpack(kind, data, 1 << 22) == bytes(1 << 22)

    def test_a_claimed_size_is_bounded_before_memory_is_taken(self, zstd):
        """By what the caller says it is, not by what the frame says of itself."""
        payload = bytes(1 << 20)
        unpacker = Unpacker("t", b"")
        frame = zstd.ZstdCompressor(write_content_size=False).compress(payload)
        with pytest.raises(ValueError, match="claims 1048576"):
            unpacker.unpack(ZSTD, frame, len(payload))
        padded = zstd.ZstdCompressor(write_content_size=False).compress(payload + random.Random(1).randbytes(2000))
        for length in (0, 1, 1000, len(payload), len(payload) + 1999, len(payload) + 2001):
            with pytest.raises(ValueError, match=r"."):
                unpacker.unpack(ZSTD, padded, length)
        assert len(padded) * ZSTD_MOST > len(payload)
        assert unpacker.unpack(ZSTD, padded, len(payload) + 2000)[:1] == b"\0"
        with pytest.raises(ValueError, match="size of its own"):
            unpacker.unpack(ZSTD, zstd.ZstdCompressor().compress(payload), 100)
        with pytest.raises(ValueError, match="zstd"):
            Unpacker().unpack(ZSTD, padded, 100)

    @pytest.mark.parametrize("dictionary", [b"", b"\0", b"\x37\xa4\x30\xec" + b"\xff" * 100, b"any bytes at all " * 50])
    def test_a_dictionary_that_is_none_costs_values_never_wrong_ones(self, dictionary):
        made = train([record for _, record in records(2000)])
        payload = records(1)[0][1] * 4
        kind, data = Packer("zstd", made).pack(payload)
        with pytest.raises(ValueError, match=r"."):
            Unpacker("t", dictionary).unpack(kind, data, len(payload))

    def test_a_damaged_dictionary_is_damage_of_the_whole_table(self, disk):
        pairs = records(4000)
        info = write(disk, pairs, compression="zstd")
        table = Table(disk, "/d", info, BlockCache(0))
        disk.flip_bit("/d/00000007.sst", table._offsets[-1] + 100)
        with pytest.raises(CorruptBlock, match="checksum") as caught:
            Table(disk, "/d", info, BlockCache(0))
        assert (caught.value.damage.start, caught.value.damage.end) == (pairs[0][0], pairs[-1][0] + b"\0")

    def test_without_the_package_nothing_is_lost_and_the_error_says_what_to_install(self, drive, disk, monkeypatch):
        engine = drive.open(disk, compression="zstd")
        model = drive.fill(engine, 300)
        drive.flush(engine)
        engine.close()
        before = {name: disk.read_file(name, 1 << 24) for name in disk.files()}
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "zstandard", None)
            with pytest.raises(
                CompressionMissing, match=r"sst needs zstd.*nothing is lost.*pip install 'raykv\[zstd\]'"
            ):
                drive.open(disk, compression="lz4")
        after = {name: disk.read_file(name, 1 << 24) for name in disk.files()}
        assert {name: data for name, data in after.items() if name.endswith(".sst")} == {
            name: data for name, data in before.items() if name.endswith(".sst")
        }
        engine = drive.open(disk)
        assert not engine.damaged
        assert drive.content(engine) == model


def test_the_setting_without_the_package_is_refused_before_anything_is_written(drive, disk, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(CompressionMissing, match="zstandard is not installed") as caught:
        drive.open(disk, compression="zstd")
    assert isinstance(caught.value, RaykvError)
    assert not disk.files()
    check_available("lz4")
    check_available("none")
    assert compression.Packer("lz4").pack(bytes(1000))[0] == LZ4

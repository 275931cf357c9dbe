import struct

import pytest
from crc32c import crc32c

from raykv.storage.compression import PLAIN, Packer, Unpacker
from raykv.storage.damage import CompressionMissing
from raykv.storage.frame import FRAME, decode_frame, encode_frame

TEXT = b"what is said again and again, and " * 100


def framed(kind, length, data, offset=0):
    """A frame whose checksum holds, whatever it claims."""
    return FRAME.pack(crc32c(data, crc32c(struct.pack("<QIB", offset, length, kind))), length, kind) + data


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_a_frame_comes_back(compression):
    if compression == "zstd":
        pytest.importorskip("zstandard")
    for payload in (b"", b"x", TEXT, bytes(1 << 20)):
        frame = encode_frame(payload, 77, Packer(compression))
        assert decode_frame(frame, 77, 1 << 20, Unpacker("t", b"")) == payload
        assert len(frame) <= FRAME.size + len(payload)
        assert (len(frame) < len(payload) / 10) == (compression != "none" and len(payload) > 100)


def test_a_frame_in_the_wrong_place_fails():
    frame = encode_frame(b"payload", 100)
    assert decode_frame(frame, 100, 1000) == b"payload"
    with pytest.raises(ValueError, match="checksum"):
        decode_frame(frame, 101, 1000)


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_every_flipped_bit_and_every_cut_is_seen(compression):
    if compression == "zstd":
        pytest.importorskip("zstandard")
    frame = encode_frame(TEXT[:500], 5, Packer(compression))
    unpacker = Unpacker("t", b"")
    for bit in range(8 * len(frame)):
        changed = bytearray(frame)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="checksum"):
            decode_frame(bytes(changed), 5, 1000, unpacker)
    for length in range(len(frame)):
        with pytest.raises(ValueError, match=r"checksum|cut short"):
            decode_frame(frame[:length], 5, 1000, unpacker)


def test_a_decompressed_size_is_bounded_before_it_is_taken():
    bomb = encode_frame(bytes(1 << 20), 0, Packer("lz4"))
    assert len(bomb) < 10_000
    with pytest.raises(ValueError, match="claims 1048576"):
        decode_frame(bomb, 0, 1 << 19)
    with pytest.raises(ValueError, match="cut short"):
        decode_frame(b"abc", 0, 100)


@pytest.mark.parametrize("kind", [PLAIN, 1, 2, 3, 255])
@pytest.mark.parametrize("length", [0, 5, 1 << 24, (1 << 32) - 1])
def test_a_claim_that_does_not_hold_is_refused(kind, length):
    for data in (b"", b"\x00" * 9, b"\xff" * 100):
        try:
            payload = decode_frame(framed(kind, length, data), 0, 1 << 26, Unpacker("t", b""))
        except (ValueError, CompressionMissing):
            continue
        assert payload == data == b""
        assert (kind, length) == (PLAIN, 0)

"""How pieces of a table are compressed: not at all, by lz4, or by zstd with a dictionary of the table's own.

lz4 is part of raykv. zstd is the extra ``raykv[zstd]``: it packs records of some hundred bytes about a third smaller and
unpacks them at half the speed. Blocks are small, so that a get unpacks little; alone, each would have to spell out what all
of them share. A *dictionary*, trained on the table's first blocks and kept once in the table, spares that.

``Packer`` belongs to the thread that writes a table, ``Unpacker`` to one that reads it: zstd's contexts have room for one
call at a time.

**Bounds.** What a piece claims to be unpacked is checked before memory is taken: against what the caller expects, and
against what its algorithm can make of the packed bytes at best (lz4: 255 times). zstd has no such limit, so pieces that
it would shrink further than ``ZSTD_MOST`` times are packed by lz4. A zstd frame that brings a size of its own is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lz4.block  # type: ignore[import-untyped]

from raykv.storage.damage import CompressionMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

PLAIN, LZ4, ZSTD = 0, 1, 2
LZ4_MOST = 255
"""lz4 cannot shrink data by more than this factor."""
ZSTD_MOST = 1024
"""zstd is not asked to."""
ZSTD_LEVEL = 3
SAMPLE_BYTES = 1 << 20
"""How much of a table is looked at before its dictionary is made."""
DICTIONARY_BYTES = 64 << 10
MAX_DICTIONARY_BYTES = 1 << 20
_WORTH_BYTES = 256 << 10
"""A smaller table gains less than a dictionary takes."""
_TRIED = 8
"""On each piece of so many it is tried whether a dictionary pays."""
_SEGMENT, _WINDOW = 256, 8
"""Of the dictionary's training, ``k`` and ``d`` of Liao, Petri, Moffat, Wirth 2016: fixed, so that it takes one pass."""


def zstandard(what: str) -> Any:
    """Return the module; ``CompressionMissing`` if it is not installed. ``what``: what needs it."""
    try:
        import zstandard as module
    except ImportError:
        raise CompressionMissing(
            f"{what} needs zstd, and the package zstandard is not installed here: nothing is lost, install it with "
            "pip install 'raykv[zstd]' and start again"
        ) from None
    return module


def check_available(compression: str) -> None:
    """Raise ``CompressionMissing`` if tables cannot be written with this setting."""
    if compression == "zstd":
        zstandard('compression="zstd"')


class Packer:
    """Packs the pieces of one table, each by itself."""

    __slots__ = ("_zstd", "compression")

    def __init__(self, compression: str, dictionary: bytes = b"") -> None:
        """``compression``: as in ``NodeConfig``; ``dictionary``: for zstd only."""
        self.compression = compression
        self._zstd: Any = None
        if compression == "zstd":
            module = zstandard('compression="zstd"')
            loaded = _loaded(module, dictionary)
            if loaded is not None:
                loaded.precompute_compress(level=ZSTD_LEVEL)  # once, not for each piece
            self._zstd = module.ZstdCompressor(
                level=ZSTD_LEVEL, dict_data=loaded, write_content_size=False, write_dict_id=False
            ).compress

    def pack(self, payload: bytes) -> tuple[int, bytes]:
        """Return the kind and the packed bytes; ``PLAIN`` and the payload if that is no larger."""
        kind, data = PLAIN, payload
        if self._zstd is not None:
            packed = self._zstd(payload)
            if len(payload) <= ZSTD_MOST * len(packed):
                return (ZSTD, packed) if len(packed) < len(payload) else (PLAIN, payload)
        if self.compression != "none":
            packed = lz4.block.compress(payload, store_size=False)
            if len(packed) < len(payload):
                kind, data = LZ4, packed
        return kind, data


class Unpacker:
    """Unpacks the pieces of one table."""

    __slots__ = ("_content_size", "_dictionary", "_errors", "_name", "_zstd")

    def __init__(self, name: str = "", dictionary: bytes | None = None) -> None:
        """``name``: for the message of ``CompressionMissing``; ``dictionary``: empty if zstd has none, None for no zstd."""
        self._name = name
        self._dictionary = dictionary
        self._zstd: Any = None
        self._content_size: Any = None
        self._errors: tuple[type[Exception], ...] = ()

    def unpack(self, kind: int, data: bytes, length: int) -> bytes:
        """Return the ``length`` bytes that ``pack`` was given. ``ValueError`` if these are not they.

        The caller has bounded ``length``.
        """
        if kind == PLAIN:
            payload = data
        elif kind == LZ4:
            if length > LZ4_MOST * len(data):
                raise ValueError(f"it claims {length} bytes")
            try:
                payload = lz4.block.decompress(data, uncompressed_size=length)
            except lz4.block.LZ4BlockError as error:
                raise ValueError(str(error)) from None
        elif kind == ZSTD:
            if self._dictionary is None or length > ZSTD_MOST * len(data):
                raise ValueError(f"it claims {length} bytes, packed by zstd")
            if self._zstd is None:
                self._begin()
            try:
                if self._content_size(data) != -1:
                    raise ValueError("it brings a size of its own")
                payload = self._zstd(data, length)
            except self._errors as error:
                raise ValueError(str(error)) from None
        else:
            raise ValueError(f"it is packed in a way {kind} that is not known")
        if len(payload) != length:
            raise ValueError("its length does not hold")
        return payload

    def _begin(self) -> None:
        assert self._dictionary is not None
        module = zstandard(self._name)
        self._content_size = module.frame_content_size
        self._errors = (module.ZstdError,)
        try:
            self._zstd = module.ZstdDecompressor(dict_data=_loaded(module, self._dictionary)).decompress
        except module.ZstdError as error:
            raise ValueError(f"its dictionary is none: {error}") from None


def _loaded(module: Any, dictionary: bytes) -> Any:
    return module.ZstdCompressionDict(dictionary) if dictionary else None


def train(samples: Sequence[bytes]) -> bytes:
    """Return a dictionary for pieces like these, or nothing if one does not pay. Some 50 ms for ``SAMPLE_BYTES``.

    It pays if it saves a twentieth of pieces that it was not trained on.
    """
    if sum(map(len, samples)) < _WORTH_BYTES:
        return b""
    module = zstandard("a dictionary")
    tried, others = samples[::_TRIED], [piece for at, piece in enumerate(samples) if at % _TRIED]
    try:
        made: bytes = module.train_dictionary(
            DICTIONARY_BYTES, others, k=_SEGMENT, d=_WINDOW, level=ZSTD_LEVEL
        ).as_bytes()
    except module.ZstdError:  # too few samples, or all the same
        return b""
    without, with_it = Packer("zstd"), Packer("zstd", made)
    sizes = [sum(len(packer.pack(piece)[1]) for piece in tried) for packer in (without, with_it)]
    return made if 20 * sizes[1] < 19 * sizes[0] else b""

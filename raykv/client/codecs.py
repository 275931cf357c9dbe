"""Values as bytes and back. Only clients do this; nodes never decode a value.

The rule of ``codec="auto"``: values that msgpack returns unchanged are stored as msgpack, all others through cloudpickle:
``type(get(put(v))) is type(v)``. "Unchanged" means the exact type, recursively: ``None bool int(64 bit) float str bytes
list dict``; a tuple, an ``IntEnum``, an ``OrderedDict`` or a numpy float would come back as something else.

Arrays and tables of numpy, Arrow and pandas that are a value by themselves, not part of one, have forms of their own without
pickle: ``arrays``, ``arrow`` and ``dataframes`` have them, and leave to pickle what they would not bring back exactly.

``codec="msgpack"`` and ``codec="raw"`` never pickle and refuse a pickled value on read: unpickling lets every writer of the
store run code in its readers.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import cloudpickle
import msgspec

from raykv.config import MAX_PAIR_BYTES, shown
from raykv.errors import CorruptData, InvalidOption, described
from raykv.protocol.changes import CELL, cell, number_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from raykv.records.keys import Key

_RAW = b"\x00"
_TEXT = b"\x01"
_MSGPACK = b"\x02"
_PICKLE = b"\x03"
_ARRAY = b"\x05"
_ARROW = b"\x06"
_PANDAS = b"\x07"
"""4 is ``protocol.changes.CELL``. A tag is never given another meaning: what is stored stays readable."""
TAG_BYTES = 1

_MAX_DEPTH = 100
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_CONTAINERS = frozenset({list, dict})
_SCALARS_OR_CONTAINERS = _SCALARS | _CONTAINERS

_encode_msgpack = msgspec.msgpack.Encoder().encode
_decode_msgpack = msgspec.msgpack.Decoder().decode


class _Library(NamedTuple):
    """Where the values of a library are packed: a module that is imported with the first of them."""

    name: str
    tag: bytes
    module: str


_NUMPY = _Library("numpy", _ARRAY, "raykv.client.arrays")
_PYARROW = _Library("pyarrow", _ARROW, "raykv.client.arrow")
_OF_PANDAS = _Library("pandas", _PANDAS, "raykv.client.dataframes")
_LIBRARY_OF_TAG = {library.tag: library for library in (_NUMPY, _PYARROW, _OF_PANDAS)}
_LIBRARY_OF_HOME = {
    "numpy": _NUMPY,
    "pyarrow.lib": _PYARROW,
    **dict.fromkeys(("pandas", "pandas.core.frame", "pandas.core.series"), _OF_PANDAS),
}
"""By the ``__module__`` of a class; of a subclass it is another, and its values are pickled."""
_KNOWN = frozenset({_RAW, _TEXT, _MSGPACK, _PICKLE, CELL, *_LIBRARY_OF_TAG})

Pickle: TypeAlias = Callable[[Any], bytes]
"""How to pickle a value. Under Ray it is Ray's way (see ``raykv.actors.pickling``)."""

pickle_plainly: Pickle = cloudpickle.dumps

Decode: TypeAlias = Callable[["Key", bytes, str], Any]
"""``decode(key, payload, codec)`` returns the value of a key; the command line's shows pickles instead of loading them."""


def encode_value(value: Any, codec: str, pickled: Pickle = pickle_plainly) -> bytes:
    """Return the value as a payload: a tag byte and its encoding.

    Raises ``InvalidOption`` if the bucket's codec does not accept such a value.
    """
    kind = type(value)
    if kind is bytes:
        return b"".join((_RAW, value))
    if codec == "raw":
        raise InvalidOption(f"a bucket with codec='raw' stores bytes only; got {kind.__name__}")
    if kind is str:
        try:
            return _TEXT + str.encode(value)
        except UnicodeEncodeError:
            pass  # a lone surrogate: pickle preserves it
    elif _is_plain(value):
        try:
            return _MSGPACK + _encode_msgpack(value)
        except (UnicodeEncodeError, OverflowError):
            pass
    if codec == "msgpack":
        raise InvalidOption(
            "a bucket with codec='msgpack' stores exactly None, bool, int (64 bit), float, str, bytes, list and dict; "
            f"this {kind.__name__} is, or contains, something else"
        )
    try:
        home = kind.__module__
        if type(home) is str and home in _LIBRARY_OF_HOME:
            payload = _packed(value, kind, _LIBRARY_OF_HOME[home])
            if payload is not None:
                return payload
        return b"".join((_PICKLE, pickled(value)))
    except InvalidOption:  # it contains something that must not be stored
        raise
    except Exception as error:
        raise InvalidOption(f"this {kind.__name__} cannot be pickled: {described(error)}") from error


@cache
def _module_of(library: _Library) -> Any:
    return importlib.import_module(library.module)


def _packed(value: Any, kind: type, library: _Library) -> bytes | None:
    """Return the payload of a value that a library's module packs; None for what is pickled."""
    try:
        payload: bytes | None = _module_of(library).packed(value, kind, library.tag)
    except Exception:  # noqa: BLE001 - what a version of the library makes of it, pickle may take; it says so if not
        return None
    return payload


def encode_in_cells(value: Any, codec: str, pickled: Pickle = pickle_plainly) -> bytes:
    """Return the value as a payload of a linearizable bucket: as ``encode_value``, but an ``int`` as a cell."""
    if type(value) is int and codec != "raw":
        try:
            return cell(value)
        except OverflowError:
            pass
    return encode_value(value, codec, pickled)


def decode_value(payload: bytes, codec: str) -> Any:
    """Return the value. Raises ``CorruptData`` if it cannot be decoded here, or must not be."""
    tag, data = payload[:TAG_BYTES], payload[TAG_BYTES:]
    if tag == _RAW:
        return data
    if codec != "raw" and (number := number_of(payload)) is not None:
        return number
    try:
        if tag == _TEXT and codec != "raw":
            return data.decode()
        if tag == _MSGPACK and codec != "raw":
            return _decode_msgpack(data)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError, MemoryError) as error:
        raise _undecodable(error) from error
    if tag in _LIBRARY_OF_TAG and codec == "auto":
        return _unpacked(payload, _LIBRARY_OF_TAG[tag])
    if tag != _PICKLE:
        newer = "" if tag in _KNOWN else "; if it is not damaged, a newer raykv has written it, and can read it"
        raise CorruptData(f"the stored value has tag {tag!r}, which codec={codec!r} cannot read{newer}")
    if codec != "auto":
        raise CorruptData(f"the stored value is pickled, and codec={codec!r} never unpickles")
    return _unpickle(data)


def _unpacked(payload: bytes, library: _Library) -> Any:
    try:
        module = _module_of(library)
    except Exception as error:  # an ImportError, or what a library raises that was built for another numpy
        raise CorruptData(
            f"the stored value is of {library.name}, which cannot be imported here ({described(error)}): install it, then "
            "read the key again"
        ) from error
    try:
        return module.unpacked(payload, TAG_BYTES)
    except Exception as error:  # by a header that was damaged, a library may raise anything
        raise _undecodable(error) from error


def library_of(payload: bytes) -> str | None:
    """Return the library whose value this is (numpy, pyarrow, pandas); None for any other."""
    library = _LIBRARY_OF_TAG.get(payload[:TAG_BYTES])
    return None if library is None else library.name


def decode_of(key: Key, payload: bytes, codec: str) -> Any:
    """Return the value of a key. Raises ``CorruptData``, which names the key and has the original error as its cause."""
    try:
        return decode_value(payload, codec)
    except CorruptData as error:
        name = str.__str__(key) if isinstance(key, str) else bytes(key)
        raise CorruptData(f"{error.message} (key {shown(name)})", key=name) from error.__cause__


def decode_plain(payloads: Sequence[bytes], codec: str) -> list[Any] | None:
    """Return their values, as ``decode_value`` does; None if one is pickled: unpickling runs users' code."""
    plain = codec != "raw"
    values = []
    try:
        for payload in payloads:
            tag = payload[:TAG_BYTES]
            if tag == _MSGPACK and plain:
                values.append(_decode_msgpack(payload[TAG_BYTES:]))
            elif tag == _PICKLE:
                return None
            else:
                values.append(decode_value(payload, codec))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise _undecodable(error) from error
    return values


def _undecodable(error: Exception) -> CorruptData:
    return CorruptData(f"the stored value cannot be decoded: {described(error)}")


def _unpickle(data: bytes) -> Any:
    try:
        return pickle.loads(data)  # noqa: S301 - the bucket's codec allows it, and only a client unpickles
    except Exception as error:
        raise CorruptData(f"the stored value cannot be unpickled here: {described(error)}") from error


def _is_plain(value: Any) -> bool:
    try:
        return _Plain().value(value)
    except TypeError:  # an unhashable type is not plain
        return False
    except RuntimeError as error:
        raise InvalidOption(
            f"this {type(value).__name__} changed while it was being encoded: another thread modifies it"
        ) from error


class _Plain:
    """Decides whether msgpack preserves a value exactly. Ints beyond 64 bits and lone surrogates show on encoding.

    The walk stops after as many parts as a pair may have bytes: every part takes at least one byte, and a shared part is
    visited once for each path to it, of which there may be any number.
    """

    def __init__(self) -> None:
        self._left = MAX_PAIR_BYTES

    def value(self, value: Any, depth: int = 0) -> bool:
        kind = type(value)
        if kind in _SCALARS:
            return True
        if depth >= _MAX_DEPTH:
            return False
        if kind is dict:
            return self._all(value, depth + 1) and self._all(value.values(), depth + 1)
        return kind is list and self._all(value, depth + 1)

    def _all(self, values: Collection[Any], depth: int) -> bool:
        self._left -= len(values)
        if self._left < 0:
            return False
        if _SCALARS.issuperset(map(type, values)):  # in C: most values of most records are scalars
            return True
        return _SCALARS_OR_CONTAINERS.issuperset(map(type, values)) and all(
            self.value(item, depth) for item in values if type(item) in _CONTAINERS
        )

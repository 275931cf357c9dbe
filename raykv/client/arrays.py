"""Numpy arrays and scalars as bytes and back, by the buffer protocol and without pickle.

The form: flags (a byte), the length of the header (two bytes, big-endian), the header in msgpack (``[dtype, shape]``), zeros
up to a multiple of 16 bytes of the payload, tag included, then the elements as they lie in memory. A dtype is its
``dtype.str``; of a structure ``[names, dtypes, offsets, itemsize, aligned]``; of a field of arrays ``[dtype, shape]``.

An array comes back in the order of its axes in memory (C or Fortran; any other is stored as C), in its byte order, and **as
writable as it was**: a writable one as a copy, a read-only one (``array.flags.writeable = False``) as a view of the bytes
that were read, with no copy.

Left to pickle, which preserves them: subclasses (masked arrays, matrices, records), objects, dtypes of other libraries or
with metadata or titles, numpy's strings of variable width, elements of no size, and ``longdouble``, whose bytes differ from
machine to machine.

Nothing is believed: a header names no type but those below, and the elements must take exactly the bytes that are there.

This module imports numpy; ``codecs`` imports it when it meets the first array.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta

FORTRAN, READ_ONLY, SCALAR = 1, 2, 4
_FLAGS = FORTRAN | READ_ONLY | SCALAR
_HEAD_BYTES = 3
_MAX_HEADER_BYTES = 0xFFFF
_ALIGNMENT = 16
_MAX_AXES = 64
_MAX_FIELDS = 1000
_MAX_DEPTH = 8

_KINDS = r"[<>|](?:b1|[iu][1248]|f[248]|c8|c16|[SVU][0-9]{1,10}|[mM]8(?:\[[0-9]{0,10}(?:[YMWDhms]|[munpfa]s)\])?)"
_Leaf: TypeAlias = Annotated[str, Meta(pattern=rf"^{_KINDS}\Z", max_length=32)]
_Length: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Shape: TypeAlias = Annotated[list[_Length], Meta(max_length=_MAX_AXES)]
_Offset: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
_Structure: TypeAlias = tuple[
    Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=_MAX_FIELDS)],
    Annotated[list[Any], Meta(max_length=_MAX_FIELDS)],
    Annotated[list[_Offset], Meta(max_length=_MAX_FIELDS)],
    _Offset,
    bool,
]

_decode_header = msgspec.msgpack.Decoder(tuple[str | list[Any], _Shape]).decode
_encode_header = msgspec.msgpack.Encoder().encode

_PLAIN_NUMBERS: Final = frozenset({*range(13), 14, 15, 18, 19, 21, 22, 23})
"""``dtype.num`` of what ``dtype.str`` says completely: no longdouble (13, 16), no object (17), no structure (20)."""
_BUFFERS: Final = frozenset("biufcSU")
"""The kinds of dtypes whose arrays have the buffer protocol; datetimes have not."""


class Damaged(ValueError):
    """The bytes are no array's."""


def packed(value: Any, kind: type, before: bytes) -> bytes | None:
    """Return an array's or scalar's bytes behind ``before``, the tag; None for what is left to pickle."""
    if kind is np.ndarray:
        return _packed_array(value, before)
    if issubclass(kind, np.generic):
        dtype = value.dtype
        if dtype.kind in "biufcmM" and dtype.num in _PLAIN_NUMBERS and np.dtype(dtype.str).type is kind:
            return _framed(before, SCALAR, dtype.str, ()) + bytes(value.tobytes())
    return None


def _packed_array(array: Any, before: bytes) -> bytes | None:
    dtype = array.dtype
    if not dtype.itemsize:
        return None
    spec = dtype.str if dtype.num in _PLAIN_NUMBERS and dtype.metadata is None else _spec_of(dtype)
    if spec is None:
        return None
    flags = array.flags
    fortran = flags.f_contiguous and not flags.c_contiguous
    marks = (FORTRAN if fortran else 0) | (0 if flags.writeable else READ_ONLY)
    try:
        head = _framed(before, marks, spec, array.shape)
    except _TooLong:
        return None
    if dtype.kind not in _BUFFERS or not flags.forc:
        return head + bytes(array.tobytes("F" if fortran else "C"))
    return b"".join((head, array.T if fortran else array))


class _TooLong(Exception):
    """A structure of too many fields."""


def _framed(before: bytes, flags: int, spec: str | list[Any], shape: tuple[int, ...]) -> bytes:
    header = _encode_header((spec, shape))
    length = len(header)
    if length > _MAX_HEADER_BYTES:
        raise _TooLong
    padding = -(len(before) + _HEAD_BYTES + length) % _ALIGNMENT
    return b"".join((before, bytes((flags, length >> 8, length & 0xFF)), header, bytes(padding)))


def unpacked(payload: bytes, start: int) -> Any:
    """Return the array or scalar whose bytes begin at ``start``. Raises ``ValueError``, ``TypeError`` or msgspec's error."""
    begin = start + _HEAD_BYTES
    if len(payload) < begin:
        raise Damaged("the array's header is cut off")
    flags = payload[start]
    if flags & ~_FLAGS:
        raise Damaged(f"the array has the flags {flags:#x}, which this version of raykv does not know")
    end = begin + int.from_bytes(payload[start + 1 : begin])
    spec, shape = _decode_header(payload[begin:end])
    dtype = _dtype_of(spec)
    if not dtype.itemsize:  # numpy would make bytes of none
        raise Damaged("the array's elements have no size")
    at = end + -end % _ALIGNMENT
    wanted = math.prod(shape) * dtype.itemsize
    if len(payload) - at != wanted:
        raise Damaged(
            f"the array's elements take {wanted} bytes by its header, and {max(0, len(payload) - at)} are there"
        )
    if any(payload[end:at]):
        raise Damaged("between the array's header and its elements there is something else")
    if flags & SCALAR and shape:
        raise Damaged("a scalar has no axes")
    order: Literal["F", "C"] = "F" if flags & FORTRAN else "C"
    if dtype.kind == "V" and not flags & READ_ONLY:  # a copy of a structure has anything between its fields
        return np.ndarray(shape, dtype, bytearray(payload[at:]), order=order)
    view: Any = np.ndarray(shape, dtype, payload, at if wanted else 0, order=order)
    if flags & SCALAR:
        return view[()]
    return view if flags & READ_ONLY else view.copy("K")


def _spec_of(dtype: Any, depth: int = 0) -> str | list[Any] | None:
    """Return a dtype in the header's form; None if that would lose something."""
    spec = _spec(dtype, depth)
    if spec is None or isinstance(spec, str):
        return spec
    try:
        again = _dtype_of(spec)
    except (ValueError, TypeError, msgspec.MsgspecError):
        return None
    return spec if again == dtype and repr(again) == repr(dtype) else None


def _spec(dtype: Any, depth: int) -> str | list[Any] | None:
    if dtype.metadata is not None or depth > _MAX_DEPTH:
        return None
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        inner = _spec(base, depth + 1)
        return None if inner is None else [inner, list(shape)]
    if dtype.num in _PLAIN_NUMBERS:
        return str(dtype.str)
    if dtype.num != 20 or dtype.type is not np.void:
        return None
    if dtype.names is None:
        return str(dtype.str)
    fields = [dtype.fields[name] for name in dtype.names]
    if len(fields) > _MAX_FIELDS or any(len(field) != 2 for field in fields):  # a third part is a title
        return None
    formats = [_spec(field[0], depth + 1) for field in fields]
    if None in formats:
        return None
    return [list(dtype.names), formats, [int(field[1]) for field in fields], int(dtype.itemsize), dtype.isalignedstruct]


@lru_cache(256)
def _leaf(spec: str) -> Any:
    return np.dtype(msgspec.convert(spec, _Leaf))


def _dtype_of(spec: Any, depth: int = 0) -> Any:
    """Return the dtype that a header names. Raises ``ValueError``, ``TypeError`` or ``MsgspecError``."""
    if isinstance(spec, str):
        return _leaf(spec)
    if depth > _MAX_DEPTH:
        raise Damaged(f"the array's dtype is nested more than {_MAX_DEPTH} times")
    if isinstance(spec, list) and len(spec) == 2:
        return np.dtype((_dtype_of(spec[0], depth + 1), tuple(msgspec.convert(spec[1], _Shape))))
    names, formats, offsets, size, aligned = msgspec.convert(spec, _Structure)
    if not len(names) == len(formats) == len(offsets):
        raise Damaged("the array's structure is damaged")
    inner = [_dtype_of(one, depth + 1) for one in formats]
    described = {"names": names, "formats": inner, "offsets": offsets, "itemsize": size}
    return np.dtype(described, align=aligned)  # type: ignore[call-overload]

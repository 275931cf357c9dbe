r"""A value as JSON that comes back as what it was; what cannot is refused.

What JSON has stands for itself: None, bool, int (64 bit), finite float, str, list, and dict with names that do not begin
with "$". Anything else is an object with one "$" name:

    {"$bytes": base64}      {"$float": "nan"}         {"$int": "170141183460469231731687303715884105728"}
    {"$tuple": [...]}       {"$set": [...]}           {"$frozenset": [...]}         {"$dict": [[key, value], ...]}
    {"$datetime": ISO}      {"$date": ISO}            {"$time": ISO}                {"$timedelta": [days, seconds, us]}
    {"$decimal": "1.10"}    {"$uuid": "..."}          {"$text": base64}: a str that UTF-8 cannot say

Only exact types count: an ``IntEnum`` would come back as an int.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import decimal
import math
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.config import shown
from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.records.keys import Key

MAX_DEPTH = 100
_NONE, _LEAST, _MOST = type(None), -(2**63), 2**64
_ISO: dict[type, str] = {dt.datetime: "$datetime", dt.date: "$date", dt.time: "$time"}
_LISTS: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}

encode_json = msgspec.json.Encoder().encode
decode_json = msgspec.json.Decoder().decode


class Unkept(Exception):
    """Names the type that cannot be kept."""


def tagged(value: Any, depth: int = 0) -> Any:
    """Return the value in JSON's types. Raises ``Unkept``."""
    kind = type(value)
    if kind is str:
        return (
            value if value.isascii() or is_utf8(value) else {"$text": _base64(value.encode("utf-8", "surrogatepass"))}
        )
    if kind is _NONE or kind is bool:
        return value
    if kind is int:
        return value if _LEAST <= value < _MOST else {"$int": f"{value:#x}"}
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if depth >= MAX_DEPTH:
        raise Unkept(f"more than {MAX_DEPTH} levels")
    if kind is list:
        return [tagged(item, depth + 1) for item in value]
    if kind is dict:
        if all(type(name) is str and name[:1] != "$" and (name.isascii() or is_utf8(name)) for name in value):
            return {name: tagged(item, depth + 1) for name, item in value.items()}
        return {"$dict": [[tagged(name, depth + 1), tagged(item, depth + 1)] for name, item in value.items()]}
    return _tagged_otherwise(value, kind, depth)


def _tagged_otherwise(value: Any, kind: type, depth: int) -> Any:
    if kind is bytes:
        return {"$bytes": _base64(value)}
    if kind in _LISTS:
        return {_LISTS[kind]: [tagged(item, depth + 1) for item in value]}
    if kind in _ISO:
        written = value.isoformat()
        if repr(kind.fromisoformat(written)) != repr(value):  # type: ignore[attr-defined]
            raise Unkept(f"a {kind.__name__} with a time zone by name, or within a repeated hour")
        return {_ISO[kind]: written}
    if kind is dt.timedelta:
        return {"$timedelta": [value.days, value.seconds, value.microseconds]}
    if kind is decimal.Decimal:
        return {"$decimal": str(value)}
    if kind is uuid.UUID:
        return {"$uuid": str(value)}
    raise Unkept(f"a {kind.__module__}.{kind.__qualname__}")


def restored(value: Any) -> Any:
    """Return what ``tagged`` was given. Raises ``ValueError`` for a tag that says nothing."""
    kind = type(value)
    if kind is list:
        return [restored(item) for item in value]
    if kind is not dict:
        return value
    if len(value) == 1:
        ((name, inner),) = value.items()
        if name[:1] == "$":
            return _restored_tag(name, inner)
    if any(name[:1] == "$" for name in value):
        raise ValueError(f"an object with a name {next(name for name in value if name[:1] == '$')!r} beside others")
    return {name: restored(item) for name, item in value.items()}


def _restored_tag(name: str, inner: Any) -> Any:
    restore = _RESTORE.get(name)
    if restore is None:
        raise ValueError(f"{name!r} is no tag")
    try:
        return restore(inner)
    except (TypeError, ValueError, AttributeError, OverflowError, decimal.InvalidOperation, binascii.Error) as error:
        raise ValueError(f"{shown(inner)} is not what {name!r} has: {error}") from None


def _list(inner: Any) -> list[Any]:
    if type(inner) is not list:
        raise TypeError("it takes a list")
    return inner


_RESTORE: dict[str, Callable[[Any], Any]] = {
    "$bytes": lambda inner: base64.b64decode(inner, validate=True),
    "$text": lambda inner: base64.b64decode(inner, validate=True).decode("utf-8", "surrogatepass"),
    "$int": lambda inner: int(inner, 16) if "x" in inner else int(inner),
    "$float": float,
    "$tuple": lambda inner: tuple(restored(_list(inner))),
    "$set": lambda inner: set(restored(_list(inner))),
    "$frozenset": lambda inner: frozenset(restored(_list(inner))),
    "$dict": lambda inner: {restored(name): restored(item) for name, item in map(_list, _list(inner))},
    "$datetime": dt.datetime.fromisoformat,
    "$date": dt.date.fromisoformat,
    "$time": dt.time.fromisoformat,
    "$timedelta": lambda inner: dt.timedelta(*inner),
    "$decimal": decimal.Decimal,
    "$uuid": uuid.UUID,
}


def tagged_of(key: str | bytes, value: Any) -> Any:
    """Return the key's value in JSON's types. Raises ``InvalidOption``, which names the key."""
    try:
        return tagged(value)
    except (Unkept, RecursionError) as error:
        what = str(error) if isinstance(error, Unkept) else "too many levels"
        raise InvalidOption(
            f"the value of key {shown(key)} is or contains {what}, which a file does not keep exactly; leave such keys out "
            "(prefix=), or back the store up instead (store.snapshot)",
            key=key,
        ) from None


def encode_record(key: Key, exact: Any) -> bytes:
    """Return a record as one line of JSON; ``exact``: its value as ``tagged``."""
    return encode_json({"key": tagged_of(key, key), "value": exact})


def decode_record(data: str | bytes) -> tuple[Key, Any]:
    """Return the key and the value that ``encode_record`` was given. Raises ``ValueError``, which says what is wrong."""
    try:
        record = decode_json(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"this is no JSON ({error})") from None
    except RecursionError:
        raise ValueError("this is nested too deeply") from None
    if type(record) is not dict or record.keys() != {"key", "value"}:
        raise ValueError('this is no object with "key" and "value"')
    try:
        return checked_key(restored(record["key"])), restored(record["value"])
    except RecursionError:
        raise ValueError("the value is nested too deeply") from None


def checked_key(key: Any) -> Key:
    """Return the key. Raises ``ValueError`` unless it is text or bytes."""
    if not isinstance(key, str | bytes):
        raise ValueError(f"the key is {shown(key)}, neither text nor bytes")  # noqa: TRY004 - of what a file says
    return key


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can say the text: it has no half of a pair of surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

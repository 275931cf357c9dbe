"""Keys, pairs and functions that callers pass in to be iterated or called.

An error raised by the caller's own code is passed on unchanged, with its traceback, and nothing is sent. The same type of
error without a frame of the caller's is a mistake in the call (an argument is not iterable, an item is no pair), and
becomes ``InvalidKey`` or ``InvalidOption``.

Operations are generators, and Python turns a ``StopIteration`` that leaves one into a ``RuntimeError``. ``called`` carries
it out in a ``CallersStop``, and the driver raises the original; it cannot leave a coroutine either, and leaves one as the
cause of a ``RuntimeError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from raykv.config import shown
from raykv.errors import InvalidKey, InvalidOption, from_callers_code
from raykv.records.keys import encode_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from raykv.records.keys import Key

T = TypeVar("T")


class CallersStop(Exception):
    """Carries a ``StopIteration`` of the caller's code out of an operation."""

    def __init__(self, error: StopIteration) -> None:
        super().__init__()
        self.error = error


def called(function: Callable[..., T], *given: Any) -> T:
    """Return ``function(*given)``, which runs the caller's code, from within an operation."""
    try:
        return function(*given)
    except StopIteration as error:
        raise CallersStop(error) from None


def several_keys(keys: Iterable[Key]) -> list[Key]:
    """Return the keys as a list. Raises ``InvalidKey`` for a single key."""
    if isinstance(keys, str | bytes):
        raise _one_key(keys)
    try:
        several = iter(keys)
    except TypeError as error:
        if from_callers_code(error):
            raise
        raise _one_key(keys) from None
    return list(several)


def _one_key(keys: object) -> InvalidKey:
    return InvalidKey(f"keys must be an iterable of keys, such as a list; got one {type(keys).__name__}: {shown(keys)}")


def without_doubles(keys: list[Key]) -> list[Key]:
    """Return the keys in their order, each once. Raises ``InvalidKey`` for an unhashable one."""
    try:
        return [*dict.fromkeys(keys)]
    except Exception:
        for key in keys:
            encode_key(key)
        raise


def pairs_of(items: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return pairs as a dict. Raises ``InvalidOption`` for items that are no pairs, ``InvalidKey`` for unhashable keys."""
    if isinstance(items, Mapping):
        return dict(items)
    try:
        several = iter(items)
    except TypeError as error:
        if from_callers_code(error):
            raise
        raise InvalidOption(f"put_many takes a mapping or (key, value) pairs; got {type(items).__name__}") from None
    pairs: dict[Any, Any] = {}
    for item in several:
        key, value = item if type(item) is tuple and len(item) == 2 else _pair(item)
        try:
            pairs[key] = value
        except Exception:
            encode_key(key)  # raises for anything but a key, and thus for the unhashable one
            raise
    return pairs


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, str | bytes):  # a text of two characters would unpack as a pair
        raise _no_pair(item)
    try:
        key, value = item
    except (TypeError, ValueError) as error:
        if from_callers_code(error):
            raise
        raise _no_pair(item) from None
    return key, value


def _no_pair(item: object) -> InvalidOption:
    return InvalidOption(
        f"put_many takes a mapping or (key, value) pairs; one of the items is a {type(item).__name__}: {shown(item)}"
    )

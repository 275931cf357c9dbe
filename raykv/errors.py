"""Every error that raykv raises, in one tree, classed by what the caller may do.

* **The caller's mistake**: nothing was sent. Correct the call. ``InvalidKey``, ``PairTooLarge``, ``InvalidOption``,
  ``InvalidContext``, ``BucketMismatch``, ``NotEnoughNodes``, ``StoreNotFound``, ``StoreClosed``.
* **Try again**: nothing was written, or it was a read. ``Overloaded``, ``QuorumNotMet``, ``StoreUnavailable``.
* **Merge first**: nothing was written. ``SiblingsFound``.
* **Outcome unknown**: the write may stand on some replicas and may surface later. ``WriteOutcomeUnknown``. Read, then
  decide; writing the same value again is safe.
* **Call somebody**: ``CorruptData``.

Nodes return errors as data (``to_data``), the client raises them (``from_data``): no exception of Ray's and no remote
traceback reaches a user. Every error survives pickling with its attributes.
"""

from __future__ import annotations

from typing import Any


class RaykvError(Exception):
    """The root. ``details`` holds what the message says, as plain data, and travels with the error."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self).__name__, self.message, self.details)


class InvalidKey(RaykvError, ValueError):
    """The key is empty, too long, of a wrong type, or not encodable. The caller's mistake; nothing was sent."""


class PairTooLarge(RaykvError, ValueError):
    """Key and encoded value together exceed the bucket's limit. The caller's mistake; nothing was sent."""


class InvalidOption(RaykvError, ValueError):
    """An option, level, time or name is out of its range. The caller's mistake; nothing was sent."""


class InvalidContext(RaykvError, ValueError):
    """The context is damaged, or of another key, bucket or store. The caller's mistake; nothing was sent."""


class StoreNotFound(RaykvError):
    """No store of that name runs in this Ray cluster. Start it, or correct the name."""


class BucketMismatch(RaykvError):
    """The bucket or store exists with other settings. ``details`` shows both sides. Nothing was changed."""


class NotEnoughNodes(RaykvError, ValueError):
    """More copies were asked for than there are nodes. The caller's mistake; nothing was changed."""


class StoreUnavailable(RaykvError):
    """No coordinator answered. Nothing is known to have been written; try again."""


class QuorumNotMet(RaykvError, TimeoutError):
    """A read did not get its R complete answers within its time. Never means "absent"; try again."""


class WriteOutcomeUnknown(RaykvError, TimeoutError):
    """A write got fewer than W acknowledgements. It is not undone: it may stand, and may surface later.

    ``operation_id`` names the write, ``acks`` the nodes that hold it durably.
    """

    @property
    def operation_id(self) -> str:
        """The write's operation id, in hex."""
        return str(self.details.get("operation_id", ""))

    @property
    def acks(self) -> tuple[str, ...]:
        """The ids of the nodes that acknowledged before the time was up."""
        return tuple(self.details.get("acks", ()))


class Overloaded(RaykvError):
    """A queue is full. Nothing was written; try again later."""


class CorruptData(RaykvError):
    """Stored bytes fail their checksum, cannot be what they claim, or make no value here (its module is missing).

    Where it is about the value of one key, that is in ``key``; a scan goes on behind it with ``after=error.key``.
    """

    @property
    def key(self) -> str | bytes | None:
        """The key whose value it is, where there is one."""
        return _key_in(self)


class SiblingsFound(RaykvError):
    """``modify`` found several versions of the key, and would have dropped all but one unseen. Nothing was written.

    Give the handle a resolver (``store.bucket(name, resolver=merge)``), which ``modify`` then asks; or merge them yourself:
    ``get_versions(key)``, then ``put(key, merged, context=versions.context)``. Who means to drop all but the newest says so:
    ``resolver=lambda values: values[0]``.
    """

    @property
    def key(self) -> str | bytes | None:
        """The key."""
        return _key_in(self)


class StoreClosed(RaykvError):
    """The handle was closed, or the store was stopped. Connect again."""


class BatchError(RaykvError):
    """Some items of a batch failed; all were settled. ``.results`` and ``.errors`` are keyed by the caller's keys."""

    def __init__(self, message: str, results: dict[Any, Any], errors: dict[Any, RaykvError]) -> None:
        super().__init__(message)
        self.results = results
        self.errors = errors

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchError, (self.message, self.results, self.errors)


_CLASSES: dict[str, type[RaykvError]] = {
    cls.__name__: cls
    for cls in (
        RaykvError, InvalidKey, PairTooLarge, InvalidOption, InvalidContext, StoreNotFound, BucketMismatch, NotEnoughNodes,
        StoreUnavailable, QuorumNotMet, WriteOutcomeUnknown, Overloaded, CorruptData, SiblingsFound,
        StoreClosed,
    )
}  # fmt: skip


def _key_in(error: RaykvError) -> str | bytes | None:
    key = error.details.get("key")
    return key if isinstance(key, str | bytes) else None


def _rebuild(name: str, message: str, details: dict[str, Any]) -> RaykvError:
    return _CLASSES.get(name, RaykvError)(message, **details)


def from_callers_code(error: BaseException) -> bool:
    """Whether an error that was caught around code of the caller's came out of it, and not of the call itself.

    Then it is the caller's own, and is passed on. To be asked where it is caught: it goes by the frames below.
    """
    return error.__traceback__ is not None and error.__traceback__.tb_next is not None


def described(error: BaseException) -> str:
    """Return an error's type and message, as another error's message gives them: short, whatever its own code does."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - as said
        text = ""
    name = type(error).__name__
    return f"{name}: {text if len(text) <= 300 else text[:297] + '...'}" if text else name


def to_data(error: RaykvError) -> tuple[str, str, dict[str, Any]]:
    """Return the error as (class name, message, details), which msgpack can carry."""
    return type(error).__name__, error.message, error.details


def from_data(name: str, message: str, details: dict[str, Any]) -> RaykvError:
    """Rebuild the error that ``to_data`` took apart; an unknown class becomes a plain ``RaykvError``."""
    return _rebuild(name, message, details)

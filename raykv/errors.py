"""Every error that raykv raises, in one tree, classed by what the caller can do.

* **Correct the call**; nothing was sent or changed. ``InvalidKey``, ``PairTooLarge``, ``InvalidOption``, ``InvalidContext``,
  ``BucketMismatch``, ``NotEnoughNodes``, ``StoreNotFound``, ``StoreClosed``.
* **Try again**; nothing was written, or the call was a read. ``Overloaded``, ``QuorumNotMet``, ``StoreUnavailable``;
  ``Empty`` and ``Full`` of a queue.
* **Merge first**; nothing was written. ``SiblingsFound``.
* **Decide anew**; nothing was written, and the error has what stands. ``Conflict``.
* **Read, then decide**; the write may stand on some replicas, and may surface later. ``WriteOutcomeUnknown``. Writing the
  same value again is safe.
* **Ask for help**; stored data is damaged. ``CorruptData``.

A message states what happened, then whether anything was written, then what to do. Nodes return errors as data
(``to_data``) and the client raises them (``from_data``): no exception of Ray's and no remote traceback reaches a user. Every
error survives pickling with its attributes.
"""

from __future__ import annotations

import queue
from typing import Any


class RaykvError(Exception):
    """The root of all errors. ``details`` holds what the message says as plain data."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self).__name__, self.message, self.details)


class InvalidKey(RaykvError, ValueError):
    """The key is empty, too long, of the wrong type, or cannot be encoded. Nothing was sent; correct the key."""


class PairTooLarge(RaykvError, ValueError):
    """The key and the encoded value together exceed the bucket's limit. Nothing was written.

    A bucket made with a higher ``pair_bytes`` takes it, up to 1 MiB; else store less under one key.
    """


class InvalidOption(RaykvError, ValueError):
    """An option, level, time or name is outside its range. Nothing was changed; correct the call."""


class InvalidContext(RaykvError, ValueError):
    """The context is damaged, or belongs to another key, bucket or store. Nothing was sent; read the key again."""


class StoreNotFound(RaykvError):
    """No store of that name is running in this Ray cluster. Start it, or correct the name."""


class BucketMismatch(RaykvError):
    """The bucket exists with other settings; ``details`` shows both. Nothing was changed."""


class NotEnoughNodes(RaykvError, ValueError):
    """There are fewer nodes than copies. Nothing was changed; add nodes, or ask for fewer copies."""


class StoreUnavailable(RaykvError):
    """No coordinator, or not enough of the store, can be reached. Nothing was written; try again."""


class QuorumNotMet(RaykvError, TimeoutError):
    """A read did not get R complete answers in time. It never means "absent"; try again."""


class WriteOutcomeUnknown(RaykvError, TimeoutError):
    """A write got fewer than W acknowledgements in time. It may stand, and may surface later; read, then decide.

    ``operation_id`` names the write; ``acks`` are the nodes that hold it durably.
    """

    @property
    def operation_id(self) -> str:
        """The write's operation id, in hex."""
        return str(self.details.get("operation_id", ""))

    @property
    def acks(self) -> tuple[str, ...]:
        """The ids of the nodes that acknowledged the write in time."""
        return tuple(self.details.get("acks", ()))


class Overloaded(RaykvError):
    """A queue is full. Nothing was written; try again later, and more slowly."""


class CorruptData(RaykvError):
    """Stored bytes fail their checksum, are not what they claim to be, or cannot be decoded here (a module is missing).

    ``key`` is the key whose value failed, if it is one; ``scan(after=error.key)`` continues behind it.
    """

    @property
    def key(self) -> str | bytes | None:
        """The key whose value failed; None if the error is not about one key."""
        return _key_in(self)


class SiblingsFound(RaykvError):
    """``modify`` found concurrent versions of the key and would have dropped all but the newest. Nothing was written.

    Give the handle a resolver (``store.bucket(name, resolver=merge)``), which ``modify`` then calls; or merge the versions:
    ``get_versions(key)``, then ``put(key, merged, context=versions.context)``. ``resolver=lambda values: values[0]`` drops
    all but the newest on purpose.
    """

    @property
    def key(self) -> str | bytes | None:
        """The key."""
        return _key_in(self)


class Conflict(RaykvError):
    """A condition did not hold: the key has another version, has a value, or has seen a later fencing token.

    Nothing was written. ``version`` and ``value`` are what stands, so that a retry needs no read; with a refused fencing
    token there is no value. Also raised by ``lock``: another holder has it for all of the time-out.
    """

    @property
    def key(self) -> str | bytes | None:
        """The key."""
        return _key_in(self)

    @property
    def version(self) -> Any:
        """The version that stands (``raykv.Version``); false if there is none."""
        return self.details.get("version")

    @property
    def value(self) -> Any:
        """The value that stands; None if there is none."""
        return self.details.get("value")


class Empty(RaykvError, queue.Empty):
    """No job of the queue was there in time. Nothing was taken; ask again. Also a ``queue.Empty``, as Ray's is."""


class Full(RaykvError, queue.Full):
    """The queue has as many jobs as it may have. Nothing was put; try again. Also a ``queue.Full``, as Ray's is."""


class StoreClosed(RaykvError):
    """The handle is closed. Connect again."""


class BatchError(RaykvError):
    """Some items of a batch failed, each for itself. ``.results`` and ``.errors`` are keyed by the caller's keys."""

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
        Conflict, Empty, Full, StoreClosed,
    )
}  # fmt: skip


def _key_in(error: RaykvError) -> str | bytes | None:
    key = error.details.get("key")
    return key if isinstance(key, str | bytes) else None


def _rebuild(name: str, message: str, details: dict[str, Any]) -> RaykvError:
    return _CLASSES.get(name, RaykvError)(message, **details)


def from_callers_code(error: BaseException) -> bool:
    """Return whether a caught error came out of the caller's own code, and must be passed on.

    Call it where the error is caught: it looks at the frames below.
    """
    return error.__traceback__ is not None and error.__traceback__.tb_next is not None


def described(error: BaseException) -> str:
    """Return an error's type and message in short, for another error's message. Never raises."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - it runs the error's own code
        text = ""
    name = type(error).__name__
    return f"{name}: {text if len(text) <= 300 else text[:297] + '...'}" if text else name


def to_data(error: RaykvError) -> tuple[str, str, dict[str, Any]]:
    """Return the error as (class name, message, details), which msgpack can carry."""
    return type(error).__name__, error.message, error.details


def from_data(name: str, message: str, details: dict[str, Any]) -> RaykvError:
    """Rebuild the error that ``to_data`` took apart; an unknown class becomes a plain ``RaykvError``."""
    return _rebuild(name, message, details)

"""Reads of one key: the value, all versions, or whether there is one.

A failed read raises; it never means "absent" (P9). The request is a batch's, of one key; the path from answer to value is
separate from that of ``batches``: a get costs the client 8 us of CPU, and would cost 12 us as a batch of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from raykv.client.exchange import ask, unexpected
from raykv.client.given import called
from raykv.client.requests import Requests
from raykv.config import check_timeout, shown
from raykv.protocol import frames as f
from raykv.versions.causality import unpack_causality
from raykv.versions.context import Context, causality_in, seal
from raykv.versions.resolvers import resolve

if TYPE_CHECKING:
    from raykv.client.exchange import Steps
    from raykv.records.keys import Key

T = TypeVar("T")


class Versions(NamedTuple, Generic[T]):
    """What stands under a key: the values that nothing superseded, the newest first (none: absent), and their context."""

    values: list[T]
    context: Context

    def _repr_html_(self) -> str:
        from raykv import viz  # late: a program has no pictures

        seen = unpack_causality(causality_in(self.context)).seen
        spans = [(actor.hex()[:8], first, last) for actor, first, last in seen]
        return viz.siblings_svg([repr(value) for value in self.values], spans)


class Reads(Requests):
    """Reads one key."""

    def get(self, key: Key, default: Any, *, r: Any, timeout: Any) -> Steps[Any]:
        """Read one key."""
        timeout_s = check_timeout(timeout)
        found = yield from self.find(self.read_request([key], r, timeout_s), timeout_s)
        return self._value_of(key, found, default)

    def get_versions(self, key: Key, *, r: Any, timeout: Any) -> Steps[Versions[Any]]:
        """Read all that stands under one key, and the context."""
        timeout_s = check_timeout(timeout)
        request = self.read_request([key], r, timeout_s, causality=True)
        found = f.whole((yield from self.find(request, timeout_s)))
        values = [self._decode(key, payload, self.config.codec) for payload in found.payloads]
        return Versions(values, seal(found.causality, self._place(request.keys[0])))

    def contains(self, key: Key, *, r: Any, timeout: Any) -> Steps[bool]:
        """Return whether a key has a value, without decoding it. A failed read raises: it never means "absent" (P9)."""
        timeout_s = check_timeout(timeout)
        return self._is_there((yield from self.find(self.read_request([key], r, timeout_s), timeout_s)))

    def find(self, request: f.GetMany, timeout_s: float) -> Steps[bytes | f.KeyVersions]:
        """Send a read of one key; return what stands there."""
        answer = yield from ask(request, timeout_s, self._session_clock)
        item: bytes | f.KeyVersions | f.Failed = items_of(answer, 1)[0]
        if isinstance(item, f.Failed):
            raise item.error()
        return item

    def _value_of(self, key: Key, found: bytes | f.KeyVersions, default: Any) -> Any:
        if isinstance(found, bytes):
            return self._decode(key, found, self.config.codec)
        return self._resolved(key, found.payloads) if self._is_there(found) else default

    def _is_there(self, found: bytes | f.KeyVersions) -> bool:
        """Whether there is a value. Where the newest version counts, a newer delete hides it."""
        return isinstance(found, bytes) or (bool(found.payloads) and not (found.gone and self._newest))

    def _resolved(self, key: Key, payloads: list[bytes]) -> Any:
        decode, codec = self._decode, self.config.codec
        if len(payloads) == 1 or self._newest:
            return decode(key, payloads[0], codec)
        values = [decode(key, payload, codec) for payload in payloads]
        try:
            return called(resolve, self.resolver, values)
        except Exception as error:
            error.add_note(f"raykv called the resolver with the {len(values)} versions of key {shown(key)}")
            raise


def items_of(answer: f.CoordinatorAnswer, count: int) -> list[Any]:
    """Return the items of a read's answer, one a key. Raises ``CorruptData``."""
    if not isinstance(answer, f.GotMany) or len(answer.items) != count:
        raise unexpected()
    return answer.items

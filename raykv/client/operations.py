"""All operations on one bucket, as generators: see ``raykv.client.exchange`` for what an operation is.

Arguments are checked before anything is sent. Single keys are in ``reads`` and ``writes``, several in ``batches``, ranges
in ``scans``; ``modify``, which reads and then writes, is here. Requests about the store rather than a bucket are in
``administration``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raykv.client.batches import Batches
from raykv.client.given import called
from raykv.client.scans import Scans
from raykv.config import check_level, check_timeout, check_ttl, shown
from raykv.errors import InvalidOption, SiblingsFound, StoreUnavailable
from raykv.protocol import frames as f
from raykv.records.keys import Key, decode_key
from raykv.versions.context import seal

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.client.exchange import Steps
    from raykv.client.writes import WriteResult


class Operations(Batches, Scans):
    """The operations on one bucket."""

    def modify(
        self, key: Key, change: Callable[[Any], Any], default: Any, *, r: Any, w: Any, ttl: Any, timeout: Any
    ) -> Steps[WriteResult]:
        """Read, apply, and write with the context read."""
        timeout_s = check_timeout(timeout)
        if not callable(change):
            raise InvalidOption(f"modify takes a function of the current value; got {shown(change)}")
        check_level("w", self.config.w if w is None else w, self.config.n)
        if ttl is not None:
            check_ttl(ttl)
        until_s = self._session_clock.now_s() + timeout_s
        request = self.read_request([key], r, timeout_s, causality=True)
        found = f.whole((yield from self.find(request, timeout_s)))
        standing = len(found.payloads) + found.gone  # a newer delete stands too
        if standing > 1 and self._newest:
            raise SiblingsFound(
                f"nothing was written: {shown(key)} has {standing} concurrent versions, and modify would drop all but the "
                "newest unseen. Give the handle a resolver (store.bucket(name, resolver=merge)), or merge the versions: "
                "versions = get_versions(key), then put(key, merged, context=versions.context)",
                key=decode_key(request.keys[0]),
                versions=standing,
            )
        present = self._value_of(key, found, default)
        context = seal(found.causality, self._place(request.keys[0]))
        value = called(change, present)
        left_s = until_s - self._session_clock.now_s()
        if left_s <= 0:
            raise StoreUnavailable(
                f"nothing was written: the read and the change took all of the {timeout_s:g} s; give a larger timeout"
            )
        return (yield from self.put(key, value, context=context, w=w, ttl=ttl, timeout=left_s))

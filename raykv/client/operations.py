"""All operations on one bucket, as generators: see ``raykv.client.exchange`` for what an operation is.

Arguments are checked before anything is sent. Single keys are in ``reads`` and ``writes``, several in ``batches``, ranges
in ``scans``; ``modify``, which reads and then writes, is here. Requests about the store rather than a bucket are in
``administration``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raykv.client.atomic import Atomic
from raykv.client.batches import Batches, batch_result
from raykv.client.exchange import ask_info
from raykv.client.explaining import explained
from raykv.client.given import called, pairs_of, several_keys, without_doubles
from raykv.client.location import located
from raykv.client.scans import Scans
from raykv.client.splits import pieces
from raykv.client.views import RingView
from raykv.config import check_level, check_timeout, check_ttl, shown
from raykv.errors import InvalidOption, SiblingsFound, StoreUnavailable
from raykv.protocol import frames as f
from raykv.records.keys import Key, decode_key, encode_key
from raykv.versions.context import seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from raykv.client.exchange import Steps
    from raykv.client.explaining import Explanation
    from raykv.client.location import Location
    from raykv.client.reads import Versions
    from raykv.client.splits import Piece
    from raykv.client.writes import WriteResult


class Operations(Batches, Scans, Atomic):
    """The operations on one bucket. In a linearizable one all writes are changes (``atomic``)."""

    def put(
        self,
        key: Key,
        value: Any,
        *,
        w: Any,
        ttl: Any,
        timeout: Any,
        context: Any = None,
        if_absent: Any = False,
        if_version: Any = None,
        fence: Any = None,
    ) -> Steps[WriteResult]:
        """Write one key."""
        if self.linearizable:
            self.refuse(w=w, ttl=ttl, context=context)
            return self.put_if(key, value, if_absent=if_absent, if_version=if_version, fence=fence, timeout=timeout)
        if if_absent is not False or if_version is not None or fence is not None:
            self.refuse_conditions(if_absent=if_absent, if_version=if_version, fence=fence)
        return super().put(key, value, w=w, ttl=ttl, timeout=timeout, context=context)

    def delete(
        self, key: Key, *, w: Any, timeout: Any, context: Any = None, if_version: Any = None, fence: Any = None
    ) -> Steps[WriteResult]:
        """Delete one key."""
        if self.linearizable:
            self.refuse(w=w, context=context)
            return self.delete_if(key, if_version=if_version, fence=fence, timeout=timeout)
        self.refuse_conditions(if_version=if_version, fence=fence)
        return super().delete(key, w=w, timeout=timeout, context=context)

    def put_many(
        self,
        items: Mapping[Any, Any] | Iterable[tuple[Any, Any]],
        *,
        w: Any,
        ttl: Any,
        timeout: Any,
        if_absent: Any = False,
    ) -> Steps[dict[Any, WriteResult]]:
        """Write pairs; for a repeated key the last pair counts."""
        if not self.linearizable:
            self.refuse_conditions(if_absent=if_absent)
            return (yield from super().put_many(items, w=w, ttl=ttl, timeout=timeout))
        self.refuse(w=w, ttl=ttl)
        if not isinstance(if_absent, bool):
            raise InvalidOption(f"if_absent must be True or False; got {shown(if_absent)}")
        pairs = called(pairs_of, items)
        results = yield from self.put_many_if(pairs, if_absent=if_absent, timeout=timeout)
        return batch_result("writes", [*pairs], results)

    def delete_many(self, keys: Iterable[Key], *, w: Any, timeout: Any) -> Steps[dict[Any, WriteResult]]:
        """Delete keys."""
        if not self.linearizable:
            return (yield from super().delete_many(keys, w=w, timeout=timeout))
        self.refuse(w=w)
        wanted = called(lambda: without_doubles(several_keys(keys)))
        results = yield from self.delete_many_if(wanted, timeout=timeout)
        return batch_result("deletes", wanted, results)

    def get_versions(self, key: Key, *, r: Any, timeout: Any) -> Steps[Versions[Any]]:
        """Read all that stands under one key, and the context."""
        if self.linearizable:
            raise InvalidOption("a linearizable bucket has one value a key: use get_versioned")
        return super().get_versions(key, r=r, timeout=timeout)

    def explain_get(self, key: Key, *, r: Any, timeout: Any) -> Steps[Explanation]:
        """Read one key, and explain it."""
        return explained("get", key, self.get(key, None, r=r, timeout=timeout), self.now_s)

    def explain_contains(self, key: Key, *, r: Any, timeout: Any) -> Steps[Explanation]:
        """Read one key without decoding its value, and explain it."""
        return explained("get", key, self.contains(key, r=r, timeout=timeout), self.now_s)

    def explain_put(self, key: Key, value: Any, **given: Any) -> Steps[Explanation]:
        """Write one key, and explain it. ``given``: as of ``put``."""
        return explained("put", key, self.put(key, value, **given), self.now_s)

    def explain_update(
        self, key: Key, change: Callable[[Any], Any], default: Any, *, timeout: Any
    ) -> Steps[Explanation]:
        """Update one key, and explain it."""
        return explained("update", key, self.update(key, change, default, timeout=timeout), self.now_s)

    def locate(self, key: Key, *, timeout: Any) -> Steps[Location]:
        """Return where one key lives."""
        encode_key(key)
        timeout_s = check_timeout(timeout)
        ring = yield from ask_info(f.GetInfo("ring", timeout_s), timeout_s)
        return located(key, self.config, RingView(ring))

    def splits(
        self, count: int | None, prefix: Key | None, start: Key | None, end: Key | None, *, r: Any, timeout: Any
    ) -> Steps[list[Piece]]:
        """Return what each of the splits of a range covers."""
        return pieces(self, count, prefix, start, end, r=r, timeout=timeout)

    def refuse(self, **given: Any) -> None:
        """Raise ``InvalidOption`` for what a linearizable bucket leaves no choice in (L13)."""
        reasons = {
            "w": "it always writes a majority",
            "ttl": "when a value expires would depend on each reader's clock",
            "context": "it has one value a key: use if_version",
        }
        for name, value in given.items():
            if value is not None:
                raise InvalidOption(f"bucket {self.config.name!r} is linearizable and takes no {name}: {reasons[name]}")

    def refuse_conditions(self, **given: Any) -> None:
        """Raise ``InvalidOption`` for a condition in a bucket that cannot hold to it."""
        for name, value in given.items():
            if value is not None and value is not False:
                self.refuse_elsewhere(name)

    def modify(
        self, key: Key, change: Callable[[Any], Any], default: Any, *, r: Any, w: Any, ttl: Any, timeout: Any
    ) -> Steps[WriteResult]:
        """Read, apply, and write with the context read."""
        if self.linearizable:
            raise InvalidOption("modify is no compare-and-set; a linearizable bucket has one: use update")
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

"""Verdicts: from what single nodes suspect to what the cluster holds (P12).

A suspicion is one node's view, and may be about its own network. So a node is *down* if at least two others say so; Ray's
notice that its process has died is proof and needs no witness (it is dealt with elsewhere). With fewer than three nodes
there can be no two witnesses, and only proof remains.

**A word ends by itself.** A reporter says all that it suspects, over and over; what it no longer says it has taken back,
and what it has not repeated for ``expires_s`` is void. A reporter that dies or freezes leaves no accusation behind: of
three nodes A suspects B and freezes; when C comes to suspect B for a moment, A's old word must not be the second.

**A node that is down is no witness.** When a cut splits five nodes 3 : 2 and all can still reach the supervisor, each side
accuses the other, and by plain counting all five would be down. So nodes are judged one by one, the one with the most
words first, and the words of a judged one are void from there on: the two are judged by three, and what they say about
the three does not count. Among equals (2 : 2) the one goes first whose accusation was complete first, by words that have
been repeated since: arbitrary, but half of the cluster goes on, and the verdict does not swing to and fro.

**Invariant**: whoever is down is so by the words of at least ``reporters`` nodes that were not judged themselves. A
verdict whose witnesses were judged after it falls; its node does not become a witness by that. So the nodes that were
judged only grow in number while words are weighed, and accusing in circles comes to an end.

**After a restart** the others still suspect the node until its first heartbeats have gone round, and would have it down
again at their next report: ``forget`` takes a moment until which words about it are passed over.

Left out: liars. A node that reports living ones needs a second liar.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from raykv.config import MAX_NODES, check_count, check_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_EXPIRES_S = 3600.0


class _Word(NamedTuple):
    until_s: float
    began: int
    """The number of the report in which it was first said; it has been repeated ever since."""


class Verdicts:
    """What reporters said, and what follows. ``InvalidOption`` if ``expires_s`` or ``reporters`` is out of range."""

    def __init__(self, *, expires_s: float, reporters: int = 2) -> None:
        self._expires_s = check_seconds("expires_s", expires_s, MAX_EXPIRES_S)
        self._needed = check_count("reporters", reporters, 1, MAX_NODES)
        self._words: dict[str, dict[str, _Word]] = {}
        """By suspect and reporter."""
        self._pardoned_s: dict[str, float] = {}
        """Until when words about a node are passed over."""
        self._numbers = count()

    def report(self, reporter: str, suspects: Iterable[str], now_s: float) -> None:
        """Take what a node suspects now, in place of all that it said before; nobody at all takes its words back."""
        number = next(self._numbers)
        before = self._drop_words_by(reporter)
        for suspect in suspects:
            if suspect == reporter or now_s < self._pardoned_s.get(suspect, now_s):
                continue
            word = before.get(suspect)
            began = word.began if word and now_s < word.until_s else number
            self._words.setdefault(suspect, {})[reporter] = _Word(now_s + self._expires_s, began)

    def reporters(self, suspect: str, now_s: float) -> list[str]:
        """Return who suspects a node at this moment, sorted, whether or not their words count."""
        return sorted(self._unexpired(suspect, now_s))

    def down(self, now_s: float) -> dict[str, list[str]]:
        """Return the nodes that are down, sorted, each with the reporters whose words count. O(words x down)."""
        began = {suspect: self._unexpired(suspect, now_s) for suspect in sorted(self._words)}
        judged: set[str] = set()
        while True:
            accused = []
            for suspect, words in began.items():
                counted = sorted(number for reporter, number in words.items() if reporter not in judged)
                if suspect not in judged and len(counted) >= self._needed:
                    accused.append((-len(counted), counted[self._needed - 1], suspect))
            if not accused:
                break
            judged.add(min(accused)[2])
        found = {suspect: sorted(began[suspect].keys() - judged) for suspect in sorted(judged)}
        return {suspect: counted for suspect, counted in found.items() if len(counted) >= self._needed}

    def forget(self, node_id: str, until_s: float = float("-inf")) -> None:
        """Drop all words about a node and by it: it was restarted, or has left.

        ``until_s``: until this moment what is said about it is passed over, for the others do not know of it yet.
        """
        self._words.pop(node_id, None)
        self._drop_words_by(node_id)
        self._pardoned_s[node_id] = until_s

    def _unexpired(self, suspect: str, now_s: float) -> dict[str, int]:
        """Return in which report each word about a node that has not ended began, by reporter."""
        words = self._words.get(suspect, {})
        return {reporter: word.began for reporter, word in words.items() if now_s < word.until_s}

    def _drop_words_by(self, reporter: str) -> dict[str, _Word]:
        """Drop them and return them, by suspect."""
        dropped = {}
        for suspect in sorted(self._words):
            words = self._words[suspect]
            if reporter in words:
                dropped[suspect] = words.pop(reporter)
            if not words:
                del self._words[suspect]
        return dropped

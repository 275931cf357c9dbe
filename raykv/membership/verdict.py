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
the three does not count. Among equals (2 : 2) a verdict that stood before stands, else the smaller id is judged first:
arbitrary, but half of the cluster goes on, and the verdict does not swing to and fro.

**Invariant**: whoever is down is so by the words of at least ``reporters`` nodes that were not judged themselves. A
verdict whose witnesses were judged after it falls; its node does not become a witness by that. So the nodes that were
judged only grow in number while words are weighed, and accusing in circles comes to an end.

Left out: liars. A node that reports living ones needs a second liar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.config import MAX_NODES, check_count, check_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_EXPIRES_S = 3600.0


class Verdicts:
    """What reporters said, and what follows. ``InvalidOption`` if ``expires_s`` or ``reporters`` is out of range."""

    def __init__(self, *, expires_s: float, reporters: int = 2) -> None:
        self._expires_s = check_seconds("expires_s", expires_s, MAX_EXPIRES_S)
        self._needed = check_count("reporters", reporters, 1, MAX_NODES)
        self._words: dict[str, dict[str, float]] = {}
        """By suspect and reporter: when the word ends."""
        self._standing: set[str] = set()

    def report(self, reporter: str, suspects: Iterable[str], now_s: float) -> None:
        """Take what a node suspects now, in place of all that it said before; nobody at all takes its words back."""
        self._drop_words_by(reporter)
        for suspect in suspects:
            if suspect != reporter:
                self._words.setdefault(suspect, {})[reporter] = now_s + self._expires_s
        self.down(now_s)  # whoever was judged first stands among equals, even if nobody asks until later

    def reporters(self, suspect: str, now_s: float) -> list[str]:
        """Return who suspects a node at this moment, sorted, whether or not their words count."""
        return sorted(reporter for reporter, until_s in self._words.get(suspect, {}).items() if now_s < until_s)

    def down(self, now_s: float) -> dict[str, list[str]]:
        """Return the nodes that are down, sorted, each with the reporters whose words count. O(words x down)."""
        words = {suspect: set(self.reporters(suspect, now_s)) for suspect in sorted(self._words)}
        judged: set[str] = set()
        while True:
            accused = [
                (-len(counted), suspect not in self._standing, suspect)
                for suspect, reporters in words.items()
                if suspect not in judged and len(counted := reporters - judged) >= self._needed
            ]
            if not accused:
                break
            judged.add(min(accused)[2])
        found = {suspect: sorted(words[suspect] - judged) for suspect in sorted(judged)}
        down = {suspect: counted for suspect, counted in found.items() if len(counted) >= self._needed}
        self._standing = set(down)
        return down

    def forget(self, node_id: str) -> None:
        """Drop all words about a node and by it: it was restarted, or has left."""
        self._words.pop(node_id, None)
        self._drop_words_by(node_id)
        self._standing.discard(node_id)

    def _drop_words_by(self, reporter: str) -> None:
        for suspect in sorted(self._words):
            words = self._words[suspect]
            words.pop(reporter, None)
            if not words:
                del self._words[suspect]

"""A leader's look at keys that its term has not touched yet: what F of the owners hold of each, under the term (L5).

Pure: bodies out, answers in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.protocol import frames as f
from raykv.replica.tenure import held_by_majorities

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.cluster.state import ClusterState
    from raykv.replica.tenure import Place, Tenure


class Looking:
    """One look at keys of one bucket, in any number of partitions."""

    def __init__(
        self,
        bucket_id: int,
        wanted: dict[Place, list[bytes]],
        tenures: dict[Place, Tenure],
        state: ClusterState,
        *,
        is_present: Callable[[Tenure], bool],
        lose: Callable[[Tenure, bytes, str], None],
    ) -> None:
        """``is_present(tenure)``: whether it still leads. ``lose(tenure, term, leader)`` hears of a later term."""
        self._bucket_id = bucket_id
        self._wanted = wanted
        self._tenures = tenures
        self._is_present = is_present
        self._lose = lose
        self._sets = {place: state.write_sets(*place) for place in wanted}
        self._asked: dict[str, list[Place]] = {}
        self._found: dict[Place, dict[str, list[bytes | None]]] = {place: {} for place in wanted}
        for place, sets in self._sets.items():
            if is_present(tenures[place]) and tenures[place].bound_to(sets):
                for node_id in dict.fromkeys(node_id for owners in sets for node_id in owners):
                    self._asked.setdefault(node_id, []).append(place)

    def bodies(self, leader: str) -> dict[str, f.Look]:
        """Return what to ask of each owner."""
        return {
            node_id: f.Look(
                self._bucket_id,
                places[0][1],
                leader,
                [(place[0], self._tenures[place].term, self._wanted[place]) for place in places],
            )
            for node_id, places in self._asked.items()
        }

    def take(self, node_id: str, answer: f.NodeAnswerBody) -> None:
        """Take an owner's answer."""
        places = self._asked[node_id]
        if not isinstance(answer, f.Looked) or len(answer.groups) != len(places):
            return
        for place, (term, leader, records) in zip(places, answer.groups, strict=True):
            if term:
                self._lose(self._tenures[place], term, leader)
            elif len(records) <= len(self._wanted[place]):
                self._found[place].setdefault(node_id, records)

    def enough(self) -> bool:
        """Whether F of each set have shown their records, of all partitions that this node still leads."""
        return all(not self._is_present(tenure) or self._is_shown(place) for place, tenure in self._tenures.items())

    def found(self, place: Place) -> list[list[bytes | None]] | None:
        """Return the copies of each key, up to the first of which too few owners had room to show theirs.

        None if too few owners have answered, or the term is over.
        """
        if not self._is_present(self._tenures[place]) or not self._is_shown(place):
            return None
        answers, found = self._found[place], []
        for at in range(len(self._wanted[place])):
            copies = {node_id: records[at] for node_id, records in answers.items() if at < len(records)}
            if not held_by_majorities(self._sets[place], copies):
                break
            found.append([*copies.values()])
        return found

    def _is_shown(self, place: Place) -> bool:
        return held_by_majorities(self._sets[place], self._found[place])

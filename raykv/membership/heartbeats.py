"""Heartbeats: one counter a node, and a table of all of them that is merged with others' tables.

A node increments its own entry only; an entry higher than the known one is news, and proves that its node ran when it was
made. Merging takes the higher entry of each node, which makes the order, number and path of arriving tables irrelevant
(van Renesse, Minsky and Hayden: A gossip-style failure detection service, Middleware 1998, section 3). An entry is
(incarnation, counter): a restarted process counts from 0 again, in a higher incarnation.

**Whole tables.** Every node increments its counter in every round, and every entry is news: a table of "what changed" would
be the whole table, one round later. ``membership`` says what could be saved; ``scripts/gossip`` shows what it costs.

Omitted: who the members are. Entries of non-members are neither merged nor passed on, because a node that has left the
ring would otherwise circulate for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Table: TypeAlias = dict[str, tuple[int, int]]
"""By node id: (incarnation, counter), both at least 0."""

_NEVER = (0, 0)


class Heartbeats:
    """One node's table. Every operation is O(members)."""

    def __init__(self, node_id: str, incarnation: int) -> None:
        self.node_id = node_id
        self.superseded = False
        """Whether a later incarnation of this node was heard of: this process was given up, and replaced."""
        self._table: Table = {node_id: (incarnation, 0)}

    def set_members(self, node_ids: Iterable[str]) -> None:
        """Keep a table of these nodes and the own one; forget any other."""
        self._table = {node_id: self._table.get(node_id, _NEVER) for node_id in sorted({*node_ids, self.node_id})}

    def beat(self) -> None:
        """Increment the own heartbeat."""
        incarnation, counter = self._table[self.node_id]
        self._table[self.node_id] = (incarnation, counter + 1)

    def table(self) -> Table:
        """Return a copy of the table, sorted by id; (0, 0) is a member never heard of."""
        return dict(self._table)

    def merge(self, table: Table) -> list[str]:
        """Merge newer entries of another's table; return the ids, never the own, whose heartbeat advanced.

        An entry that is not a tuple of two integers from 0 on is skipped, as is a node that is no member.
        """
        advanced = []
        known, own = self._table, self.node_id
        for node_id, entry in table.items():
            try:  # most entries are no news: one comparison each
                if entry <= known.get(node_id, entry) or not _sound(entry):
                    continue
            except TypeError:  # not numbers
                continue
            if node_id == own:
                # Only this node counts its own heartbeat, whatever others report; a later incarnation of it ends this one.
                self.superseded = self.superseded or entry[0] > known[own][0]
                continue
            known[node_id] = entry
            advanced.append(node_id)
        return advanced


def _sound(entry: object) -> bool:
    if type(entry) is not tuple or len(entry) != 2:
        return False
    incarnation, counter = entry
    # An incarnation below 0 is lower than any held, and is never merged.
    return type(incarnation) is int and type(counter) is int and counter >= 0

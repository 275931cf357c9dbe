"""The catalogue of planted bugs: what a store would be without each of its guards."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from simulation.guards_between_nodes import BETWEEN_NODES
from simulation.guards_of_fast_path import OF_FAST_PATH
from simulation.guards_of_leaders import OF_LEADERS
from simulation.guards_of_maintenance import OF_MAINTENANCE
from simulation.guards_of_moves import OF_MOVES
from simulation.guards_of_queues import OF_QUEUES
from simulation.guards_on_disk import ON_DISK
from simulation.planting import Planted, edited

if TYPE_CHECKING:
    from collections.abc import Iterator

CATALOGUE: dict[str, Planted] = {
    bug.name: bug
    for bug in (*ON_DISK, *BETWEEN_NODES, *OF_FAST_PATH, *OF_MAINTENANCE, *OF_MOVES, *OF_LEADERS, *OF_QUEUES)
}


@contextlib.contextmanager
def planted(name: str) -> Iterator[Planted]:
    """Switch a guard off for the time of the block. ``KeyError`` if there is none of that name; see ``planting``."""
    bug = CATALOGUE[name]
    with edited(bug.edits):
        yield bug

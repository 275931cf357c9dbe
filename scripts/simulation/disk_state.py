"""What a disk of the simulation holds of the cluster's state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.sim.nodes import PATH
from raykv.storage.blob import read_blob
from raykv.storage.directory import DIRECTORY_ID_BYTES, REGISTER_NAME

if TYPE_CHECKING:
    from raykv.sim.disk import SimDisk


def ballot_on_disk(disk: SimDisk) -> tuple[int, int]:
    """Return (generation, version) of the cluster's state that a node's disk holds; (0, 0) if it holds none."""
    try:
        _, payload = read_blob(disk, f"{PATH}/{REGISTER_NAME}", b"RAYKVREG", 1, 1 << 25)
        kept = f.node_answers.decode(payload[DIRECTORY_ID_BYTES:]).body
    except (OSError, CorruptData):
        return 0, 0
    assert isinstance(kept, f.AcceptorAnswer)
    return kept.generation, kept.version

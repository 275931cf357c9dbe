"""The guards of the fast path, as bugs to plant: what a client takes for plain while it coordinates for itself.

Those that the simulation misses are held by ``tests/coordinator/test_fast_path.py`` alone.
"""

from __future__ import annotations

from simulation.planting import Edit, Planted

_FAST_PATH = "raykv.coordinator.fast_path:FastPath"

OF_FAST_PATH = (
    Planted(
        "fast path: a write of a dropped bucket is completed",
        "P11",
        "no owner takes it any more; each says at once that the bucket is gone, and is asked again as soon",
        (
            Edit(
                "raykv.coordinator.writes:Writes.complete",
                "if not routing.is_there(entry.bucket_id):",
                "if not routing:",
            ),
        ),
    ),
    Planted(
        "fast path: answers that differ are taken",
        "P9",
        "a read returns what the first replica holds, though another holds something else, and repairs nothing",
        (
            Edit(f"{_FAST_PATH}._read_one", "if records.count(records[0]) != len(records):", "if not records:"),
            Edit(f"{_FAST_PATH}._read_many", "if others.count(first) != len(others):", "if not others:"),
        ),
    ),
    Planted(
        "fast path: a scan takes one of differing answers",
        "P15, P9",
        "two replicas differ, and a scan shows what one of them says, and repairs nothing",
        (
            Edit(
                "raykv.coordinator.scans:_agreed",
                "return agreed if all(dict(part).items() <= known for part in parts[:-1]) else None",
                "return agreed",
            ),
        ),
    ),
    Planted(
        "fast path: a scan does not repair what one replica lacks",
        "P15, P9",
        "a scan shows a value that is on one replica only, and the next read asks the others",
        (
            Edit(
                "raykv.coordinator.scans:_agreed",
                "if len(agreed) * r != sum(map(len, parts)):",
                "if not agreed:",
            ),
        ),
    ),
    Planted(
        "fast path: R owners of before a move are enough",
        "P4, P9",
        "a read shows what a failed write left on old owners; one that asks the new owners, a step later, does not",
        (
            Edit(
                "raykv.coordinator.routing:Routing.owners_in_both_rings",
                "if all(node in owners for owners in sets)",
                "if sets",
            ),
        ),
    ),
    Planted(
        "fast path: a write is stamped anew when it goes the quorum path",
        "P8",
        "too few have acknowledged it in time; it is begun again, and has two dots or two stamps",
        (
            Edit(
                f"{_FAST_PATH}.write",
                "yield from self._send(write, epoch)\n    return write\n",
                "yield from self._send(write, epoch)\n    return None if write.taken_over else write\n",
            ),
        ),
    ),
    Planted(
        "fast path: what was shadowed is acknowledged",
        "P7",
        "a replica that holds something newer counts, and a write is acknowledged that nobody will ever see",
        (
            Edit(
                "raykv.coordinator.in_flight:InFlightWrite.note",
                "if not is_write(answer, items) or not acknowledges_all(answer.newer):",
                "if not is_write(answer, items):",
            ),
        ),
    ),
)

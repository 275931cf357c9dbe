"""The guards of the straight way, as bugs to plant: what a client takes for plain while it coordinates for itself."""

from __future__ import annotations

from raykv.sim.planting import Edit, Planted

_STRAIGHT = "raykv.replication.straight:Straight"

OF_STRAIGHT = (
    Planted(
        "straight: answers that differ are taken",
        "P9",
        "a read returns what the first replica holds, though another holds something else, and repairs nothing",
        (Edit(f"{_STRAIGHT}.get", "if any(record != records[0] for record in records):", "if not records:"),),
    ),
    Planted(
        "straight: a write is stamped anew when it goes the usual way",
        "P8",
        "too few have acknowledged it in time; it is begun again, and has two dots or two stamps",
        (
            Edit(
                f"{_STRAIGHT}.write",
                "return about",
                "return None",
            ),
        ),
    ),
    Planted(
        "straight: what was shadowed is acknowledged",
        "P7",
        "a replica that holds something newer counts, and a write is acknowledged that nobody will ever see",
        (
            Edit(
                f"{_STRAIGHT}._holds",
                "isinstance(answer, f.WriteDone) and answer.newer == [0]",
                "isinstance(answer, f.WriteDone)",
            ),
        ),
    ),
    Planted(
        "straight: the stamp that it had is given back",
        "P7",
        "a write is stamped again, above what is stored; its client is told the former stamp, and writes below it later",
        (
            Edit(
                f"{_STRAIGHT}.finish",
                "Causality(time_of(records[0])) if lww else write.causality",
                "write.causality if lww else write.causality",
            ),
        ),
    ),
    Planted(
        "straight: what was sent is told as refused",
        "P8",
        'a write was sent, some hold it, and all refuse it the second time: "nothing was written", and it surfaces later',
        (Edit(f"{_STRAIGHT}.finish", "was_sent=True", "was_sent=False"),),
    ),
    Planted(
        "straight: who missed a write gets no hint",
        "P11",
        "a write has its W; the node that was away is not told of it",
        (Edit(f"{_STRAIGHT}.see_to", "if write.taken_over:", "if write.acks:"),),
    ),
    Planted(
        "straight: what thaws goes on",
        "P8",
        "a client is frozen between the two rounds of a write, and sends it out after its thaw",
        (
            Edit(
                f"{_STRAIGHT}.write",
                "if routing.clock.monotonic_s() >= deadline_s:",
                "if routing.clock.monotonic_s() >= 1e9:",
            ),
        ),
    ),
    Planted(
        "straight: one set of owners is enough",
        "P4",
        "a partition is moving, and a write is acknowledged by its old owners only",
        (
            Edit(
                f"{_STRAIGHT}.write",
                "if len(sets) != 1 or not self._all_well(sets[0]):",
                "if not self._all_well(sets[0]):",
            ),
        ),
    ),
    Planted(
        "straight: a later epoch is named to former owners",
        "P4",
        "a move begins between the two rounds of a write, and the former owners believe that the others are asked too",
        (Edit(f"{_STRAIGHT}.write", "made_ms), epoch)", "made_ms), routing.epoch)"),),
    ),
    Planted(
        "straight: an earlier run is believed",
        "P6",
        "a node was frozen and given up; its former process answers, and counts",
        (
            Edit(
                "raykv.replication.peers:Peers.plain",
                "if answer.incarnation != peer.incarnation:",
                "if answer.incarnation < 0:",
            ),
        ),
    ),
)

"""The guards of linearizable buckets, as bugs to plant (L1 to L12)."""

from __future__ import annotations

from simulation.planting import Edit, Planted

_LEADERS = "raykv.replica.leader:Leaders"
_TAKEOVERS = "raykv.replica.takeover:Takeovers"
_VOTER = "raykv.replica.voting:Voter"
_CHANGES = "raykv.coordinator.changes:Changes"

OF_LEADERS = (
    Planted(
        "a receipt goes with the deadline that its leader was given",
        "L12",
        "another leader, which was given a later one, finds no receipt of the call and makes the change anew",
        (Edit(f"{_LEADERS}._kept_until_s", "max(request.expires_s, now_s + left_s)", "request.expires_s"),),
    ),
    Planted(
        "a promise is not looked at before a record is accepted",
        "L2",
        "a leader that has thawed writes at an owner that has promised its successor",
        (
            Edit(
                f"{_VOTER}._accept_group",
                "promised = self._raise(partition, n, term, leader)",
                "promised = self._raise(partition, n, term, leader) or self._promises.of(partition, n)",
            ),
        ),
    ),
    Planted(
        "a look is answered whatever is promised",
        "L2",
        "a superseded leader takes up a key from owners that its successor has not written to yet",
        (
            Edit(
                f"{_VOTER}._look",
                "promised = self._raise(partition, request.n, term, request.leader)",
                "promised = self._raise(partition, request.n, term, request.leader) or "
                "self._promises.of(partition, request.n)",
            ),
        ),
    ),
    Planted(
        "an incomplete node votes",
        "L3",
        "an owner that was wiped counts among those that hold what a leader has looked up, and holds nothing",
        (
            Edit(f"{_VOTER}._promise", "if not self._replica.complete_for(request.partition):", "if False:"),
            Edit(f"{_VOTER}._look", "if not self._replica.complete_for(partition):", "if False:"),
            Edit(f"{_VOTER}._accept", "if not self._replica.complete_for(partition):", "if False:"),
            Edit(f"{_VOTER}.accept", "if not self._replica.complete_for(partition):", "if False:"),
        ),
    ),
    Planted(
        "healed without promises",
        "L3",
        "an owner that promised a successor is wiped and heals, and the superseded leader writes with it",
        (
            Edit(
                "raykv.repair.anti_entropy:AntiEntropy._take_promises",
                "await self._local.promise(partition, answer.items)",
                "del answer",
            ),
        ),
    ),
    Planted(
        "a candidate asks once",
        "L4",
        "a promise counts whose directory was wiped since; and what the owners held when they promised is not known",
        (
            Edit(
                "raykv.replica.takeover:_Vote._same",
                "return [at for at, directory_id in self._confirmed.items() if self.granted.get(at) == directory_id]",
                "return [*self.granted]",
            ),
        ),
    ),
    Planted(
        "a candidate promises last",
        "L1",
        "an owner that promised it is wiped, heals from the others and learns of no term; then the former leader writes",
        (
            Edit(
                f"{_TAKEOVERS}._vote",
                "answer, position = self._replica.handle(f.Promise(partition, n, term, self._node_id))",
                "answer, position = f.Promised(True, term, self._node_id, self._replica.directory_id), 0",
            ),
            Edit(
                f"{_TAKEOVERS}._vote",
                "return vote if self._replica.promises.of(partition, n).term == term else None",
                "last, _ = self._replica.handle(f.Promise(partition, n, term, self._node_id))\n"
                "            return vote if isinstance(last, f.Promised) and last.granted else None",
            ),
        ),
    ),
    Planted(
        "a term goes on after a restart",
        "L1",
        "the restarted leader counts from one again under its old term: two records of one name",
        (
            Edit(
                f"{_TAKEOVERS}._take_over",
                "term = pack_term(number, self._random.getrandbits(64))",
                "own = self._replica.promises.of(*place)\n"
                "    term = own.term if own.leader == self._node_id else pack_term(number, self._random.getrandbits(64))",
            ),
        ),
    ),
    Planted(
        "a new leader believes its own copy",
        "L5",
        "it missed the last record of the former leader, and writes on top of what stood before",
        (
            Edit(
                "raykv.replica.looking:Looking._is_shown",
                "return held_by_majorities(self._sets[place], self._found[place])",
                "return bool(self._found[place])",
            ),
        ),
    ),
    Planted(
        "copies that differ are not written anew",
        "L5",
        "a value on one owner is shown, the next leader's majority lacks it, and the value before it is shown again",
        (
            Edit(
                f"{_LEADERS}._adopt",
                "if any(record is None or stamp_of(record) != head.stamp for record in records) and newest is not None:",
                "if False:",
            ),
        ),
    ),
    Planted(
        "one owner is enough",
        "L6",
        "the leader's own copy acknowledges a change, and the leader is lost",
        (
            Edit(
                "raykv.replica.tenure:Round.note",
                "if self.met or not held_by_majorities(self.sets, self._accepted):",
                "if self.met:",
            ),
        ),
    ),
    Planted(
        "records are counted by key",
        "L6",
        "after a purge a new record of the term stands below the tombstone that one owner still has",
        (
            Edit(
                f"{_LEADERS}._write",
                "stamp = tenure.next_stamp()",
                "stamp = tenure.term + (int.from_bytes(head.stamp[16:]) + 1).to_bytes(8)",
            ),
        ),
    ),
    Planted(
        "a leader reads without a round",
        "L7",
        "a superseded leader shows its head, which its successor has written over",
        (
            Edit(
                f"{_LEADERS}._evaluate",
                "return tenure.wait(f.Settled(c.DONE, head.version, head.payload), self._is_due)",
                "return f.Settled(c.DONE, head.version, head.payload)",
            ),
        ),
    ),
    Planted(
        "the round under way is enough for a read",
        "L7",
        "a value is shown that only the leader holds: the round began before it was written",
        (
            Edit(
                f"{_LEADERS}._evaluate",
                "return tenure.wait(f.Settled(c.DONE, head.version, head.payload), self._is_due)",
                "waiter = Waiter(tenure, f.Settled(c.DONE, head.version, head.payload))\n"
                "        (tenure.round.waiters if tenure.round is not None else tenure._waiters).append(waiter)\n"
                "        self._is_due(tenure)\n"
                "        return waiter",
            ),
        ),
    ),
    Planted(
        "a plain read ignores what is promised",
        "L8",
        "a record that was never acknowledged is spread by a repair, read, and then written over from what stood before",
        (
            Edit("raykv.coordinator.changes:plainly_read", "if promised != term:", "if False:"),
            Edit(
                "raykv.coordinator.changes:plainly_read",
                "if linear.term_of(record) != term and not any(is_head for _, _, is_head in copies):",
                "if False:",
            ),
        ),
    ),
    Planted(
        "a plain read goes on while its partition moves",
        "L8",
        "old owners show a record that the new ones never got, and the new ones are read next",
        (
            Edit(
                f"{_CHANGES}._asked",
                "owners = routing.settled_at(place)",
                "owners = routing.present.read_set(*place)",
            ),
        ),
    ),
    Planted(
        "a term is kept over a move",
        "L9",
        "a leader that was superseded among the old owners writes at the new ones, which have promised nobody",
        (
            Edit(
                "raykv.replica.tenure:Tenure.bound_to",
                "bound = all(frozenset(owners) in self._sets for owners in sets)",
                "bound = True",
            ),
            Edit("raykv.repair.anti_entropy:AntiEntropy.take_over", "if is_led:", "if False:"),
        ),
    ),
    Planted(
        "F of both sets together are enough",
        "L9, P4",
        "a change is acknowledged by old owners alone, and looked up at new ones",
        (
            Edit(
                "raykv.replica.tenure:held_by_majorities",
                "return all(sum(node_id in nodes for node_id in owners) >= quorum(len(owners)) for owners in sets)",
                "return len({each for owners in sets for each in owners} & {*nodes}) >= quorum(len(sets[0]))",
            ),
        ),
    ),
    Planted(
        "a leader of an old epoch is heard",
        "L9, P4",
        "a leader that has slept through a move writes to the old owners only, and they take it",
        (
            Edit(
                "raykv.replica.handlers:Replica.outdated",
                "if epoch < state.epoch and any(",
                "if epoch < 0 and any(",
            ),
        ),
    ),
    Planted(
        "receipts are not looked at",
        "L10",
        "an add that the former leader has acknowledged is sent again to its successor, and counts twice",
        (Edit(f"{_LEADERS}._former", "kept = head.receipts.get(change.lane)", "kept = None"),),
    ),
    Planted(
        "receipts stay with the leader",
        "L10",
        "a new leader finds the value without its receipts",
        (
            Edit(
                "raykv.replica.applying:Head.record",
                "receipts = tuple(kept.receipt for kept in self.receipts.values())",
                "receipts = ()",
            ),
        ),
    ),
    Planted(
        "a repeated refusal leaves nothing",
        "L11",
        "a change that was reported as refused comes to light with the copy of the former leader",
        (Edit(f"{_LEADERS}._evaluate", "if not done.writes and not change.resent:", "if not done.writes:"),),
    ),
    Planted(
        "a change may take longer than what is dead is kept",
        "L12",
        "a delete is sent again when its tombstone is purged with the receipt, and deletes what was put since",
        (
            Edit(
                f"{_CHANGES}.change",
                "deadline_s = min(deadline_s, routing.clock.monotonic_s() + min(MAX_CHANGE_S, grace_s / 4))",
                "deadline_s = deadline_s + 0 * grace_s",
            ),
            Edit(f"{_LEADERS}.apply", "if not left_s <= self._most_s + 1.0:", "if False:"),
        ),
    ),
    Planted(
        "an old record is accepted after a purge",
        "L12, P10",
        "a record that was on its way for longer than the grace brings back what all have forgotten",
        (
            Edit(
                f"{_VOTER}._accept",
                "if request.made_ms and now_ms - request.made_ms > self._max_age_ms:",
                "if False:",
            ),
        ),
    ),
    Planted(
        "a former call of a lane is not refused",
        "L10",
        "a change that was on its way for long is carried out a second time, after its lane has gone on",
        (
            Edit("raykv.replica.lanes:Lanes.of", "elif number < known.number:", "elif False:"),
            Edit(
                f"{_LEADERS}._former",
                "if kept is None or kept.receipt.number < change.number:",
                "if kept is None or kept.receipt.number != change.number:",
            ),
        ),
    ),
    Planted(
        "a lane goes on though a sending of its call was not answered",
        "L10",
        "of two owners that are asked one makes a change, and forgets it with the lane's next call; then the other makes it",
        (Edit("raykv.client.lanes:Lane.next", "if not self.settled:", "if False:"),),
    ),
    Planted(
        "a record of a later term counts for this one",
        "L6",
        "an owner that got a later term's record by repair merges a change away, and is counted as having it",
        (Edit(f"{_VOTER}._accept_group", "above = max(above, stands)", "above = b''"),),
    ),
)

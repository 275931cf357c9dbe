"""The guards of quorums, clocks, clients and the cluster's state, as bugs to plant."""

from __future__ import annotations

from simulation.planting import Edit, Planted

_SHADOWED = "if acknowledges(time) or self._newer_counts or item.restamps:"
_STAMP = "stamp_of(incoming) > stamp_of(stored)"
_UNTOUCHED = "if item.acks or item.newer or item.maybe or item.pending else"

BETWEEN_NODES = (
    # ---- writes ----
    Planted(
        "shadowed write acknowledged",
        "P7",
        "a replica that holds something newer counts, and a write is acknowledged that nobody will ever see",
        (Edit("raykv.coordinator.rounds:WriteRound.answered", _SHADOWED, "if time >= 0:"),),
    ),
    Planted(
        "refusal counted as acknowledgement",
        "P7",
        "a node that did not take the write is counted among the W that hold it",
        (
            Edit(
                "raykv.coordinator.write_fanout:WriteFanout._note",
                "    self._round.failed(outcome.node_id, outcome.about, refused)",
                "    if refused:\n"
                "        self._round.answered(outcome.node_id, outcome.about, [0] * len(outcome.about))\n"
                "    else:\n"
                "        self._round.failed(outcome.node_id, outcome.about, refused)",
            ),
        ),
    ),
    Planted(
        "silence counted as acknowledgement",
        "P7",
        "a node that does not answer is counted among the W that hold the write",
        (
            Edit(
                "raykv.coordinator.write_fanout:WriteFanout._note",
                "    self._round.failed(outcome.node_id, outcome.about, refused)",
                "    if refused:\n"
                "        self._round.failed(outcome.node_id, outcome.about, refused)\n"
                "    else:\n"
                "        self._round.answered(outcome.node_id, outcome.about, [0] * len(outcome.about))",
            ),
        ),
    ),
    Planted(
        "acknowledgements carried over to a new stamp",
        "P7",
        "a write is stamped again, and those count that hold it under the former stamp, below what it had to pass",
        (Edit("raykv.coordinator.rounds:WriteRound.restamped", "    item.acks.clear()\n", ""),),
    ),
    Planted(
        "answers to a former stamp counted",
        "P7",
        "a late answer to the former stamp counts for the new one, which its node may never get",
        (
            Edit(
                "raykv.coordinator.rounds:WriteRound.answered",
                "if attempt != item.attempt:",
                "if attempt > item.attempt:",
            ),
        ),
    ),
    Planted(
        "a retry is stamped anew",
        "P7, P8",
        "one write has two stamps, and between them fits another's",
        (
            Edit(
                "raykv.coordinator.write_fanout:WriteFanout.run",
                "                self._send(fan, round_.more())\n",
                "                from raykv.records.kinds import is_vector\n\n                asks = round_.more()\n"
                "                for index in sorted({index for indexes in asks.values() for index in indexes}):\n"
                "                    if self._restamper is not None and not is_vector(self._records[index]):\n"
                "                        self._records[index] = self._restamper.restamp(self._records[index], 0)\n"
                "                self._send(fan, asks)\n",
            ),
        ),
    ),
    Planted(
        "given up counted as written",
        "P7",
        "a write that could not be stamped above what is stored is acknowledged",
        (Edit("raykv.coordinator.rounds:WriteRound.settled", " and index not in self._given_up", ""),),
    ),
    Planted(
        "unknown outcome reported as refused",
        "P8",
        "no answer came, the client is told that nothing was written, and the write surfaces later",
        (
            Edit(
                "raykv.coordinator.rounds:WriteRound.untouched",
                _UNTOUCHED,
                "if item.acks or item.newer or not item.refusals else",
            ),
        ),
    ),
    Planted(
        "what stands under a former stamp is forgotten",
        "P8",
        'a write is stamped again and then refused by all: "nothing was written", and its first stamp stands',
        (
            Edit(
                "raykv.coordinator.rounds:WriteRound.restamped",
                "item.maybe = item.maybe or bool(item.acks or item.pending)",
                "item.maybe = False",
            ),
        ),
    ),
    Planted(
        "a node's failed disk reported as refused",
        "P8",
        'the log could not be synced, yet its bytes are there after the restart: "nothing was written" was wrong',
        (
            Edit(
                "raykv.cluster.peers:Peers._call_incarnation",
                'if answer.reason == "failed":',
                'if answer.reason == "never":',
            ),
        ),
    ),
    Planted(
        "the coordinator's death reported as refused",
        "P8",
        "the coordinator dies with the write under way; the client is told that nothing was written",
        (
            Edit(
                "raykv.client.writes:Writes._settle_writes",
                "case PeerAbsent():",
                "case PeerFailure():",
            ),
        ),
    ),
    Planted(
        "a write is sent twice",
        "P8",
        "the coordinator dies after the write was done; the client sends it again, over what was written since",
        (
            Edit(
                "raykv.client.driver:_may_repeat",
                "(exchange.repeatable and not isinstance(failure, PeerSilent))",
                "not isinstance(failure, PeerSilent)",
            ),
        ),
    ),
    Planted(
        "what comes too late is carried out",
        "P8",
        "a coordinator thaws, and does what its client knows as unknown, over what was written since",
        (
            Edit(
                "raykv.coordinator.judgements:is_too_late",
                "(request.run != run or now_s > request.expires_s)",
                "request.run != run",
            ),
            Edit(
                "raykv.coordinator.coordinator:Coordinator._deadline_s",
                "return min(deadline_s, request.expires_s)",
                "return max(deadline_s, request.expires_s)",
            ),
        ),
    ),
    Planted(
        "what thaws goes on",
        "P8",
        "a coordinator is frozen before it has sent a write, and sends it out after its thaw",
        (
            Edit("raykv.coordinator.driver:_left_s", "if left_s <= 0:", "if left_s <= -1e9:"),
            Edit(
                "raykv.coordinator.driver:Driver._ask", "now_s >= write.deadline_s", "now_s >= write.deadline_s + 1e9"
            ),
            Edit(
                "raykv.coordinator.fast_path:FastPath.write",
                "routing.clock.monotonic_s() >= deadline_s",
                "deadline_s < 0",
            ),
            Edit(
                "raykv.coordinator.write_fanout:WriteFanout.run",
                "silent_at_s = clock.monotonic_s() + SILENT_S",
                "silent_at_s = clock.monotonic_s() + SILENT_S; deadline_s += 3.0",
            ),
            Edit(
                "raykv.coordinator.driver:Driver._call",
                "min(CALL_TIMEOUT_S, left_s)",
                "max(0.001, min(CALL_TIMEOUT_S, left_s))",
            ),
        ),
    ),
    # ---- vectors ----
    Planted(
        "a blind write looks at one replica",
        "P7",
        "a write without a context asks a replica that missed an acknowledged value, and leaves it standing beside",
        (
            Edit(
                "raykv.coordinator.judgements:shown_needed",
                "return n - least + 1 if 2 * least > n else 1",
                "return 1",
            ),
        ),
    ),
    Planted(
        "a blind write supersedes nothing",
        "P7",
        "every write without a context becomes a sibling of all others",
        (Edit("raykv.coordinator.writes:Writes.stamped", "seen = union(seen, causality.seen)", "seen = ()"),),
    ),
    Planted(
        "a context is taken for all there is",
        "P7",
        "a write discards what its writer has not seen: a concurrent write is lost",
        (
            Edit(
                "raykv.coordinator.writes:Writes.stamped",
                "        seen = item.seen.seen\n",
                "        seen = union(item.seen.seen, unpack_causality(given.causality).seen)\n",
            ),
        ),
    ),
    Planted(
        "a dot stands for all before it",
        "P7",
        "a plain version vector: a write discards a concurrent one that went through the same node",
        (Edit("raykv.versions.causality:with_dot", "((actor, counter, counter),)", "((actor, 1, counter),)"),),
    ),
    Planted(
        "stamped below what was seen",
        "P7",
        "a coordinator's clock is behind, and what supersedes a value is older than it",
        (
            Edit(
                "raykv.coordinator.writes:Writes._next_time",
                "self._hybrid.observe(above, now_ms)",
                "self._hybrid.observe(0 * above, now_ms)",
            ),
        ),
    ),
    Planted(
        "an incomplete node gives dots",
        "P1",
        "a node that lost its directory shows nothing, and what was acknowledged is left standing",
        (Edit("raykv.replica.handlers:Replica._reserve", "if not self.complete:", "if self.complete is None:"),),
    ),
    Planted(
        "an id is gone on with after a restart",
        "P2",
        "a node forgets which dots it gave, and gives one a second time",
        (
            Edit(
                "raykv.replica.dot_allocator:DotAllocator.__init__", "self._run = self._draw()", "self._run = bytes(8)"
            ),
        ),
    ),
    Planted(
        "dots given out are forgotten",
        "P2",
        "a dot is given again while the write that has it is on its way",
        (
            Edit(
                "raykv.replica.dot_allocator:DotAllocator.kept",
                "is_gapless(vector.seen_of(record) if seen is None else seen, entry.actor, entry.last)",
                "entry is not None",
            ),
        ),
    ),
    Planted(
        "what was superseded comes back",
        "vector",
        "two replicas meet, and versions stand again that one of them had seen superseded",
        (
            Edit("raykv.versions.dvvset:sync", " if s.dot in in_other or not contains(other.seen, s.dot)}", "}"),
            Edit("raykv.versions.dvvset:sync", " if s.dot in in_one or not contains(one.seen, s.dot)}", "}"),
        ),
    ),
    Planted(
        "what comes in is taken for all",
        "vector",
        "a replica keeps the write that came in, and forgets the versions that it had",
        (
            Edit(
                "raykv.versions.merging:merge",
                "if dvvset.replaces(new, vector.seen_of(stored)):",
                "if new:",
            ),
        ),
    ),
    Planted(
        "a tombstone hides what it has not seen",
        "vector",
        "a delete, and a write at the same time: the write is acknowledged, and nobody sees it",
        (
            Edit(
                "raykv.versions.dvvset:values",
                "payloads = [record.payload for record in records if record.live(now_ms)]",
                "deleted = any(record.tombstone for record in records)\n"
                "    payloads = [record.payload for record in records if record.live(now_ms) and not deleted]",
            ),
        ),
    ),
    Planted(
        "an older write hides a delete",
        "P7",
        "a write that nobody acknowledged surfaces after a later delete was acknowledged, and the key has a value again",
        (Edit("raykv.versions.dvvset:values", "bool(payloads) and not records[0].live(now_ms)", "False"),),
    ),
    # ---- reads ----
    Planted(
        "no read repair",
        "P9",
        "a value that is on one replica only is read, and the next read asks the others",
        (Edit("raykv.coordinator.reads:Reads._repair", "if not behind:", "if behind is not None:"),),
    ),
    Planted(
        "read returns before its repair",
        "P9",
        "a read returns what R replicas do not hold yet, and the next read asks the others",
        (
            Edit(
                "raykv.coordinator.reads:Reads._repair",
                "WriteRound(sets_of, r, newer_counts",
                "WriteRound(sets_of, 1, newer_counts",
            ),
        ),
    ),
    Planted(
        "any record will do for a repair",
        "P9",
        "a replica that holds an older record counts among the R that hold what was read",
        (Edit("raykv.coordinator.rounds:ReadRound.holders", "if covers(held, record)", "if held is not None"),),
    ),
    Planted(
        "a repair is stamped anew",
        "P9",
        "a repair meets something newer, and puts the old value above it",
        (Edit("raykv.coordinator.reads:Reads._repair", "newer_counts=True", "newer_counts=False"),),
    ),
    Planted(
        "one answer fewer than R",
        "P9",
        "a read asks R replicas and takes the first R - 1",
        (
            Edit(
                "raykv.coordinator.rounds:AskRound.answered",
                "if len(item.answers) >= self._r:",
                "if len(item.answers) >= max(1, self._r - 1):",
            ),
        ),
    ),
    Planted(
        "a read without its quorum finds nothing",
        "P9",
        "too few replicas answer, and the client is told that the key is absent",
        (
            Edit(
                "raykv.coordinator.reads:Reads._repair",
                "            results.append(quorum_not_met(r, primaries, round_.answers(index)))",
                "            results.append(round_.merged(index))",
            ),
        ),
    ),
    Planted(
        "an unreadable record is taken for absent",
        "P9",
        "a node cannot read a record, for its block is corrupt, and counts as one that never had it",
        (
            Edit(
                "raykv.coordinator.reads:_note_read",
                "unreadable, left = set(answer.unreadable), set(answer.left)",
                "unreadable, left = set(answer.unreadable[:0]), set(answer.left)",
            ),
        ),
    ),
    Planted(
        "an incomplete node answers reads",
        "P1",
        'a node that lost its directory says "absent", and a read of it and of one that was away finds nothing',
        (Edit("raykv.replica.handlers:Replica._read", "if not self.complete:", "if self.complete is None:"),),
    ),
    Planted(
        "a tombstone is answered as absent",
        "P9",
        "a replica that missed the delete brings the deleted value back",
        (
            Edit(
                "raykv.replica.handlers:Replica._read",
                "None if found is None else found.record if",
                "None if found is None or len(header_of(found.record)) == len(found.record) else found.record if",
            ),
            Edit(
                "raykv.replica.handlers:Replica._read_one",
                "None if found is None else public(found.record)",
                "None if found is None or len(header_of(found.record)) == len(found.record) else public(found.record)",
            ),
        ),
    ),
    Planted(
        "expired values are read",
        "P9",
        "a time to live has passed, and the value is still there",
        (
            Edit("raykv.versions.merging:shown", "if taken.live(now_ms) else", "if not taken.tombstone else"),
            Edit("raykv.versions.dvvset:values", "if record.live(now_ms)]", "if not record.tombstone]"),
        ),
    ),
    Planted(
        "expiry by the node's clock",
        "P9",
        "a node whose clock is ahead drops what has not expired, and an older value comes to light",
        (
            Edit(
                "raykv.replica.handlers:Replica._read",
                "    for at in range(0, len(keys), LOOK_UP):\n",
                "    from raykv.versions import shown\n\n    for at in range(0, len(keys), LOOK_UP):\n",
            ),
            Edit(
                "raykv.replica.handlers:Replica._read",
                "None if found is None else found.record if",
                "None if found is None or not shown(found.record, self._wall_ms()).payloads else found.record if",
            ),
            Edit(
                "raykv.replica.handlers:Replica._read_one",
                "    record = None if found is None else public(found.record)\n",
                "    from raykv.versions import shown\n\n"
                "    gone = found is None or not shown(found.record, self._wall_ms()).payloads\n"
                "    record = None if gone else public(found.record)\n",
            ),
        ),
    ),
    Planted(
        "the answer that came last stands",
        "P9",
        "a coordinator takes the latest answer for the newest record",
        (Edit("raykv.coordinator.rounds:ReadRound.merged", "result = merge(result, record)", "result = record"),),
    ),
    Planted(
        "the record that came last stands",
        "lww",
        "a late write of long ago replaces what is newer",
        (Edit("raykv.versions.lww:merge", _STAMP, "stamp_of(incoming) != stamp_of(stored)"),),
    ),
    # ---- scans ----
    Planted(
        "a scan takes the first of differing answers",
        "P15, P9",
        "two replicas differ, and a scan shows what the one says that answered first",
        (Edit("raykv.coordinator.scans:ScanCoordinator._settle", " or len(set(seen[key])) > 1]", "]"),),
    ),
    Planted(
        "a scan does not repair what one replica lacks",
        "P15, P9",
        "a scan shows a value that is on one replica only, and the next read asks the others",
        (Edit("raykv.coordinator.scans:ScanCoordinator._settle", "if len(seen[key]) < request.r or", "if"),),
    ),
    Planted(
        "a scan returns what it has",
        "P15",
        "too few replicas answer, and the scan leaves out what they have",
        (
            Edit(
                "raykv.coordinator.scans:ScanCoordinator._gather",
                "        raise QuorumNotMet(",
                "        return answers\n        raise QuorumNotMet(",
            ),
        ),
    ),
    Planted(
        "a scan leaves out what cannot be read",
        "P15",
        "the quorum read of a key fails, and the scan goes on without that key",
        (
            Edit(
                "raykv.coordinator.scans:ScanCoordinator._settle",
                "                raise record\n",
                "                continue\n",
            ),
        ),
    ),
    Planted(
        "an incomplete node answers scans",
        "P1, P15",
        "a node that lost its directory says that there is nothing, and so does one that was away",
        (Edit("raykv.replica.handlers:Replica._scan", "if not self.complete:", "if self.complete is None:"),),
    ),
    Planted(
        "a scan shows what is not durable",
        "P3",
        "a scan shows a value, the host loses power, and a later read finds an older one",
        (
            Edit(
                "raykv.replica.scanning:Scanner.scan",
                "position = max(position, found.position)",
                "position = max(position, 0 * found.position)",
            ),
        ),
    ),
    Planted(
        "a page repeats its last key",
        "P15",
        "the next page begins with the key with which the last one ended",
        (
            Edit(
                "raykv.coordinator.scans:ScanCoordinator.page",
                'bound if request.reverse else bound + b"\\x00"',
                "bound",
            ),
        ),
    ),
    Planted(
        "a page reaches beyond what all have sent",
        "P15",
        "a node's answer was cut off, the page goes on behind it, and that node's keys are left out",
        (
            Edit(
                "raykv.coordinator.scans:_covered",
                "max(bounds) if reverse else min(bounds)",
                "min(bounds) if reverse else max(bounds)",
            ),
        ),
    ),
    Planted(
        "a cut answer counts as complete",
        "P15",
        "a node has more keys than fit into its answer, and the scan ends there",
        (Edit("raykv.replica.scanning:Scanner.scan", "f.ScanDone(items, last)", "f.ScanDone(items, None)"),),
    ),
    Planted(
        "what was read for an earlier page serves after a change",
        "P15",
        "a write is acknowledged, and a scan that begins later shows what stood there before",
        (
            Edit(
                "raykv.replica.scanning:Stretches.at",
                "if kept is not None and kept.changes == changes:",
                "if kept is not None:",
            ),
        ),
    ),
    Planted(
        "a partition is not read on to the end of the page",
        "P15",
        "a page goes on behind keys of a partition of which fewer were read than lie before its end",
        (
            Edit(
                "raykv.replica.scanning:Scanner._next",
                "if (r.reached > bound if reverse else r.reached <= bound)",
                "if r is None",
            ),
        ),
    ),
    # ---- clocks ----
    Planted(
        "hybrid time goes back",
        "P7",
        "a coordinator's clock is set back, and its next write stands below its last",
        (
            Edit(
                "raykv.versions.hybrid_clock:HybridClock.next",
                "max(self._last + 1, time_from_ms(now_ms))",
                "time_from_ms(now_ms)",
            ),
        ),
    ),
    Planted(
        "stamped anew and not above",
        "P7",
        "a coordinator whose clock is behind never gets above what is stored: its writes fail until the clock has caught up",
        (
            Edit(
                "raykv.versions.hybrid_clock:HybridClock.observe",
                "self._last = max(self._last, time)",
                "self._last = max(self._last, 0 * time)",
            ),
        ),
    ),
    Planted(
        "times of the far future are taken",
        "clock",
        "one host's clock is an hour ahead, and nobody else can write to its keys for an hour",
        (
            Edit(
                "raykv.versions.hybrid_clock:check_not_ahead",
                "> now_ms + MAX_CLOCK_SKEW_MS",
                "> now_ms + MAX_CLOCK_SKEW_MS * 1000",
            ),
        ),
    ),
    # ---- runs of a node ----
    Planted(
        "log ends are not compared",
        "P1, P6",
        "a directory is brought back from a copy made in the same run, and the node answers with the past",
        (Edit("raykv.storage.engine:Engine.recovered", "return segment <", "return segment >= 0 or segment <"),),
    ),
    Planted(
        "log ends in refused requests are not compared",
        "P1, P6",
        "an old copy is asked for its former run, refuses, is believed how far its log is, and answers with the past",
        (
            Edit("raykv.node.node:StorageNode.take", "self._compare(request.log_end)", "pass"),
            Edit(
                "raykv.node.node:StorageNode.take",
                "traits = NODE[type(request.body)]",
                "self._compare(request.log_end)\n        traits = NODE[type(request.body)]",
            ),
        ),
    ),
    Planted(
        "a new run does not learn how far its log was",
        "P1, P6",
        "an old copy answers before the one coordinator that knows better has anything to ask of it",
        (
            Edit(
                "raykv.coordinator.routing:Routing._send_log_end",
                "await self.peers.call(node_id, f.Ping(), 1, CALL_TIMEOUT_S)",
                "pass",
            ),
        ),
    ),
    Planted(
        "an old directory keeps its votes",
        "P5",
        "a directory is brought back from a copy, and its node votes with the promises of the past",
        (
            Edit(
                "raykv.storage.directory:NodeDirectory.load_register",
                "if ours else None",
                "",
            ),
            Edit("raykv.replica.handlers:Replica.mark_incomplete", "    self._acceptor.forget()\n", ""),
            Edit("raykv.storage.directory:NodeDirectory.mark_incomplete", "votes=False", "votes=identity.votes"),
        ),
    ),
    # ---- the cluster's state ----
    Planted(
        "accepted against a promise",
        "P5",
        "two supervisors in turn put different states on the same nodes",
        (
            Edit(
                "raykv.cluster.acceptor:Acceptor.accept",
                "request.generation >= kept.promised and",
                "request.generation >= 0 and",
            ),
        ),
    ),
    Planted(
        "a lower number replaces a higher one",
        "P5",
        "a late request brings an older state back on a node",
        (
            Edit(
                "raykv.cluster.acceptor:Acceptor.accept",
                "ballot > held or (ballot == held and request.state == kept.state)",
                "ballot != held or request.state == kept.state",
            ),
            Edit("raykv.cluster.acceptor:Acceptor.accept", "if granted and ballot > held and", "if granted and"),
        ),
    ),
    Planted(
        "one number, two states",
        "P5",
        "a change failed on all but a minority; the next one goes under the same number",
        (
            Edit("raykv.cluster.register:Register.accept", "if state.version <= self._tried:", "if state.version < 0:"),
            Edit("raykv.cluster.acceptor:Acceptor.accept", " and request.state == kept.state)", ")"),
            Edit(
                "raykv.cluster.acceptor:Acceptor.accept",
                "ballot > held and (self.votes",
                "ballot >= held and (self.votes",
            ),
        ),
    ),
    Planted(
        "any state is taken over, not the latest",
        "P5",
        "a supervisor restarts, reads an older state from a node that was away, and a bucket is forgotten",
        (
            Edit(
                "raykv.cluster.register:latest",
                "newest = max(held, key=lambda answer: (answer.generation, answer.version))",
                "newest = held[0]",
            ),
        ),
    ),
    Planted(
        "the promises' states are not looked at",
        "P5",
        "a state that was stored between reading and promising is lost",
        (
            Edit(
                "raykv.cluster.register:Register.take_over",
                "newest = max(latest(granted) or state, state, key=lambda found: found.ballot)",
                "newest = state",
            ),
        ),
    ),
    Planted(
        "taken over without promises",
        "P5",
        "a supervisor takes over while nodes have promised themselves to a later one",
        (
            Edit(
                "raykv.cluster.register:Register._prepare",
                "if len(granted) < quorum(len(members)):",
                "if len(granted) < 0:",
            ),
        ),
    ),
    Planted(
        "handed out before a majority has it",
        "P5",
        "a bucket is created on one node, that node is lost, and the bucket's id is given to another",
        (
            Edit(
                "raykv.cluster.register:Register.accept",
                "if len(granted) >= quorum(len(members)) or all_of_them:",
                "if len(granted) >= 1:",
            ),
        ),
    ),
    Planted(
        "taken over and not stored",
        "P5",
        "a supervisor serves a state under its own number that is on no disk",
        (
            Edit(
                "raykv.cluster.register:Register.take_over",
                "    await self.accept(msgspec.structs.replace(newest, generation=generation))",
                "    self.state = msgspec.structs.replace(newest, generation=generation)",
            ),
        ),
    ),
    Planted(
        "a node without its register votes",
        "P5",
        "a wiped node has forgotten what it promised, and makes a majority with one that never knew",
        (
            Edit(
                "raykv.cluster.acceptor:Acceptor.votes",
                "self._directory.identity.votes",
                "True",
            ),
        ),
    ),
    Planted(
        "a vote is given back with what was decided before",
        "P5",
        "a wiped node votes again with a state older than its last promise, and a change passes a later supervisor by",
        (
            Edit(
                "raykv.cluster.acceptor:Acceptor._may_vote_again",
                "request.decided and self._directory.directory_id in request.directory_ids",
                "request.decided",
            ),
        ),
    ),
    Planted(
        "the register is kept in memory",
        "P5",
        "a node restarts and has forgotten what it promised and accepted",
        (
            Edit(
                "raykv.cluster.acceptor:Acceptor._keep",
                "    self._directory.save_register(f.node_answers.encode(f.NodeAnswer(0, kept)))\n",
                "",
            ),
        ),
    ),
    Planted(
        "a store is founded over another",
        "P5",
        "all that is left of a store are wiped directories, and the supervisor founds a new store on them",
        (
            Edit(
                "raykv.supervision.supervisor:Supervisor._start", "elif await self._launcher.founded():", "elif False:"
            ),
            Edit(
                "raykv.supervision.watch:Watch._never_ran",
                "return not await self._launcher.founded()",
                "return True",
            ),
        ),
    ),
    Planted(
        "a founder does not look at what is there",
        "P5",
        "two founders at a time: the second stores a state of its own over the first one's, which was handed out",
        (
            Edit(
                "raykv.cluster.register:Register.found",
                "msgspec.structs.replace(latest(granted) or state, generation",
                "msgspec.structs.replace(state, generation",
            ),
        ),
    ),
    # ---- buckets ----
    Planted(
        "dropped by what is not decided",
        "P5",
        "a drop reaches one node only and is undone; that node has thrown the bucket's records away",
        (
            Edit(
                "raykv.replica.handlers:Replica._accept",
                "if answer.granted and request.decided:",
                "if answer.granted:",
            ),
        ),
    ),
    Planted(
        "an unknown bucket is taken for a dropped one",
        "P5",
        "a node with an old state throws the records of a new bucket away",
        (Edit("raykv.records.dropped:DroppedBuckets.has", "bucket_id < self.next_bucket_id and ", ""),),
    ),
)

"""The invariants: the rules that keep acknowledged data, and for each the schedule that breaks a store without it.

Code, tests and planted bugs cite them by number. Each entry states the rule, then a *schedule*: who does what in which
order, and what is lost, resurrected or hidden where the rule is missing. **In** names the modules that implement it, bottom
up; **held by** names the tests that fail without it. Most rules are guards, a line or two of code that nothing seems to
need until the schedule happens: ``scripts/planted --rule P4`` lists the guards of a rule and switches them off one by one,
to show that the simulation notices.

A partition has N owners; a read asks R of them, a write waits for W. *Strict* quorums count owners only, *sloppy* ones also
the fallbacks that stand in. *Durable* means synced (``durability="group"`` and ``"always"``) or handed to the kernel
(``"interval"``). *Acknowledged* means that the client has its answer: from then on the write has to survive.

P1. Complete or silent
    A node that may lack something it acknowledged is *incomplete*: it takes writes, and they count toward W, but it
    refuses reads, gives no dots and is no source for others. It becomes complete again by comparing itself with N - W +
    1 intact owners of each partition (with all others, if fewer are intact): any write that W nodes acknowledged is on
    one of these. A node that merely lost a range of keys to a corrupt block is incomplete for that range.

    *Schedule.* A and B acknowledge v; C was slow. A's disk is wiped and A starts empty. A read asks A and C, both say
    "absent", and v is gone although B has it.

    In: ``storage.engine``, ``storage.mark``, ``storage.directory``, ``replica.handlers``, ``repair.anti_entropy``.
    Held by: ``tests/replica/test_handlers.py``, ``tests/repair/test_maintenance.py``,
    ``tests/coordinator/test_coordinator.py``.

P2. A dot names one write, for ever
    A dot is an actor id and a counter. A node gives dots out for one record under an actor id that it drew at random
    for that record in its present run; counters grow by one and live in memory. Where the memory is gone (a restart, a
    record that was dropped) it draws a fresh id and never goes on with an old one. An id that arrives from elsewhere is
    never used. Only complete owners give dots; a fallback does so only in a sloppy bucket.

    *Schedules.* A forgets a tombstone with the dot (A, 2), which B and C still have; a new put gets (A, 1) and is
    shadowed by it. A fallback gives a dot, hands its record over, forgets it and gives the same dot again: of two carts
    one vanishes. A torn tail takes a write off the log, and its dot goes to another one. A directory is restored from a
    backup, or a machine rolled back, and dots start over.

    In: ``records.vector_record``, ``versions.dvvset``, ``replica.dot_allocator``.
    Held by: ``tests/replica/test_dot_allocator.py``, ``tests/node/test_node.py``.

P3. Nothing unsynced is seen
    A handler returns its answer together with the log position that the answer depends on, and the answer leaves the
    node once the log is durable up to there. That holds for reads, scans, Merkle trees, repairs and streams as it does
    for writes: what others have seen must not vanish with the power.

    *Schedule.* X is in A's memtable only. A read finds it there and repairs B with it. A loses power, restarts without
    X and gives X's dot to Y: one dot, two writes, and replicas that never agree again.

    In: ``storage.wal``, ``storage.engine``, ``replica.handlers``, ``node.group_commit``, ``repair.local_copy``.
    Held by: ``tests/storage/test_erase.py``, ``tests/replica/test_handlers.py``, ``tests/node/test_node.py``.

P4. A partition moves in three steps
    Each step is a decided state with an epoch of its own. (1) Writes need W of the old owners *and* W of the new, reads
    ask the old; the new owners fetch the partition. (2) Writes still need both, reads ask the new. (3) Only the new
    owners are left, and the old drop what they held. A step begins once N - min(R, W) + 1 owners of each set have
    confirmed, durably, that they know the one before: too few are left that could complete an operation without
    knowing. Fetching waits for step 1 to be so confirmed; step 2 waits until every new owner has everything. Requests
    carry the epoch by which their nodes were chosen: a node that does not know that epoch yet refuses, and a node that
    knows of other owners answers with its state.

    *Schedules.* A new owner fetches the partition from the one old owner that missed v. A coordinator that has not
    heard of the move writes to two old owners that have not heard of it either, after the new owner fetched from the
    third. At step 2 a coordinator that is still at step 1 reads the old owners and misses what only the new were sent.

    In: ``cluster.state``, ``cluster.moves``, ``coordinator.rounds``, ``coordinator.routing``, ``replica.handlers``,
    ``protocol.requests``, ``supervision.rebalancing``.
    Held by: ``tests/supervision/test_rebalancing.py``, ``tests/coordinator/test_fast_path.py``.

P5. The cluster's state is one register
    Ring, members and buckets are one value on the nodes' disks, changed by Paxos with the supervisor's generation as
    its ballot. A supervisor that takes over prepares (a majority promises its generation), takes the latest state among
    the answers, has a majority accept it under its own generation, and only then goes on. A state is handed out once a
    majority holds it. Members change one at a time, so that any two majorities meet. A node whose directory is new or
    restored from a copy has forgotten its promises and has no vote until a decision later than its loss reaches it.

    *Schedule.* Epoch 7 is on {1, 2, 3} of five. 1 and 3 die. A supervisor that asks {2, 4, 5} what a majority holds
    finds epoch 6, goes on from there and makes another epoch 7 with other owners.

    In: ``storage.directory``, ``cluster.state``, ``cluster.register``, ``cluster.acceptor``,
    ``supervision.supervisor``.
    Held by: ``tests/cluster/test_register.py``, ``tests/cluster/test_acceptor.py``.

P6. One process a directory, one directory a life
    A node holds an exclusive lock on its directory for as long as it runs; to restart it, the old process is ended
    first and the lock awaited. Every run has a higher incarnation than the last; requests and answers carry it, and a
    lower one is refused. A directory that falls short of what its peers have seen of the node is an old copy: it is
    incomplete, and if deletes may have been forgotten since, its data is set aside. The directory of a node that has
    left the ring is set aside as a whole. In both cases the node begins empty.

    *Schedules.* A node is frozen, restarted elsewhere and thawed: two processes write one log. A host returns after its
    node was replaced and the tombstones were forgotten: deleted data is back.

    In: ``storage.directory``, ``storage.mark``, ``cluster.peers``, ``node.node``, ``supervision.watch``,
    ``supervision.members``.
    Held by: ``tests/node/test_node.py``, ``tests/supervision/test_watch.py``, ``tests/cluster/test_peers.py``.

P7. An acknowledged write stands above what it could have seen
    ``lww``: a replica that holds a newer time does not count. If that keeps W from being met, the coordinator stamps
    the write again above that time, once and under the same operation id. ``vector``: a write without a context
    supersedes what N - W + 1 owners show in its first round, which includes every write acknowledged before. Stamps
    exceed every time in the context, in what was shown and in the client's session; a time too far in the future is
    refused, not adopted. With strict quorums, W + R > N and 2 W > N, a read that begins after an acknowledgement sees
    that write or a later one. A write that carries its context supersedes that context and nothing else: what is
    concurrent stays, as siblings. An empty context (read, and found absent) is not the same as none.

    *Schedule.* Coordinator B's clock is 50 ms slow. It acknowledges a put that is shadowed, everywhere and at once, by
    one that coordinator A acknowledged before.

    In: ``versions.hybrid_clock``, ``versions.dvvset``, ``replica.handlers``, ``coordinator.rounds``,
    ``coordinator.writes``, ``client.session_clock``.
    Held by: ``tests/coordinator/test_writes.py``, ``tests/coordinator/test_coordinator.py``,
    ``tests/client/test_operations.py``.

P8. A retried write is one write
    A write has one operation id, one deadline and, however often it is sent, one stamp or one dot: the dot is reserved
    before anything is stored, and of two that were reserved because an answer was lost only one is ever written under.
    A request says until when it may begin, by its receiver's monotonic clock and run; later the answer is "too late",
    and nothing was done. A coordinator that stood still does not go on with what it had begun. A write that misses W is
    *unknown*, not failed: the error says who acknowledged, and the write may surface later.

    *Schedules.* A write is stamped at A, whose answer is lost, and stamped again at B. Somebody reads B's and deletes
    it; A returns, and the value stands beside the tombstone. A coordinator freezes with a write in hand; its client
    gives up and writes Y; the thawed coordinator carries the old write out on top of Y.

    In: ``replica.dot_allocator``, ``coordinator.judgements``, ``coordinator.rounds``, ``coordinator.writes``,
    ``coordinator.coordinator``, ``coordinator.fast_path``, ``client.session_clock``, ``client.writes``.
    Held by: ``tests/coordinator/test_writes.py``, ``tests/coordinator/test_rounds.py``,
    ``tests/client/test_driver.py``, ``tests/cluster/test_fanout.py``.

P9. A read returns what R replicas hold
    R complete answers are merged, what some of them lacked is written back, and the read returns once R replicas hold
    the merged record; so reads of one key never go backward where 2 R > N. While a partition moves, R of the old and R
    of the new owners have to hold it. "Absent" from a complete replica is an answer, a failed read never is: not in
    ``in``, not in ``[]``, not in a batch.

    *Schedule.* A put reached A only. A read of {A, B} shows it and returns; the next one asks {B, C} and does not.

    In: ``coordinator.rounds``, ``coordinator.reads``, ``coordinator.routing``, ``client.reads``.
    Held by: ``tests/coordinator/test_reads.py``, ``tests/coordinator/test_coordinator.py``,
    ``tests/coordinator/test_fast_path.py``.

P10. Deletes are forgotten by all owners or by none
    A record in which nothing lives any more (a tombstone, an expired value) goes when its grace is over and every
    owner, old and new ones of a move included, has confirmed twice, half a grace apart, that it holds exactly that
    record. Between the two no owner holds anything older, so whatever could bring something older was sent before;
    receivers refuse writes and hints older than half the grace. Expiry is judged by the coordinator's clock alone. No
    node purges by itself, so Merkle trees may contain what is about to go.

    *Schedules.* A has forgotten a tombstone, B has not: the tombstone flows back for ever. v1 with a ttl superseded v0
    on two owners of three; it expires and is dropped there, and the third owner's v0 spreads again.

    In: ``replica.hints``, ``repair.local_copy``, ``repair.anti_entropy``, ``node.node``.
    Held by: ``tests/repair/test_anti_entropy.py``, ``tests/supervision/test_rebalancing.py``.

P11. Every missed acknowledgement leaves a hint
    Whatever anybody thinks of the node that did not acknowledge. In a strict bucket an owner that has the record keeps
    a note of who lacks it. In a sloppy bucket a fallback keeps the record itself, and only there does that count toward
    W. A hint is replayed as an ordinary write under the ring of that day, and forgotten once it is durable where it
    belongs.

    *Schedules.* C is slow, not down, and misses a write; nobody keeps a hint because nobody suspects C. A's disk fails
    before copies are compared, and B alone holds a write that is meant to have three copies. In a sloppy bucket a
    fallback acknowledges without keeping the record: the write counts on a copy that does not exist.

    In: ``replica.hints``, ``repair.handoff``, ``coordinator.write_fanout``, ``coordinator.in_flight``.
    Held by: ``tests/replica/test_hints.py``, ``tests/repair/test_handoff.py``,
    ``tests/coordinator/test_write_fanout.py``.

P12. Down takes proof or two reporters
    Ray's notice that a process has ended is proof. Otherwise a node is down when the supervisor gets no answer and two
    reporters say that they get none either: two nodes, or one of them (or a coordinator) and the supervisor itself. A
    node that is down is no reporter. While a node answers the supervisor nobody's word makes it down. A supervisor that
    reaches only a minority may restart nodes, for which it needs their directories' locks (P6), but cannot change the
    cluster's state (P5). Nodes are removed on request, or one at a time after a configured delay.

    *Schedule.* A cut separates A from the rest. A accuses all others; a supervisor that believes one word restarts
    healthy nodes until the store is down.

    In: ``membership.verdict``, ``supervision.watch``.
    Held by: ``tests/membership/test_verdict.py``, ``tests/supervision/test_watch.py``.
    No guard to plant: verdicts are a pure function, and a wrong one costs a restart, never data.

P13. Shares by weight, copies apart, fewest moves
    A partition's N owners are N nodes, on distinct hosts and zones where there are enough of them, else as evenly as
    can be. A node owns the floor or the ceiling of its weight's share under those limits, and comes first in the floor
    or the ceiling of its copies / N. A new ring moves as few copies as any that keeps those bounds.

    *Schedule.* Two copies of a partition lie on one host because the claim looked at nodes only. The host burns: with W
    = 2 an acknowledged write is gone.

    In: ``ring.targets``, ``ring.flow``, ``ring.claim``.
    Held by: ``tests/ring/test_claim.py``, ``tests/ring/test_targets.py``.
    No guard to plant: a claim is a pure function, and ``Ring.check`` states the bounds.

P14. A batch settles every item
    A malformed item refuses the whole call before anything is sent. After that each item comes to its own end, and one
    error with ``.results`` and ``.errors`` is raised at the end if any of them failed.

    *Schedule.* The first failure of a batch is raised at once: the caller retries everything, or nothing, and does not
    know which of the other writes stand.

    In: ``client.batches``.
    Held by: ``tests/client/test_operations.py``, ``tests/coordinator/test_coordinator.py``.
    No guard to plant: nothing happens between nodes, and single calls show it.

P15. A scan shows each key once
    A scan goes through the whole bucket in the order of encoded keys, R replicas for each page, and what they disagree
    on goes through a quorum read (P9). Its cursor is a key, so it survives restarts and changes of the ring. A key that
    was acknowledged before the scan and left alone during it appears exactly once. What cannot be read is an error,
    never a gap. No snapshot is promised.

    *Schedule.* A replica fills its page and stops; the coordinator takes the page as complete and goes on behind the
    last key that it got from another replica: the keys between are never shown.

    In: ``coordinator.scans``, ``coordinator.coordinator``.
    Held by: ``tests/coordinator/test_scans.py``, ``tests/client/test_paging.py``.
"""

from __future__ import annotations

RULES: dict[str, str] = {
    "P1": "Complete or silent",
    "P2": "A dot names one write, for ever",
    "P3": "Nothing unsynced is seen",
    "P4": "A partition moves in three steps",
    "P5": "The cluster's state is one register",
    "P6": "One process a directory, one directory a life",
    "P7": "An acknowledged write stands above what it could have seen",
    "P8": "A retried write is one write",
    "P9": "A read returns what R replicas hold",
    "P10": "Deletes are forgotten by all owners or by none",
    "P11": "Every missed acknowledgement leaves a hint",
    "P12": "Down takes proof or two reporters",
    "P13": "Shares by weight, copies apart, fewest moves",
    "P14": "A batch settles every item",
    "P15": "A scan shows each key once",
}
"""Number -> title, for what cites a rule by its number (the catalogue of planted bugs, a failing seed's report)."""

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

    In: ``storage.directory``, ``storage.mark``, ``cluster.peers``, ``node.opening``, ``node.node``, ``supervision.watch``,
    ``supervision.members``.
    Held by: ``tests/node/test_node.py``, ``tests/supervision/test_watch.py``, ``tests/cluster/test_peers.py``.

P7. An acknowledged write stands above what it could have seen
    ``lww``: a replica that holds a newer time does not count. If that keeps W from being met, the coordinator stamps
    the write again above that time, once and under the same operation id. ``vector``: a write without a context
    supersedes what N - W + 1 owners show in its first round, which includes every write acknowledged before. Stamps
    exceed every time in the context, in what was shown and in the client's session; a time too far in the future is
    refused, not adopted. That is the stamper's matter, and the first receiver's: copies of what is stored are kept
    whatever their time, or P1, P4, P9 and P11 would wait until it has come. With strict quorums, W + R > N and 2 W > N,
    a read that begins after an acknowledgement sees that write or a later one. A write that carries its context
    supersedes that context and nothing else: what is concurrent stays, as siblings. An empty context (read, and found
    absent) is not the same as none.

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
    receivers refuse writes and hints older than half the grace. An owner confirms what is dead for that long by its own
    clock, less the allowed skew; half a grace is measured by the leader's monotonic clock. Clients are shown what the
    coordinator's clock says lives. No node purges by itself, so Merkle trees may contain what is about to go.

    *Schedules.* A has forgotten a tombstone, B has not: the tombstone flows back for ever. v1 with a ttl superseded v0
    on two owners of three; it expires and is dropped there, and the third owner's v0 spreads again. A leader's clock is
    a year ahead: a value that lives for another month is gone on all owners, and leaves no tombstone.

    In: ``replica.hints``, ``repair.local_copy``, ``repair.agreements``, ``repair.anti_entropy``, ``node.opening``.
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

    In a grouped bucket what stands before the first separator of a key, its group, decides the partition, and a scan
    within a group asks R owners of that partition alone: each shows what it holds at one moment, as far as its page goes.
    All who seek a key agree on its place: a node that does not know the bucket yet takes no request about its keys.

    A split of a bucket is a scan of some partitions. A key's partition never changes, so splits that share no partition and
    leave none out show each key once between them, whoever owns what by then.

    *Schedule.* A replica fills its page and stops; the coordinator takes the page as complete and goes on behind the
    last key that it got from another replica: the keys between are never shown.

    In: ``coordinator.scans``, ``coordinator.coordinator``, ``replica.scanning``, ``ring.tokens``, ``cluster.state``,
    ``client.splits``.
    Held by: ``tests/coordinator/test_scans.py``, ``tests/client/test_paging.py``, ``tests/replica/test_scanning.py``,
    ``tests/client/test_splits.py``.

The rules of linearizable buckets, L1 to L14, in the same form. F is N // 2 + 1; *F of the sets* is F of each set of owners
(two while a partition moves, P4). Each partition has a *leader*, an owner that holds a *term*; a record is named by term
and seq, and of two records of a key the later name stands.

L1. A term is one tenure of one run
    A term is a number and 64 random bits. It is drawn for one tenure of one run of one owner, and never gone on with
    after a restart. The candidate is a complete owner of the set that reads ask, and makes its own promise durable
    before it asks anybody else.

    *Schedules.* A leader restarts and goes on under its term with the seq that its memory says: two records of one
    name. A candidate asks first and promises last: when it restarts, an amnesiac among those asked is all that has
    heard of a term under which records may exist.

    In: ``records.linear_record``, ``replica.takeover``.
    Held by: ``tests/replica/test_takeover.py``.

L2. A promise holds for ever
    Promises stand in the node's engine: what P2 and P6 find out about a log holds for them too. They do not expire. A
    node refuses what comes under a term below its promise; what comes under a higher one, a look as well as a record,
    raises it. The answer leaves once the promise is durable (P3).

    *Schedules.* A leader is thawed and writes at a node that has promised its successor. Promises expire, and two
    conflicting conditional writes commit. C looks at A, which promised it nothing; B, superseded, writes with A.

    In: ``replica.promises``, ``replica.voting``.
    Held by: ``tests/replica/test_voting.py``, ``tests/replica/test_promises.py``.

L3. Only complete nodes vote
    A node that may lack something of a partition neither promises nor shows nor accepts: more than P1 asks, where it
    counts toward W. Healing takes from N - F + 1 intact owners their records and their promises, and promises the
    highest.

    *Schedule.* C takes over with {C, A}. A is wiped, and heals without its promise. B, which C has superseded, writes
    with A; C writes over it.

    In: ``replica.voting``, ``replica.promises``, ``repair.anti_entropy``.
    Held by: ``tests/replica/test_voting.py``, ``tests/repair/test_promises.py``.

L4. F promises at one moment
    After F of the sets have promised, the candidate asks them again. Only those count that still promise the same, in
    the same directory as before.

    *Schedule.* Five owners. A promises C and is wiped; it heals from B, D and E, and then B promises C. C counts the
    promise of a directory that is gone, while the old leader D writes with A and E.

    In: ``replica.takeover``.
    Held by: ``tests/replica/test_takeover.py``.

L5. A new term looks before it shows
    The leader looks each key up at F of the sets, under its term, before it touches it, and takes the latest; never its
    own copy alone. If the copies differ, it writes what it took under its own term before that is shown or refused
    upon; if they agree, nothing is written. What a restore loads is of no term: a leader that is given some of it ends
    its own.

    *Schedule.* v is on A only. A read that includes A shows it; the next majority lacks it, and the read after it shows
    the value before.

    In: ``replica.looking``, ``replica.leader``, ``replica.voting``.
    Held by: ``tests/replica/test_leader.py``.

L6. One order, and F durable copies
    Seq counts over a term, not over a key. Changes of a key are applied one after the other to the leader's head; of
    several in one round the last record is sent. A change is acknowledged once F of the sets have accepted its record,
    or a later one of this term, durably; the leader counts once its own log is durable. What hints, repair and streams
    bring never counts, nor does an owner that holds a record of a later term.

    *Schedules.* Seq counts by key: after a purge a new record stands below a tombstone that one owner still has. An
    owner that got a later term's record by repair merges a write away, and is counted as having it.

    In: ``replica.leader``, ``replica.tenure``, ``replica.voting``.
    Held by: ``tests/replica/test_leader.py``, ``tests/replica/test_tenure.py``, ``tests/replica/test_voting.py``.

L7. Nothing is answered from memory alone
    What a leader shows, or refuses upon, is acknowledged first, and then waits for one round of its term that began
    after it was evaluated and that F of the sets have accepted. An empty round will do.

    *Schedules.* A superseded leader answers from its head. A read shows a value that only the leader holds, and the
    leader dies.

    In: ``replica.leader``, ``replica.tenure``.
    Held by: ``tests/replica/test_leader.py``, ``tests/replica/test_tenure.py``.

L8. A plain read proves that it shows the last
    A client that asks F owners is done if all show the same record, and it is absent, or all have promised one term and
    either the record is of that term or its leader is among them and vouches for it. Otherwise the leader reads. While
    the partition moves, it always does.

    *Schedules.* C settles on s under its term; repair then spreads an older record, never acknowledged, to a majority;
    a read shows that, and C writes on top of s. At step 1 of a move the old owners show v, and the new never got it.

    In: ``coordinator.changes``, ``replica.voting``, ``replica.leader``.
    Held by: ``tests/coordinator/test_changes.py``.

L9. A term is bound to the sets that promised it
    Where the present sets of owners are not among them, the leader has the term promised anew by F of each before its
    next round. New owners take the promises of N - F + 1 old ones over with their records. Steps and confirmations are
    P4's.

    *Schedules.* B, which C has superseded among the old owners, sleeps through the whole move. The new owners have
    promised nobody, and both write there; or C is gone, they promise B its term once more, and B shows from its head
    what stood before C. F of both sets together take the place of F of each: two leaders.

    In: ``replica.takeover``, ``replica.leader``, ``replica.tenure``, ``repair.anti_entropy``.
    Held by: ``tests/replica/test_takeover.py``, ``tests/replica/test_tenure.py``.

L10. A call is carried out once
    A call is named by its lane, a call slot of a client, and a number; a lane has one call at a time. The record
    carries, for each lane, the number and the answer of its last call: the same number gets that answer, a lower one is
    refused. Receipts are in the record. A key has at most 1,024 of them; beyond, the answer is ``Overloaded``. A leader
    drops those whose lane has gone on, so a lane goes on only once every sending of its last call was answered.

    *Schedules.* An add whose answer was lost is sent again and counted twice. Receipts lie beside the record: a new
    leader finds the value without them. A is asked to add, and sleeps; B is asked, adds and answers; the lane's next
    call tells B that its receipt may go. A wakes, is promised by all, finds no receipt, and adds again.

    In: ``records.linear_record``, ``replica.applying``, ``replica.lanes``, ``replica.leader``, ``coordinator.changes``,
    ``client.lanes``, ``client.atomic``.
    Held by: ``tests/replica/test_leader.py``, ``tests/replica/test_lanes.py``, ``tests/client/test_atomic.py``.

L11. A repeated refusal is written
    A call that was sent before and changes nothing now leaves a record with its receipt, also where it is answered from
    memory: the leader remembers its refusals by lane for its run, across terms.

    *Schedules.* A has put 8, and then a change from 8 to 9, in its own copy only. The client asks B instead and is
    refused. A's copy comes to light: 9, for a change that was reported as refused. Or: a delete finds nothing, is sent
    again and answered from memory; the leader dies, and the first sender, which never heard, has the next one delete
    what was put since.

    In: ``replica.leader``, ``replica.lanes``.
    Held by: ``tests/replica/test_leader.py``.

L12. Receipts outlive retries
    A request names a run of the leader and expires by that run's clock; nothing may take longer than 60 s or a quarter
    of the grace. It says besides for how long its sender may go on with it anywhere, and its receipt is kept as long:
    the deadlines that leaders are given are too early, each by the latency of the answer that told of its clock. A new
    leader keeps the receipts that it finds for 60 s. A tombstone goes by P10, never before its receipts; receivers
    refuse records that were sent more than half the grace ago.

    *Schedules.* A delete is applied, its answer lost, and its tombstone purged with the receipt: the retry deletes what
    was put since. A makes a change under an early deadline, its answer is lost, the receipt goes with the key's next
    change, and B, asked again under a later deadline, makes it once more.

    In: ``replica.leader``, ``replica.voting``, ``coordinator.changes``, ``client.atomic``.
    Held by: ``tests/replica/test_leader.py``, ``tests/coordinator/test_changes.py``.

L13. The policy is fixed
    r = w = F, strict; no r or w by call, no fallbacks, no ttl (expiry depends on the reader's clock), no causal context.

    *Schedule.* Two calls with w=1 are acknowledged by different owners, and no order of them is the order of all.

    In: ``config``, ``client.operations``.
    Held by: ``tests/test_config.py``, ``tests/client/test_atomic.py``.
    No guard to plant: what is refused never reaches a node.

L14. Takeover is liveness only
    An owner that hears that the leader does not answer pings it: if it lives, the owner says so; else it takes over, at
    most once a second, with jitter. A leader that is refused drops its heads and points to its successor. A first owner
    that returns takes its partitions back after 10 s. A node that is to be stopped has the next owner of each partition
    take over, and leads nothing more.

    *Schedule.* Every client that waits too long makes another owner take over: terms follow each other, and nothing is
    acknowledged under any of them.

    In: ``replica.owners``, ``replica.takeover``, ``replica.leader``.
    Held by: ``tests/replica/test_takeover.py``.
    No guard to plant: without it nothing is lost, only late.
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
    "L1": "A term is one tenure of one run",
    "L2": "A promise holds for ever",
    "L3": "Only complete nodes vote",
    "L4": "F promises at one moment",
    "L5": "A new term looks before it shows",
    "L6": "One order, and F durable copies",
    "L7": "Nothing is answered from memory alone",
    "L8": "A plain read proves that it shows the last",
    "L9": "A term is bound to the sets that promised it",
    "L10": "A call is carried out once",
    "L11": "A repeated refusal is written",
    "L12": "Receipts outlive retries",
    "L13": "The policy is fixed",
    "L14": "Takeover is liveness only",
}
"""Number -> title, for what cites a rule by its number (the catalogue of planted bugs, a failing seed's report)."""

"""The guards of partitions on their way to other owners, as bugs to plant (P4)."""

from __future__ import annotations

from simulation.planting import Edit, Planted

_REBALANCING = "raykv.supervision.rebalancing:Rebalancing"

OF_MOVES = (
    Planted(
        "the new owner is read before it has everything",
        "P4",
        "reads ask the new owners although the stream has not ended",
        (
            Edit(
                f"{_REBALANCING}._take_over",
                "await asyncio.gather(*(self._give(state, node_id, gaining[node_id]) for node_id in sorted(gaining)))",
                "[True for node_id in sorted(gaining)]",
            ),
        ),
    ),
    Planted(
        "a write under an old epoch is taken",
        "P4",
        "a coordinator that has not heard of the move writes to old owners only, and they take it",
        (
            Edit(
                "raykv.replica.handlers:Replica.outdated",
                "if epoch < state.epoch and any(",
                "if epoch < 0 and any(",
            ),
        ),
    ),
    Planted(
        "the next step begins before the last is known",
        "P4",
        "the stream begins while old owners still take writes that the new one does not get",
        (
            Edit(
                f"{_REBALANCING}._enough_know",
                "while missing := moves.lacking(state, knowing, self._lost()):",
                "while missing := set[str]():",
            ),
            Edit(
                "raykv.replica.handlers:Replica.outdated",
                "if self.known is None or epoch > self.known[0].epoch:",
                "if self.known is None:",
            ),
        ),
        family="ring changes",
    ),
    Planted(
        "writes go to the old owners only",
        "P4",
        "what is written while a partition moves is not on the new owners, who are read next",
        (
            Edit(
                "raykv.cluster.state:ClusterState.write_sets",
                "return (before, move.owners[:n])",
                "return (before,)",
            ),
        ),
    ),
    Planted(
        "writes go to the new owners only",
        "P4",
        "what is written while a partition moves is not on the old owners, who are still read",
        (
            Edit(
                "raykv.cluster.state:ClusterState.write_sets",
                "return (before, move.owners[:n])",
                "return (move.owners[:n],)",
            ),
        ),
    ),
    Planted(
        "W of both together is enough",
        "P4",
        "a write is acknowledged by old owners alone, and read from new ones that do not have it",
        (
            Edit(
                "raykv.coordinator.rounds:WriteRound._counted",
                "return counted(owners, ",
                "return counted(item.primaries, ",
            ),
        ),
    ),
    Planted(
        "taken over from one old owner",
        "P4",
        "the new owner streams from the one old owner that missed the write",
        (
            Edit(
                "raykv.repair.anti_entropy:AntiEntropy.take_over",
                "if complete < min(share.intact_needed, len(there)):",
                "if complete < 1:",
            ),
            Edit(
                "raykv.repair.anti_entropy:AntiEntropy.take_over",
                "for peer in there:",
                "for peer in there[:1]:",
            ),
            Edit(f"{_REBALANCING}._spread_in_turn", "for partition in left:", "for partition in ():"),
        ),
    ),
    Planted(
        "what was given away is kept",
        "P4, P6",
        "a node that gets a partition back still has a value whose deletion the others have forgotten",
        (
            Edit(
                "raykv.repair.local_copy:LocalCopy.clear",
                "while not self._replica.holds(partition, bucket_id):",
                "while low is None:",
            ),
        ),
        family="ring changes",
    ),
    Planted(
        "owners that changed under way are forgotten",
        "P4, P8",
        "a write goes on with the old owners although it has learned of others",
        (
            Edit(
                "raykv.coordinator.rounds:WriteRound.reassign",
                "item.sets, item.primaries = sets[index], _all_of(sets[index])",
                "item.primaries = _all_of(sets[index])",
            ),
        ),
    ),
    Planted(
        "answers of former owners count for the present ones",
        "P4",
        "a former owner refuses late, is asked again under the new epoch, and keeps what it is not to hold",
        (Edit("raykv.coordinator.rounds:WriteRound.reassign", "item.attempt += 1", "item.attempt += 0"),),
    ),
    Planted(
        "a node without a vote believes any state that it gets",
        "P4, P5",
        "a wiped node takes writes under an epoch that it had promised to refuse",
        (Edit("raykv.replica.handlers:Replica.outdated", "if not self._acceptor.votes:", "if False:"),),
    ),
    Planted(
        "what was read need not be on the other owners",
        "P4, P9",
        "a read of the old owners shows what a read of the new ones, a moment later, does not",
        (
            Edit(
                "raykv.coordinator.reads:Reads._repair",
                "known = len(holders) if len(sets) == 1 else",
                "known = len(holders) if sets else",
            ),
        ),
    ),
    Planted(
        "a fallback answers with what it held as an owner",
        "P4, P10",
        "a sloppy read finds a value that its owners have deleted and forgotten, and repairs them with it",
        (
            Edit(
                "raykv.replica.handlers:Replica._leave_out_strangers",
                "if not self.holds(",
                "if False and not self.holds(",
            ),
        ),
    ),
    # ---- grouped buckets ----
    Planted(
        "a node puts the keys of a batch where their whole hash says",
        "P4, P15",
        "what was written together with other keys of a grouped bucket is not found where its group lies",
        (
            Edit(
                "raykv.replica.handlers:Replica.storage_keys",
                "places = partitions_in(self._buckets.get(bucket_id), keys, partitions)",
                "places = partitions_in(None, keys, partitions)",
            ),
        ),
    ),
    Planted(
        "a grouped bucket begins no epoch",
        "P4, P15",
        "a node that has not heard of it yet puts a key where the whole hash says, and seeks it by its group later",
        (Edit("raykv.cluster.state:ClusterState.with_bucket", "epoch=self.epoch + grouped", "epoch=self.epoch"),),
    ),
    Planted(
        "a coordinator asks the owners of a whole key, not of its group",
        "P4, P15",
        "a write goes to nodes that do not own the key's group, and the scan of the group does not meet it",
        (
            Edit(
                "raykv.coordinator.routing:Routing.place",
                "partition_in(config, key, self.present.ring.partitions)",
                "partition_in(None, key, self.present.ring.partitions)",
            ),
        ),
    ),
)

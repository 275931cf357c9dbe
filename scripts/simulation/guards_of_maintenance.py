"""The guards of what nodes do by themselves, as bugs to plant: hints, repair, purge, becoming complete again."""

from __future__ import annotations

from simulation.planting import Edit, Planted

_HEAL = "raykv.repair.anti_entropy:AntiEntropy.heal"
_PURGE = "raykv.repair.anti_entropy:AntiEntropy._purge"

OF_MAINTENANCE = (
    # ---- complete or silent (P1) ----
    Planted(
        "complete without asking anybody",
        "P1",
        "a wiped node answers reads again as soon as it has tried to reach the others, whether or not they answered",
        (Edit(_HEAL, "        if known < share.intact_needed:\n", "        if known < 0:\n"),),
    ),
    Planted(
        "one intact owner is enough",
        "P1",
        "a wiped node takes over from one other owner, who has not heard of every write that W acknowledged",
        (Edit(_HEAL, "        if known < share.intact_needed:\n", "        if known < 1:\n"),),
    ),
    Planted(
        "incomplete owners taken for intact",
        "P1",
        "two wiped nodes make each other complete",
        (Edit(_HEAL, "if mended.complete:", "if True:"),),
    ),
    Planted(
        "an old tree passed for a new one",
        "P1, P4",
        "a node asks for a tree that was made before the last write, finds nothing new, and says that it has everything",
        (Edit("raykv.repair.local_copy:LocalCopy.tree", "kept.changes == changes", "kept.changes"),),
    ),
    Planted(
        "taken over without its sync",
        "P1, P3",
        "a node says that it is complete, its host loses power, and it forgets what it took over",
        (
            Edit(
                "raykv.repair.local_copy:LocalCopy.write",
                "    await self._durable(position)\n    return taken",
                "    return taken",
            ),
            Edit(
                "raykv.repair.local_copy:LocalCopy.all_durable",
                "await self._durable(self._engine.appended_position)",
                "assert self._engine.appended_position >= 0",
            ),
            Edit(
                "raykv.repair.local_copy:LocalCopy.read",
                "    await self._durable(position)\n",
                "    position = 0\n",
            ),
        ),
    ),
    Planted(
        "complete by what is not synced",
        "P1, P3",
        "what a node compared with others was not synced yet, it says that it is complete, and loses it with its power",
        (
            Edit(
                "raykv.repair.local_copy:LocalCopy.all_durable",
                "await self._durable(self._engine.appended_position)",
                "assert self._engine.appended_position >= 0",
            ),
        ),
    ),
    Planted(
        "given away before its sync",
        "P3",
        "another owner is given a record that this one then forgets",
        (
            Edit(
                "raykv.repair.local_copy:LocalCopy.read",
                "    await self._durable(position)\n",
                "    position = 0\n",
            ),
        ),
    ),
    Planted(
        "corruption uncovers what was forgotten",
        "P10",
        "corruption takes the deletion and that it was forgotten, the value under it comes to light, and is given to all",
        (Edit(_HEAL, "await self._local.forget(", "await self._local.forget([] and "),),
    ),
    # ---- repair ----
    Planted(
        "repair fetches and does not send",
        "P9",
        "an owner that was compared still lacks what the other holds",
        (
            Edit(
                "raykv.repair.anti_entropy:AntiEntropy._mend",
                "            await self._send(peer, f.Write(bucket_id, lacking, made_ms, stored=True), done)",
                "            made_ms = 0",
            ),
        ),
    ),
    Planted(
        "only the first leaf that differs is mended",
        "P9",
        "owners that were compared still differ",
        (
            Edit(
                "raykv.repair.anti_entropy:AntiEntropy.exchange",
                "        frontier = below\n",
                "        frontier = below[:1]\n",
            ),
        ),
    ),
    Planted(
        "a node is sent the cluster's state only once",
        "P5",
        "the message is lost, and the node never hands a hint over nor becomes complete",
        (
            Edit(
                "raykv.supervision.watch:Watch._until_silent",
                "if state is not None and self.nodes[node_id].ballot < state.ballot:",
                "if self.nodes[node_id].ballot < (0, 0):",
            ),
        ),
    ),
    # ---- hints (P11) ----
    Planted(
        "a hint is forgotten before it is delivered",
        "P11",
        "a write that a fallback acknowledged is gone when its primary is back",
        (
            Edit(
                "raykv.repair.handoff:Handoff._write",
                "        await self._throttle.take(sum(len(key) + len(record) for key, record in items))\n",
                "        break\n",
            ),
        ),
    ),
    Planted(
        "a fallback acknowledges and stores nothing",
        "P11",
        "a write counts on a fallback that does not have it",
        (
            Edit(
                "raykv.replica.hints:HintStore.keep",
                "    return newer, self._engine.replace(place, stored).position",
                "    return newer, 0",
            ),
        ),
    ),
    # ---- purge (P10) ----
    Planted(
        "forgotten though an owner has not said that it holds it",
        "P10",
        "the owner that missed the delete gives the value back",
        (
            Edit(
                _PURGE,
                "                dead = [dead[index] for index in agreed if 0 <= index < len(dead)]\n",
                "                agreed = []\n",
            ),
        ),
    ),
    Planted(
        "forgotten before the grace is over",
        "P10",
        "what is under way brings the deleted value back",
        (
            Edit(
                "raykv.repair.anti_entropy:AntiEntropy._long_agreed",
                "    return since_s is not None and began_s - since_s > grace_ms / 2000 and self._dead(entry, before_ms)",
                "    return True",
            ),
        ),
    ),
    Planted(
        "forgotten although it is another record by now",
        "P10",
        "a write that came between the two steps of a purge is erased with the tombstone",
        (
            Edit(
                "raykv.repair.local_copy:LocalCopy.erase",
                "    if digest(bucket_id, key, public(found.record)) != value:\n        return False\n"
                "    since_ms = dead_since_ms(found.record)\n"
                "    if since_ms is None or since_ms > before_ms:\n        return False\n",
                "",
            ),
        ),
    ),
)

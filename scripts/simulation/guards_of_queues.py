"""The guards of work queues, as bugs to plant (``raykv.client.shards``, ``queue_books``, ``queue_puts``)."""

from __future__ import annotations

from simulation.planting import Edit, Planted

_BOOKS = "raykv.client.queue_books:Books"
_PUTS = "raykv.client.queue_puts:Puts"
_BOOK = "raykv.client.shards:Book"

OF_QUEUES = (
    Planted(
        "a claim is ended before its lease",
        "queue",
        "two consumers work on a job at once, though the first is alive and in time",
        (Edit(f"{_BOOKS}.expired", ">= claim.lease_ms\n", ">= claim.lease_ms / 2\n"),),
    ),
    Planted(
        "a renewal does not begin the lease anew",
        "queue",
        "a claim that was renewed is ended, for its first beat has been seen for as long",
        (
            Edit(
                f"{_BOOKS}.learn",
                "former.get((claim.id, claim.beat), now_s)",
                "min((at for (one, _), at in former.items() if one == claim.id), default=now_s)",
            ),
        ),
    ),
    Planted(
        "a put whose outcome is unknown goes to the next slot",
        "queue",
        "the first write stands after all, and the job is in the queue twice",
        (
            Edit(
                f"{_PUTS}._round",
                "    call.unsure[put.shard] = put\n",
                "    self._known[put.shard].tail = (put.seq + 1, put.before); call.waiting.appendleft(put.at)\n",
            ),
        ),
    ),
    Planted(
        "a put may come when its slot was freed",
        "queue",
        "a put that is on its way for long is written where its job was done meanwhile, and stays there for ever",
        (Edit(f"{_PUTS}._round", "fence=shards.put_fence(put.seq),", "fence=None,"),),
    ),
    Planted(
        "a put may stand where another does",
        "queue",
        "two producers took the same slot for the next: the jobs of one are gone",
        (Edit(f"{_PUTS}._round", "if_absent=True,", "if_absent=False,"),),
    ),
    Planted(
        "a job is due at once whatever was said",
        "queue",
        "what was given back for a while is tried again at once, until it is a dead letter",
        (Edit(f"{_BOOK}.take", "if waiting.due_ms > now_ms or not count:", "if not count:"),),
    ),
    Planted(
        "the last delivery is not made",
        "queue",
        "a job is a dead letter though it might have been done",
        (Edit(f"{_BOOK}._give_back", "part[3] >= most_deliveries", "part[3] + 1 >= most_deliveries"),),
    ),
    Planted(
        "a slot is freed while a job of it is claimed",
        "queue",
        "its consumer dies, the claim ends, and there is nothing to deliver again",
        (
            Edit(
                f"{_BOOK}.refers_to",
                "any(part[0] == seq for claim in self.claims for part in claim.ranges)",
                "False",
            ),
        ),
    ),
    Planted(
        "the cursor passes what was not taken",
        "queue",
        "a claim of few jobs of a slot of many leaves the others behind for ever",
        (Edit(f"{_BOOK}._advance", "if at < len(slot.jobs):", "if at < len(slot.jobs) and not at % 2:"),),
    ),
    Planted(
        "a repeated name puts its job again",
        "queue",
        "the job of that name was done, its slot is free, and it is written there once more, where no cursor comes",
        (
            Edit(
                "raykv.client.queue_names:NamedPuts._put_once",
                "if place.stands:",
                "if place.stands and place.seq < 0:",
            ),
            Edit("raykv.client.queue_names:NamedPuts._put_once", "fence=shards.put_fence(place.seq),", "fence=None,"),
        ),
    ),
)

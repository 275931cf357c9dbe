"""Conversations of a cluster, as sequences of messages: ``tests/simulation/golden`` keeps them as text.

Each is a short program on a simulated store in which one thing happens, drawn as the sequence chart that a failing seed
prints. ``scripts/simulate --golden`` writes them; a test compares them. A change of the protocol shows as a diff of these
charts, to be read before it is committed.

Messages take one millisecond each, so a chart shows the order of things, and only delays that are meant.
"""

from __future__ import annotations

import asyncio
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

import raykv.sim
from raykv.config import NodeConfig
from raykv.records.keys import encode_key
from raykv.sim.cluster import SUPERVISOR
from raykv.sim.network import NetworkOdds
from simulation.quiet import quiet
from simulation.sequence_chart import chart_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from raykv.sim.cluster import Cluster
    from raykv.sim.world import World
    from simulation.message_text import Topic

BEGINS_S = 60.0
"""When a conversation begins: the store has been founded long ago."""
DELAY_S = 0.001
WIDTH = 120
KEY = "k"


class Stage:
    """A world to talk in, and the part of its trace that is shown."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store = world.store
        self._from = 0

    @property
    def cluster(self) -> Cluster:
        """What the world is made of."""
        return self.world._cluster  # noqa: SLF001 - more can be done to it by hand than users may

    def begin(self) -> None:
        """Show what happens from now on; it is ``BEGINS_S`` by then."""
        self.world.sleep(BEGINS_S - self.world.now_s)
        self._from = self.cluster.trace.count

    def owners(self, key: str = KEY) -> tuple[str, ...]:
        """Return the primaries of a key, in the order of its preference list."""
        assert self.cluster.supervisor is not None
        ring = self.cluster.supervisor.state.ring
        return ring.owners(ring.partition_of(encode_key(key)))

    def chart(self, topics: frozenset[Topic], without: tuple[str, ...]) -> list[str]:
        """Return the chart, without the messages whose words begin with one of ``without``."""
        events = list(self.cluster.trace.events)
        first = self.cluster.trace.count - len(events)
        return chart_of(events[self._from - first :], topics=topics, without=without, width=WIDTH)


class Conversation(NamedTuple):
    """One of them."""

    heading: str
    play: Callable[[Stage], None]
    topics: frozenset[Topic]
    without: tuple[str, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of its file, without the ending."""
        return self.play.__name__.removeprefix("_")

    def text(self) -> str:
        """Play it; return its heading and its chart."""
        with quiet(), raykv.sim.start(seed=1, **self.options) as world:
            stage = Stage(world)
            stage.cluster.network.odds = NetworkOdds(delay_s=(DELAY_S, DELAY_S))
            self.play(stage)
            lines = stage.chart(self.topics, self.without)
        heading = textwrap.fill(" ".join(self.heading.split()), WIDTH)
        return "\n".join([heading, "", *lines, ""])


CONVERSATIONS: list[Conversation] = []


def conversation(
    heading: str, *topics: Topic, without: tuple[str, ...] = (), **options: Any
) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Make a function a conversation.

    ``heading``: what it shows. ``topics``: which messages are shown; ``without``: not those whose words begin so.
    ``options``: those of the world.
    """

    def add(play: Callable[[Stage], None]) -> Callable[[Stage], None]:
        CONVERSATIONS.append(Conversation(heading, play, frozenset(topics), without, options))
        return play

    return add


@conversation(
    "A get asks R=2 of the three owners and returns when both have answered.",
    "data",
)
def _get(stage: Stage) -> None:
    stage.store.put(KEY, "red")
    stage.begin()
    stage.store.get(KEY)


@conversation(
    """A put into a vector bucket while one owner is 80 ms slower than the others.

    Round one reserves a dot at a complete primary; round two writes the version under that dot to all N owners. Two
    acknowledgements are enough, so the client does not wait for the slow owner, which is written all the same.
    """,
    "data",
)
def _put_with_a_slow_owner(stage: Stage) -> None:
    stage.store.put(KEY, "red")
    stage.world.slow(stage.owners()[-1], 0.08, 60.0)
    stage.begin()
    stage.store.put(KEY, "blue")
    stage.world.sleep(0.5)


@conversation(
    """A put into an lww bucket through a coordinator whose clock is half a second behind (P7).

    The owners hold a record with a later time and say so; the coordinator stamps the write again, above what they hold,
    and sends it once more. Without that the write would be acknowledged and never seen.
    """,
    "data",
    coordinators=2,
)
def _put_stamped_again(stage: Stage) -> None:
    plain = stage.store.bucket("plain", versioning="lww")
    behind = stage.cluster.coordinator_names[1]
    late = stage.world.connect(behind).bucket("plain")
    stage.begin()
    plain.put(KEY, "red")
    stage.cluster.hosts[behind].skew_ms = -500.0
    late.put(KEY, "blue")
    stage.world.sleep(0.1)


@conversation(
    """A get with R=3 finds an owner that was cut off when the key was written, and nobody kept a hint for it.

    The coordinator merges what the three show, writes the result back to the one that lacks it, and only then answers, so
    that no later read can show less (P9).
    """,
    "data",
    node=NodeConfig(max_hint_bytes=0),
)
def _read_repair(stage: Stage) -> None:
    stage.store.put(KEY, "red")
    behind = stage.owners()[-1]
    stage.world.cut(behind, 2.0)
    stage.store.put(KEY, "blue")
    stage.world.sleep(10.0)
    stage.begin()
    stage.store.get(KEY, r="all")
    stage.world.sleep(0.1)


@conversation(
    """A put into a sloppy bucket while two of the three owners are cut off from everybody.

    The fallback n2 counts in the place of one of them: it keeps the record, with a hint for whom. It delivers the hint as
    soon as it gets through (P11).
    """,
    "data",
    nodes=4,
)
def _sloppy_put_and_hinted_handoff(stage: Stage) -> None:
    sloppy = stage.store.bucket("loose", sloppy=True)
    sloppy.put(KEY, "red")
    stage.begin()
    for away in stage.owners()[1:]:
        stage.world.cut(away, 3.0)
    sloppy.put(KEY, "blue")
    stage.world.sleep(15.0)


@conversation(
    """One partition moves from n1 to n2, and a client asks a coordinator that has not heard of it (P4). N=1, so that each
    partition has one owner; the nodes' answers to the supervisor's "accept" are left out.

    The ring's goal changes (state 1.2). Then three epochs: the partition is written at both owners and read at the former
    one while the new one pulls it (1.3); read at the new one while both are compared (1.4); the former owner is gone and
    drops what it has (1.5). The second coordinator was cut off from the supervisor and asks by the first ring: the node
    that it asks refuses, and tells it the ring of now.
    """,
    "data",
    "state",
    n=1,
    nodes=2,
    coordinators=2,
    partitions=8,
    without=("granted",),
)
def _partition_that_moves(stage: Stage) -> None:
    keys = [f"k{number}" for number in range(40)]
    stage.store.put_many(dict.fromkeys(keys, "red"))
    stale = stage.cluster.coordinator_names[1]
    behind = stage.world.connect(stale)
    behind.get("k0")
    for pair in ((SUPERVISOR, stale), (stale, SUPERVISOR)):
        stage.cluster.network.cut(*pair)
    before = {key: stage.owners(key) for key in keys}
    stage.begin()
    stage.store.set_weight("n2", 1.67)
    stage.world.sleep(5.0)
    behind.get(next(key for key in keys if stage.owners(key) != before[key]))


@conversation(
    """A node is killed, and the supervisor starts it again on its directory, as another incarnation (P6).

    Meanwhile the coordinator lets another primary give the dot, and the write stands without the dead node; a hint for it
    is kept by one that was written, and delivered once it is back (P11).
    """,
    "data",
    "state",
)
def _node_killed_and_back(stage: Stage) -> None:
    stage.store.put(KEY, "red")
    stage.begin()
    stage.world.kill(stage.owners()[0])
    stage.store.put(KEY, "blue")
    stage.store.get(KEY)
    stage.world.sleep(5.0)
    stage.store.get(KEY)


@conversation(
    """The supervisor is killed and started again (P5).

    It reads the cluster's state from the nodes, takes promises for the next generation from a majority, reads once more,
    stores the state under that number, and hands it out. Reads and writes never wait for it.
    """,
    "data",
    "state",
)
def _supervisor_takeover(stage: Stage) -> None:
    stage.store.put(KEY, "red")
    stage.begin()
    stage.world.kill_supervisor()
    stage.store.put(KEY, "blue")
    stage.world.sleep(5.0)


@conversation(
    """Two clients add to one number at the same time (L6, L7).

    The leader evaluates both, one after the other, and sends one record for both, with a receipt for each. They are
    answered when two of the three owners, the leader among them, hold it durably. Then a plain read: two owners show the
    same record under the term that both have promised (L8).
    """,
    "data",
    "state",
)
def _contended_add(stage: Stage) -> None:
    counter = stage.store.bucket("hits", versioning="linearizable")
    counter.add(KEY, 1)
    other = stage.world.connect().bucket("hits", versioning="linearizable")
    other.get(KEY)
    stage.begin()

    async def both() -> None:
        await asyncio.gather(counter.aio.add(KEY, 1), other.aio.add(KEY, 10))

    stage.world.run(both())
    counter.get(KEY)


@conversation(
    """The leader of a partition is killed, and the next owner takes over (L1, L4, L5, L14).

    It hears from the coordinator that the leader is silent, promises a term of its own, asks the others for it, asks them
    once more, looks the key up under it, and goes on. The add that was under way is counted once.
    """,
    "data",
    "state",
    without=("news", "any news", "granted, promised", "accept state", "which state"),
)
def _leader_killed(stage: Stage) -> None:
    counter = stage.store.bucket("hits", versioning="linearizable")
    counter.add(KEY, 1)
    stage.begin()
    stage.world.kill(stage.owners()[0])
    counter.add(KEY, 10)
    counter.add(KEY, 100)
    stage.world.sleep(0.01)


def conversations() -> Iterator[tuple[str, str]]:
    """Play all of them; yield each one's name and text."""
    for each in CONVERSATIONS:
        yield each.name, each.text()

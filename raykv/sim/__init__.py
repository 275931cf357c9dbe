"""THE OTHER WORLD: whole clusters in one process, where a seed decides what goes wrong.

The code between ``records`` and ``client`` reaches the outside through ``ports`` only. ``actors`` opens those doors onto
Ray and the operating system; this package opens them onto a world in which time is virtual, messages are late, lost,
repeated and cut off, disks tear, rot, fill up and lie, and processes freeze and die. After FoundationDB (Zhou et al.,
SIGMOD 2021, section 4) and TigerBeetle. The same seed gives the same run, to the last message.

**For you**, if you use raykv: ``raykv.sim.start(seed=7)`` gives a test of yours a ``Store`` with virtual time, in which
you break things by hand or let the seed do it; ``@raykv.sim.seeds(20)`` makes a test of each of twenty. See
``raykv.sim.world`` and ``raykv.sim.seeds``.

**For raykv itself**: ``scripts/simulate``. Read bottom-up:

* ``kernel``: the event loop with virtual time; processes. ``trace``: what happened, and its hash.
* ``disk``, ``host``, ``network``: what processes stand on. ``nodes``, ``cluster``: what Ray does in the real world.
* ``scenario``: from a seed to everything that will be done (swarm); ``flavours``: runs about one kind of trouble.
  ``workload``: what clients do. ``nemesis``: what fails.
* ``history``, ``checkers``, ``vector_checker``, ``linearizability``: what was told to clients, and what may be demanded
  of it. ``promises``: what nodes said, and must hold. ``health``: who was well when.
* ``run``: one run, in two phases. ``story``, ``shrink``: what a failing run shows. ``batch``: many runs.
* ``drills``: parts alone, where a whole cluster is too kind to them: ``duel`` (supervisors over the cluster's state),
  ``rot_drill`` and ``power_drill`` (one node whose disk rots, whose power goes; ``lone_node``), ``copies_drill`` (three
  copies that differ, and nodes that heal; ``copies_world``). ``copies_scenes``, ``register_scenes``: one schedule each.
* ``planted``: guards that can be switched off here, to see that the checkers notice. ``crash_points``: one engine, every
  disk that a power cut may leave. ``gossip``: the failure detectors of hundreds of nodes, and nothing else.

Left out: threads (work for the executor happens at one moment), pre-emption within a step, and Ray itself, whose part is
played by ``nodes`` and ``cluster`` from measurements; the tests on real Ray cover what they assume.
"""

from raykv.sim.seeds import seeds
from raykv.sim.world import World, start

__all__ = ["World", "seeds", "start"]

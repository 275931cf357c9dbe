"""THE OTHER WORLD: whole clusters in one process, where a seed decides what goes wrong.

The code between ``records`` and ``client`` reaches the outside through ``ports`` only. ``actors`` opens those doors
onto Ray and the operating system; this package opens them onto a world in which time is virtual, messages are late,
lost, repeated and cut off, disks tear and corrupt data, fill up and lie, and processes freeze and die. After
FoundationDB (Zhou et al., SIGMOD 2021, section 4) and TigerBeetle. The same seed gives the same run, to the last
message.

**For you**, if you use raykv: ``raykv.sim.start(seed=7)`` gives a test of yours a ``Store`` with virtual time, in which
you break things by hand or let the seed do it; ``@raykv.sim.seeds(20)`` makes a test of each of twenty. See
``raykv.sim.world`` and ``raykv.sim.seeds``.

Read bottom-up:

* ``kernel``: the event loop with virtual time; processes. ``trace``: what happened, and its hash.
* ``disk``, ``host``, ``network``: what processes stand on. ``nodes``, ``cluster``: what Ray does in the real world.
* ``faults``: what can go wrong, and the draw of it from a seed. ``nemesis``: does it. ``world``, ``seeds``: the face.

Left out: threads (work for the executor happens at one moment), pre-emption within a step, and Ray itself, whose part is
played by ``nodes`` and ``cluster`` from measurements; the tests on real Ray cover what they assume.

raykv tests itself in this world: ``scripts/simulate`` in its repository, with workloads, checkers and fuzzers that are
not shipped.
"""

from raykv.sim.seeds import seeds
from raykv.sim.world import World, start

__all__ = ["World", "seeds", "start"]

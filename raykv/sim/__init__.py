"""THE OTHER WORLD: complete clusters in one process, where a seed decides what goes wrong.

The code between ``records`` and ``client`` reaches the outside through ``ports`` only. ``actors`` implements these ports
with Ray and the operating system; this package implements them in a world in which time is virtual, messages are late,
lost, repeated and cut off, disks tear and corrupt data, fill up and lie, and processes freeze and die. After
FoundationDB (Zhou et al., SIGMOD 2021, section 4) and TigerBeetle. The same seed gives the same run, to the last
message.

**For users of raykv**: ``raykv.sim.start(seed=7)`` gives your test a ``Store`` in virtual time, in which you break things
by hand or let the seed do it; ``@raykv.sim.seeds(20)`` makes a test of each of twenty seeds. See ``raykv.sim.world`` and
``raykv.sim.seeds``.

Read bottom-up:

* ``kernel``: the event loop with virtual time; processes. ``trace``: the events, and their hash.
* ``disk``, ``host``, ``network``: the ground under processes. ``nodes``, ``cluster``: Ray's part in the real world.
* ``faults``: the faults, drawn from a seed. ``nemesis``: injects them. ``world``, ``seeds``: the user's face.

Left out: threads (work for the executor happens at one moment), pre-emption within a step, and Ray itself: ``nodes`` and
``cluster`` play its part, from measurements, and the tests on real Ray cover their assumptions.

raykv tests itself in this world: ``scripts/simulate`` in its repository, with workloads, checkers and fuzzers that are
not shipped.
"""

from raykv.sim.seeds import seeds
from raykv.sim.world import World, start

__all__ = ["World", "seeds", "start"]

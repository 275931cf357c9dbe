"""WHERE a key lives: tokens, partitions, their owners, and the order in which to ask nodes.

**The idea.** Consistent hashing (Karger et al., STOC 1997) hashes keys and nodes onto one circle, so that a node that
comes or goes moves only its neighbours' keys. Dynamo (DeCandia et al., SOSP 2007, section 6.2) began with that, gave
each node many random tokens (virtual nodes) to even the load, and ended with its *strategy 3*, which raykv uses: the
circle is cut once into Q equal partitions, Q is fixed for a store's life, and the nodes share the partitions among
themselves. A key's token gives its partition by arithmetic (``tokens``); a table gives the partition's owners (``Ring``);
a pure function makes the next table from the last one and the members (``claim``).

**Why not random tokens.** With 16 random tokens each, 30 nodes are 25 % apart in load; with a table they are one
partition apart. A random token cuts a neighbour's range in two, so a join scans files and discards Merkle trees; a
partition moves as a unit, and its tree stays valid. A table also guarantees what luck cannot: distinct hosts and zones,
exact shares by weight, the fewest possible moves. The price is a table of Q x N small numbers on which all must agree;
the cluster's state holds such things anyway.

**Invariants**, for every ring that ``claim`` makes (``Ring.check`` raises where one does not hold):

1. A partition has exactly N owners, on N distinct nodes; on distinct hosts if there are at least N hosts, on distinct
   zones if there are at least N zones; with fewer, as even as ``targets.limits`` says.
2. A node owns the floor or the ceiling of its target, its weight's share under those limits (``targets.targets``).
3. It comes first in the floor or the ceiling of its copies / N partitions, and evenly in the places after that.
4. A new ring moves as few copies as any ring that keeps 1 and 2 can: ``flow`` is an exact minimum-cost flow.
5. The same input gives the same ring, on every machine and in every run.

Read from the bottom up: ``tokens``, ``members``, ``targets``, ``ring``, ``flow``, ``fill``, ``claim``.

**Omitted.** How the nodes agree on a ring and how data follows it: that is cluster, repair and supervision. Whether a node
is alive: a preference list names all nodes, and the caller skips the dead ones. Load by heat: a weight is a node's
capacity, not the traffic on its keys. Changing Q: a store that outgrows its partitions is copied into a new one.
"""

from __future__ import annotations

from raykv.ring.claim import claim, moves
from raykv.ring.members import Member, auto_weight, partition_warning
from raykv.ring.ring import Ring
from raykv.ring.targets import Limits, limits, targets
from raykv.ring.tokens import (
    TOKEN_BITS,
    arc,
    partition_in,
    partition_of,
    partition_of_key,
    partitions_in,
    partitions_of_keys,
    token,
    token_in,
)

__all__ = [
    "TOKEN_BITS", "token", "token_in", "partition_of", "partition_of_key", "partitions_of_keys", "partition_in",
    "partitions_in", "arc",
    "Member", "auto_weight", "partition_warning",
    "Limits", "limits", "targets",
    "Ring", "claim", "moves",
]  # fmt: skip

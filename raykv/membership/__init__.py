"""WHO is alive: heartbeats by gossip, silence weighed by phi accrual, verdicts by two witnesses.

**The idea.** No node can tell a dead peer from a slow one or a cut cable; it can only say how surprising the peer's
silence is. Every half second a node increments its own heartbeat and exchanges its table of all heartbeats with two
others, picked at random (``heartbeats``; van Renesse et al., Middleware 1998). The time since a peer's counter last rose
is weighed by how it usually rises (``phi``; Hayashibara et al., SRDS 2004). ``detector`` combines the two and notices when
it was itself the one that stood still. Its suspicion is one node's view; the supervisor makes it a verdict when a second
node agrees (``verdict``, P12). Dynamo works much alike (DeCandia et al., SOSP 2007, section 4.8).

**Why gossip** rather than heartbeats from everybody to everybody: for 3 nodes it is twice the messages. For N a round takes
4 messages a node in place of N - 1, whatever N, and each is a call through Ray, which is the costly part; and news finds
its way around a cut link. The bytes do *not* shrink: every table names every node, and both ways grow with N; at 500 nodes
it is 65 KB/s a node against 81 (``scripts/gossip``). Gossip is slower: a heartbeat takes on the order of log N rounds to
reach everybody (1 for 10 nodes, 3 for 100, 3 to 4 for 500), in place of one.

**Invariants.** Only a node itself raises its counter, and only a higher entry replaces an entry. A node never suspects
itself, nor anybody in the first 10 rounds after it stood still. Fewer than two witnesses put nobody down, and none of the
witnesses is down itself. All clocks and generators are passed in: the same calls give the same answers.

**Omitted.** SWIM's probes (Das, Gupta and Motivala, DSN 2002), whose messages do not grow with N at all: victims must refute
rumours of their death, and gossip must agree on the members, which the supervisor's register does here. Partial tables:
they cut the bytes by the factor by which they lengthen the time to notice a death, and are not needed below thousands of
nodes. Acting on a verdict: that is supervision.

Read from the bottom up: ``heartbeats``, ``phi``, ``detector``, ``verdict``.
"""

from __future__ import annotations

from raykv.membership.detector import FailureDetector
from raykv.membership.heartbeats import Heartbeats, Table
from raykv.membership.phi import PhiAccrual
from raykv.membership.verdict import Verdicts

__all__ = ["Heartbeats", "Table", "PhiAccrual", "FailureDetector", "Verdicts"]

"""WHO is alive: heartbeats by gossip, silence weighed by phi accrual, verdicts by two witnesses.

**The idea.** No node can tell a dead peer from a slow one or from a cut cable; what it can do is say how surprising the
peer's silence is. Every half second a node counts up its own heartbeat and exchanges its table of everybody's with two
others, picked at random (``heartbeats``; van Renesse et al., Middleware 1998). The time since a peer's counter last rose
is weighed by how it usually rises (``phi``; Hayashibara et al., SRDS 2004). ``detector`` puts the two together and knows
when it was itself the one that stood still. What it suspects is one node's view; the supervisor makes it a verdict when a
second node says the same (``verdict``, P12). Dynamo does it much alike (DeCandia et al., SOSP 2007, section 4.8).

**Why gossip**, where everybody could send a heartbeat to everybody: for 3 nodes it is twice the messages. For N a round
takes 4 messages a node in place of N - 1, whatever N, and each goes through Ray as a call, which is what costs; and news
find their way round a link that is cut. The bytes do *not* shrink: every table names every node, so that both ways grow
with N; at 500 nodes it is 65 KB/s a node against 81 (``scripts/gossip``). Dearer in time: of the order of log N rounds for a
heartbeat to reach everybody (1 for 10 nodes, 3 for 100, 3 to 4 for 500), in place of one.

**Invariants.** A node's counter is raised by that node only, and an entry is replaced by a higher one only. A node never
suspects itself, and nobody in the first 10 rounds after it stood still. Nobody is down by fewer than two witnesses, none
of which is down. Nothing here reads a clock or draws from a generator that it was not given: the same calls give the
same answers.

**What is left out.** SWIM's probes (Das, Gupta and Motivala, DSN 2002), whose messages do not grow with N at all: its
rumours of deaths must be refuted by their victims and its members agreed on by gossip, which here the supervisor's
register does. Tables of a part of the nodes: they cut the bytes by the factor by which they lengthen the time to notice a
death, and are not needed below thousands of nodes. Acting on a verdict: that is supervision.

Read from the bottom up: ``heartbeats``, ``phi``, ``detector``, ``verdict``.
"""

from __future__ import annotations

from raykv.membership.detector import FailureDetector
from raykv.membership.heartbeats import Heartbeats, Table
from raykv.membership.phi import PhiAccrual
from raykv.membership.verdict import Verdicts

__all__ = ["Heartbeats", "Table", "PhiAccrual", "FailureDetector", "Verdicts"]

"""ONE node, put together: a replica, its engine, its work in the background, and the shell around them.

**The idea.** Handlers are plain functions that never wait; disks are slow. The shell stands between: it decodes a
frame, checks the run and the epoch that the frame is meant for, calls the handler, and holds the answer until the log
is durable up to the position that the answer depends on. One ``fdatasync`` serves all waiting answers (group
commit). Flushes, compactions and cold reads run beside it, through the Executor port.

**Invariants.**

1. No answer leaves before what it depends on is durable (P3).
2. One run at a time works on a directory, and a run that hears of a later one of itself stops (P6).
3. A failed sync is never retried: what the disk holds after it is unknown. The node stops, and recovery reads what
   is there.

Read from the bottom up: ``opening``, ``group_commit``, ``pace`` (rests of flushes and compactions, writes held back), then
``node``.

**What is left out.** Sockets and Ray: a frame comes in, a frame goes out, and ``actors`` or ``sim`` carries it.
"""

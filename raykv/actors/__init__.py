"""THE REAL WORLD: Ray actors, the operating system's files, clock and threads.

The actors are thin: each makes the real ports, hands them to the code that also runs in simulation (``StorageNode``,
``Coordinator``, ``Supervisor``), and passes frames: as calls of Ray actors (``transport``), and over sockets (``stream``).
``lifecycle`` starts, finds and stops a store's actors. A client's way to its coordinator is ``link`` (calls of the
coordinator's actor) or ``direct_link`` (its own: ``kept_loop``, an event loop that callers borrow, and ``lines``, sockets
for the straight way). ``admission`` says how much a node takes on at a time; ``hosts``, what lies on which machine.
``holder`` ends the process that holds a node's directory, if it is proved to be that; ``ownership`` says which directories
are to be relied on; ``deletion`` deletes what is a store's and no more.

Why the supervisor recreates storage actors and not Ray: with ``max_restarts`` above 0 callers of a dead actor wait for
two seconds before they hear of it; with 0 they hear at once and go on with the other replicas.
"""

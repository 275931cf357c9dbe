"""THE REAL WORLD: Ray actors.

The actors are thin: each makes the real ports (``raykv.system``), hands them to the code that also runs in simulation
(``StorageNode``, ``Coordinator``, ``Supervisor``), and passes frames: as calls of Ray actors (``calls``), and over sockets
(``raykv.transport``). ``lifecycle`` starts, finds and stops a store's actors. A client's way to its coordinator is
``link`` (calls of the coordinator's actor) or ``embedded_coordinator`` (its own, in ``embedded_loop``, an event loop that
callers borrow). ``hosts`` tells what lies on which machine; ``ownership``, which directories are to be relied on;
``deletion`` deletes what is a store's and no more.

Why the supervisor recreates storage actors and not Ray: with ``max_restarts`` above 0 callers of a dead actor wait for
two seconds before they hear of it; with 0 they hear at once and go on with the other replicas.
"""

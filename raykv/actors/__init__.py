"""THE REAL WORLD: Ray actors.

**The idea.** The actors are thin: each makes the real ports (``raykv.system``), hands them to the code that also runs
in simulation (``StorageNode``, ``Coordinator``, ``Supervisor``), and passes frames: as calls of Ray actors
(``calls``), and over sockets (``raykv.transport``). Ray places, starts, names and watches processes; it never decides
what data means.

**Why the supervisor recreates storage actors and not Ray**: with ``max_restarts`` above 0 callers of a dead actor
wait for two seconds before they hear of it; with 0 they hear at once and go on with the other replicas.

Read in this order: ``naming`` and ``calls``; ``storage_node`` (with its helper, ``job_process``), ``coordinator`` and
``supervisor``, the actors;
``launcher`` (starts storage actors where their directories are), ``hosts`` (the directories on each machine),
``ownership`` (which directories can be trusted), ``marker``, ``path_lock`` and ``deletion`` (exactly the files of a
store);
``lifecycle`` (``raykv.start`` and its siblings) and ``destroying``, over ``ray_cluster``, ``forks`` (where Ray cannot work)
and ``authentication``; a client's way to its coordinator: ``link`` (calls of the coordinator's actor), or
``embedded_coordinator`` (its own) in an ``embedded_loop``. A command at the shell has no time to join Ray:
``command_link`` goes straight to a ``command_port``, by an ``endpoint_file``, once ``known_cluster`` has told which cluster
Ray would join; but for the port these import no Ray.

**What is left out.** Ray's object store: pairs are small, and an object there costs more than a frame. Retries by
Ray: a call that may have been carried out is never sent again for us (P8).
"""

"""The test rig of the simulation: scenarios, checkers, fuzzers, schedules, planted bugs, and the batches that run them.

``raykv.sim`` is what users get of the simulated world; what is here tests raykv itself in it and is not shipped. It is run
by ``scripts/simulate`` and ``scripts/planted``. Read bottom-up:

* ``workload``: what clients do. ``scenario``: one run as data. ``scenario_families``, ``ring_families``: runs about one
  kind of trouble. ``drawing``: from a seed to a scenario (swarm). ``scenario_file``: scenarios on disk.
* ``history``, ``checkers``, ``vector_checker``, ``linearizability``: what clients heard, and what may be demanded of it.
  ``promises``: what nodes said, and must hold. ``health``: who was well when. ``sometimes``: what must happen now and then.
* ``run``: one run, in two phases; ``attempt``: one that may go wrong in any way. ``batch``: many. ``shrink``: a failing
  scenario made small. ``failure_report``, ``sequence_chart``, ``message_text``, ``excerpt``: what a failing run shows.
* ``fuzzers``: parts alone, where a whole cluster is too kind to them, on nodes that nobody looks after
  (``bare_cluster``). ``register_fuzzer``: supervisors over the cluster's state. ``corruption_fuzzer``, ``power_fuzzer``
  (over ``lone_node``): one node whose disk corrupts data, whose power goes. ``copies_fuzzer`` (over ``copies_world``):
  three copies that differ, and nodes that heal. ``queue_fuzzer``: a work queue, by whose consumers' word ``queue_checker``
  judges. ``copies_schedules``, ``register_schedules``: one fixed schedule each.
  ``conversations``: what a cluster's golden transcripts show.
* ``planted`` and ``guards_*``: guards that can be switched off, to see that the checkers notice; ``planting`` edits them
  out, ``hunt`` looks for the seed that notices.
* ``crash_points``, ``legal_disks``, ``storage_load``, ``storage_promise``: one engine, every disk that a power cut may
  leave. ``gossip``: the failure detectors of hundreds of nodes, and nothing else. ``autoscaling``: a day of load.
"""

"""The parts of ``scripts/bench``: what is measured, beside what, and what is made of it.

``stage`` has Ray, the data, the machine; ``servers`` the peers' processes; ``sides`` one face for all who are measured;
``timing`` how to measure fairly; ``floors``, ``faults``, ``ycsb``, ``growth``, ``linearizable`` the measures; ``engine`` and
``engine_sides`` one storage engine beside others, without Ray; ``report`` tables and plots.
"""

"""Hosts of several zones on one machine: network namespaces, joined by a relay that delays, cuts and counts.

``hosts`` makes them, ``relay`` carries what goes from zone to zone. For ``scripts/zones``; Linux, as root.
"""

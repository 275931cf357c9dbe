"""WHAT a node answers: plain functions over its storage engine.

``handlers`` answers requests, ``scanning`` pages of scans; ``dot_allocator`` gives out the node's dots; ``hints`` keeps
what other nodes missed; ``load`` counts what the node is asked for.
"""

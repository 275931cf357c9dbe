"""WHAT travels: the messages of clients, coordinators, storage nodes and the supervisor, and what each may carry.

``codec`` turns messages into frames and back; ``supervisor``, ``clients`` and ``nodes`` declare the messages by who is
asked; ``requests`` is the table of requests with their traits; ``frames`` gathers the conversations, and is what other
packages import; ``invariants`` states the rules. How much a field may hold stands in ``records.limits`` and is checked by
the decoder before an element is made. A frame that is not exactly what it claims to be is refused (``CorruptData``)
before anything is done with it, and nothing in it is ever unpickled.
"""

"""WHAT travels: the messages of clients, coordinators, storage nodes and the supervisor, and the rules that they keep.

**The idea.** A store is a conversation. Everything that one process may ask of another is a message, a frozen struct
with typed and bounded fields, and a row in one table, which says what concerns everybody about it: which keys and
partitions it is about, who may send it, how large it may be, whether it may be refused under load, how it is metered.
Servers, admission, the check of ownership and the meters read that table, so a request is added in one place and
cannot be forgotten in another.

**Invariants.**

1. A frame that is not exactly what it claims to be is refused (``CorruptData``) before anything is done with it. How
   much a field may hold stands in ``records.limits`` and is checked before an element is made. Nothing is ever
   unpickled.
2. Every request has a row, every row a handler, and no trait a default: a gap stops the type checker or the start,
   not a store in the night.
3. P1 to P15 stand in ``invariants``, each with the schedule that it closes; everything else cites them.

Read from the bottom up: ``codec`` (messages to frames and back), ``nodes``, ``clients`` and ``supervisor`` (what each
can be asked), ``requests`` (the table), ``frames`` (the conversations, as other packages import them); ``invariants``
at any time.

**What is left out.** How frames get from one process to another: that is transport. What a record holds: the protocol
carries it as bytes.
"""

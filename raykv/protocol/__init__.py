"""WHAT travels: the messages of clients, coordinators, storage nodes and the supervisor, and the rules that they keep.

**The idea.** A store is a conversation. Every request between processes is a message, a frozen struct with typed and
bounded fields, and a row in one table of the traits that concern all sides: its keys and partitions, its permitted
senders, its maximum size, whether overload may refuse it, how it is metered.
Servers, admission, the check of ownership and the meters read that table, so a request is added in one place and
cannot be forgotten in another.

**Invariants.**

1. A frame that is not exactly what it claims to be is refused (``CorruptData``) before any use. The bounds of fields
   are in ``records.limits`` and are checked before an element is made. Nothing is ever
   unpickled.
2. Every request has a row, every row a handler, and no trait a default: a gap stops the type checker or the start,
   not a store in the night.
3. P1 to P15, and L1 to L14 of linearizable buckets, stand in ``invariants``, each with the schedule that it closes;
   everything else cites them.

Read from the bottom up: ``codec`` (messages to frames and back), ``changes`` (of linearizable buckets, and what becomes
of them), ``nodes``, ``clients`` and ``supervisor`` (what each can be asked), ``requests`` (the table), ``frames`` (the
conversations, as other packages import them); ``invariants`` at any time.

**What is left out.** How frames get from one process to another: that is transport. What a record holds: the protocol
carries it as bytes.
"""

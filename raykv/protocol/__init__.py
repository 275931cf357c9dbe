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

**Versions.** Two successive versions of raykv may run in one cluster, for as long as an upgrade takes.

1. A frame begins with the version of its format (``codec.FRAME_VERSION``), a stream with that of its handshake
   (``transport.wire.VERSION``). One of another version is refused before anything else in it is read, and the error names
   both versions. Versions that differ in these cannot run together: stop the store, and start it with the new one.
2. Under one version of the format messages only grow. A new field stands last and has a default that means what its
   absence has meant; no field is removed, moved, given another type or another sense. A reader passes over the fields that
   it does not know and takes the defaults of those that it misses.
3. A request that its receiver does not know is refused, with nothing done; a node gives the reason "unknown". Whoever
   sends a new request can do without it, as a supervisor that asks an older node to hand over what it leads, or fails with
   that error, as a client whose store is older than itself. What changes its sense gets another name.
4. An answer that its receiver does not know is as good as none: only who has asked for something new gets one.
5. What is stored has versions of its own (``raykv.storage``): a version reads what the one before it wrote, and not the
   other way round, so there is no way back once a node has written as the new version. Keep a backup until you are sure.

Held by ``tests/protocol/test_versions.py``: frames of each version that was, and nodes of two versions in one cluster.

Read from the bottom up: ``codec`` (messages to frames and back), ``changes`` (of linearizable buckets, and what becomes
of them), ``nodes``, ``clients`` and ``supervisor`` (what each can be asked), ``requests`` (the table), ``frames`` (the
conversations, as other packages import them); ``invariants`` at any time.

**What is left out.** How frames get from one process to another: that is transport. What a record holds: the protocol
carries it as bytes.
"""

"""WHAT is stored: keys and records, as bytes.

**Encoded once.** The client turns a key into bytes (``keys``) and a value into the *body* of a record (``record``):
operation id, flags, time to live, payload. The coordinator puts eight bytes of time in front, and that same byte
string travels to the replicas, lies in their write-ahead logs, memtables and SSTables, and comes back to the client
of a read. Nobody between two clients decodes a value. A record of a ``vector`` bucket (``vector_record``) has one
such body for each version that stands, and the history of what they superseded; its first bytes are the node's own
and do not travel. A record of a ``linearizable`` bucket (``linear_record``) is made by its leader: term and seq, the
value, and the answers to the last calls.

**Everything is bounded.** Frames, keys and pairs each have a largest size (``limits``), and a malformed frame is
refused (``CorruptData``) before any use.

Read from the bottom up: ``limits``, ``keys``, ``record``, ``vector_record``, ``linear_record``, ``kinds``.
Beside them ``durations``: histograms, as processes report them.

**Omitted.** Merging two records of a key: that is versions. Values: ``client.codecs``.
"""

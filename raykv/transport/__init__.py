"""Frames over sockets, straight from process to process, beside Ray's calls.

**The idea.** A call of a Ray actor costs a millisecond and more, a round trip on an open connection some tens of
microseconds. Every actor therefore also listens (``StreamServer``), and a caller (``StreamTransport``) uses a
connection where there is one. Ray still places, starts, names and watches the processes, and says where one listens:
the caller asks the actor itself, by a Ray call, and gets an address and a secret. Both belong to that run of the
process: nothing else has to be up, and no other process that comes to the same port can pass for it. Neither is kept in
a file, but for a coordinator's, for commands of its own user on its own host (``actors.endpoint_file``).

**Invariants.**

1. What the stream cannot do an actor call does: before the connection is open, after it is lost, to a process that
   does not listen.
2. A request is sent once. If its connection is lost meanwhile, nobody knows whether it was carried out
   (``PeerUnreachable``); it is never sent again, and not by Ray either. That a peer has *ended* only Ray can say.
3. A caller that gives up waiting is forgotten; an answer that comes too late is dropped.
4. Requests and answers that are due in one turn of the event loop leave in one write.
5. Before both sides have proved that they know the secret nothing is read but the few bytes of the proof.

Read from the bottom up: ``wire`` (bytes only, so that a blocking client can use it too), ``sockets`` (local ones
within a machine where they need no files, else TCP), ``encryption``, ``callers`` and ``admission`` (who may have how
much), ``server``, ``client``, ``blocking`` (the sockets of a thread that blocks).

**What is left out.** Encryption of our own: between hosts streams are encrypted where Ray's calls are; where they are
not, anybody who can read or change what passes between hosts can read or change the data. Retries: callers decide.
"""

from typing import TYPE_CHECKING, Any

from raykv.transport.sockets import Endpoint

if TYPE_CHECKING:
    from raykv.transport.client import StreamTransport
    from raykv.transport.server import StreamServer

__all__ = ["Endpoint", "StreamServer", "StreamTransport"]


def __getattr__(name: str) -> Any:
    """Import the two that need an event loop when they are asked for: a command that blocks does without asyncio."""
    if name == "StreamTransport":
        from raykv.transport.client import StreamTransport

        return StreamTransport
    if name == "StreamServer":
        from raykv.transport.server import StreamServer

        return StreamServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

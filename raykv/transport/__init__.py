"""Frames over sockets, straight from process to process, beside Ray's calls.

A call of a Ray actor costs a millisecond and more, a round trip on a connection that stands some tens of microseconds. So
an actor also listens (``StreamServer``), and whoever calls it (``StreamTransport``) goes through a connection where there
is one. Ray still places, starts, names and watches the processes, and tells where one listens: the caller asks the actor
itself, by a Ray call, and gets an address and a secret. Both belong to that run of the process: nothing is kept in a file,
nobody else has to be up, and no other process that comes to the same port can pass for it.

Invariants:

- Whatever the stream cannot do an actor call does: before the connection stands, after it is lost, to whom does not listen.
- A request is sent once. If its connection is lost meanwhile, nobody knows whether it was carried out
  (``PeerUnreachable``); it is never sent again, and not by Ray either. That a peer has *ended* only Ray can say.
- Who gives up waiting is forgotten; an answer that comes too late is dropped.
- Requests and answers that are due in one turn of the event loop leave in one write.
- Before both sides have proved that they know the secret nothing is read but the few bytes of the proof.

Between hosts streams are encrypted where Ray's calls are (``encryption``). Where they are not, whoever can read or change
what passes between hosts can read or change the data.

Within one machine the sockets are local ones where there are any without files (``sockets``), else TCP. ``wire`` is bytes
only, no sockets, so that a blocking client can use it too.
"""

from raykv.transport.client import StreamTransport
from raykv.transport.server import StreamServer
from raykv.transport.sockets import Endpoint

__all__ = ["Endpoint", "StreamServer", "StreamTransport"]

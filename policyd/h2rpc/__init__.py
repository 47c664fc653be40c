"""gRPC over HTTP/2 for servers that answer many short streams: its own frames, no framework.

A stream here costs a few calls, and neither a task nor a queue. A service is a function that is handed a `Call` and
returns a `Handler`; the handler's methods are called as messages come, and it answers with `Call.send` and
`Call.finish`, at once or later. Nothing is read from a socket that cannot be written to, and whatever a peer can make
grow has a bound in `Limits`; what happens past each bound stands there.

The package stands alone: it needs the standard library and hpack, and nothing of policyd.

    codes.py        error codes, status codes, and the two kinds of fault
    limits.py       every bound, with what happens past it
    frames.py       bytes <-> frames (RFC 9113, 4 and 6)
    settings.py     what the peer's SETTINGS may say (6.5)
    headers.py      header blocks -> requests, and replies -> header blocks (RFC 7541, without a dynamic table)
    flow.py         windows (5.2)
    streams.py      the life of a stream, as a table (5.1)
    sending.py      what waits for a window, and whose turn it is
    nuisance.py     how much a peer may send that does no work
    lifecycle.py    the life of a connection, as a table
    events.py       what comes out of a connection
    connection.py   one connection: bytes in, events out
    messages.py     gRPC: messages in DATA, time-outs, status
    call.py         one gRPC call, as its handler sees it
    session.py      a connection's calls
    protocol.py     asyncio: one socket, its timers
    server.py       listening, draining, stopping

No client: requests come in and replies go out. No compression of messages. Up to session.py there is no I/O and no
clock.
"""

from policyd.h2rpc.call import Call, Handler, Service
from policyd.h2rpc.codes import ErrorCode, Status
from policyd.h2rpc.limits import Limits
from policyd.h2rpc.server import Server

__all__ = ["Call", "ErrorCode", "Handler", "Limits", "Server", "Service", "Status"]

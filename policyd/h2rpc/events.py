"""What comes out of a connection."""

from typing import NamedTuple

from policyd.h2rpc.headers import RequestHead


class RequestReceived(NamedTuple):
    stream_id: int
    head: RequestHead


class DataReceived(NamedTuple):
    stream_id: int
    data: bytes
    window_bytes: int
    """What it took of the stream's window: `taken` gives it back."""


class RequestEnded(NamedTuple):
    """The peer has sent everything."""

    stream_id: int


class StreamReset(NamedTuple):
    """The peer, or a fault of the peer's, has ended the stream; nothing can be sent on it any more."""

    stream_id: int


class OutboxEmptied(NamedTuple):
    """What waited for a window has left."""

    stream_id: int


Event = RequestReceived | DataReceived | RequestEnded | StreamReset | OutboxEmptied

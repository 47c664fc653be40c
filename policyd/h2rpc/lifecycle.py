"""The life of a server's connection, as a table.

    AWAITING_PREFACE --> AWAITING_SETTINGS --> OPEN --> DRAINING --> LAST_STREAMS --> CLOSED

    DRAINING        the peer was told to open no more streams; those on their way are still taken
    LAST_STREAMS    the peer has heard it; further streams are refused

A fault leads from each of them to CLOSED, with a GOAWAY.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class ConnectionState(IntEnum):
    AWAITING_PREFACE = 0
    AWAITING_SETTINGS = 1
    OPEN = 2
    DRAINING = 3
    LAST_STREAMS = 4
    CLOSED = 5


class ConnectionInput(IntEnum):
    PREFACE = 0
    SETTINGS = 1
    DRAIN = 2
    DRAIN_HEARD = 3
    EMPTY = 4
    """The last stream has ended."""
    FAULT = 5


_S, _I = ConnectionState, ConnectionInput

TABLE: Final[Mapping[tuple[ConnectionState, ConnectionInput], ConnectionState]] = {
    (_S.AWAITING_PREFACE, _I.PREFACE): _S.AWAITING_SETTINGS,
    (_S.AWAITING_SETTINGS, _I.SETTINGS): _S.OPEN,
    (_S.OPEN, _I.SETTINGS): _S.OPEN,
    (_S.OPEN, _I.EMPTY): _S.OPEN,
    (_S.OPEN, _I.DRAIN): _S.DRAINING,
    (_S.DRAINING, _I.SETTINGS): _S.DRAINING,
    (_S.DRAINING, _I.EMPTY): _S.DRAINING,
    (_S.DRAINING, _I.DRAIN): _S.DRAINING,
    (_S.DRAINING, _I.DRAIN_HEARD): _S.LAST_STREAMS,
    (_S.LAST_STREAMS, _I.SETTINGS): _S.LAST_STREAMS,
    (_S.LAST_STREAMS, _I.DRAIN): _S.LAST_STREAMS,
    (_S.LAST_STREAMS, _I.EMPTY): _S.CLOSED,
    # A connection on which nothing was said yet has nothing to finish.
    (_S.AWAITING_PREFACE, _I.DRAIN): _S.CLOSED,
    (_S.AWAITING_SETTINGS, _I.DRAIN): _S.CLOSED,
    (_S.CLOSED, _I.DRAIN): _S.CLOSED,
    **{(state, _I.FAULT): _S.CLOSED for state in ConnectionState},
}
"""What has no row cannot happen, or is a defect."""

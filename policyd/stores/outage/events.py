"""What a journal tells of: calls that the store did not get."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import DecodeError, Struct
from msgspec.json import Decoder, Encoder

from policyd.core.ledger import Amounts, Entry
from policyd.core.record import Record


class Opened(Struct, frozen=True, tag="opened"):
    """The first event of a file: whose it is."""

    store: str
    """What names the store, without a password."""


class Begun(Struct, frozen=True, tag="begun"):
    """A window of first use was begun, unless it is under way; it counts as begun at `now_ms` until that is known."""

    key: str
    now_ms: int
    length_ms: int

    @property
    def limit_and_scope(self) -> str:
        return self.key.rpartition("|")[0]


class Held(Struct, frozen=True, tag="held"):
    """A request was let through: `Store.reserve`."""

    entries: tuple[Entry, ...]
    record: Record
    now_ms: int
    expires_at_ms: int


class Ended(Struct, frozen=True, tag="ended"):
    """A reservation ended: `Store.settle`, or `Store.release` where nothing is charged."""

    amounts: Amounts | None
    record: Record
    entries: tuple[Entry, ...]
    """What was held on; empty where this process did not hold it."""
    now_ms: int


class Leased(Struct, frozen=True, tag="leased"):
    """A lease is about to be made: a hold in the store, to be ended by whoever finds this in a file that was left."""

    entry: Entry
    record: Record
    now_ms: int


class Took(Struct, frozen=True, tag="took"):
    """A request has taken so much of each lease, by its id, all in all."""

    request_id: str
    amounts: Mapping[str, int]
    now_ms: int


Event = Begun | Held | Ended | Leased | Took

Line = Opened | Event
"""What one line of a file says."""

_encoder = Encoder()
_decoder: Decoder[Line] = Decoder(Line)


def encode(line: Line) -> bytes:
    return _encoder.encode(line)


def decode(payload: bytes) -> Line | None:
    """`None`: it is none, or one of a later version."""
    try:
        return _decoder.decode(payload)
    except DecodeError:
        return None

"""What a store keeps as text: entries, balances and records as JSON, the cursors of pages.

The names in the JSON are those of the dataclasses. Where a field is added with a default, what was written before it
can still be read.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta
from msgspec.json import Decoder, Encoder

from policyd.core.events import OperatorEvent
from policyd.core.ledger import Balance, Entry
from policyd.core.record import Record

Cursor = tuple[Annotated[int, Meta(ge=0, lt=2**53)], str]
"""`at_ms` and `request_id` of the last record of a page; the next page starts below it."""

decode_entries = Decoder(tuple[Entry, ...]).decode
decode_balances = Decoder(tuple[Balance, ...]).decode
decode_record = Decoder(Record).decode
decode_event = Decoder(OperatorEvent).decode
_cursor_decoder: Decoder[Cursor] = Decoder(Cursor)
_account_cursor_decoder: Decoder[str] = Decoder(str)
_encode = Encoder().encode


def encode(value: Sequence[Entry] | Sequence[Balance] | Record | OperatorEvent | str) -> str:
    """`value` as JSON text."""
    return _encode(value).decode()


def cursor_after(record: Record) -> str:
    """The opaque cursor of the page that starts below `record`."""
    return urlsafe_b64encode(_encode((record.at_ms, record.request_id))).decode()


def parse_cursor(cursor: str) -> Cursor:
    """What `cursor_after` made the cursor from. Raises `ValueError` for anything else."""
    try:
        return _cursor_decoder.decode(urlsafe_b64decode(cursor))
    except ValueError as error:
        raise ValueError(f"{cursor!r} is not a cursor of a usage page") from error


def cursor_after_event(event: OperatorEvent) -> str:
    """The opaque cursor of the page that starts after `event`."""
    return urlsafe_b64encode(_encode((event.at_ms, event.id))).decode()


def parse_event_cursor(cursor: str) -> Cursor:
    """What `cursor_after_event` made the cursor from. Raises `ValueError` for anything else."""
    try:
        return _cursor_decoder.decode(urlsafe_b64decode(cursor))
    except ValueError as error:
        raise ValueError(f"{cursor!r} is not a cursor of a page of events") from error


def cursor_after_account(account_key: str) -> str:
    """The opaque cursor of the page that starts after the account."""
    return urlsafe_b64encode(_encode(account_key)).decode()


def parse_account_cursor(cursor: str) -> str:
    """What `cursor_after_account` made the cursor from. Raises `ValueError` for anything else."""
    try:
        return _account_cursor_decoder.decode(urlsafe_b64decode(cursor))
    except ValueError as error:
        raise ValueError(f"{cursor!r} is not a cursor of a page of accounts") from error

"""What a store keeps as text: entries, balances and records as JSON, the cursors of pages.

The names in the JSON are those of the dataclasses. Where a field is added with a default, what was written before it
can still be read. Of a record only what is not the default is written, and of its usages the kinds that are not zero:
it is written at least twice for each request.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta, defstruct
from msgspec.json import Decoder, Encoder

from policyd.core.events import OperatorEvent
from policyd.core.ledger import Balance, Entry
from policyd.core.record import Record
from policyd.core.usage import Usage

Cursor = tuple[Annotated[int, Meta(ge=0, lt=2**53)], str]
"""`at_ms` and `request_id` of the last record of a page; the next page starts below it."""

decode_entries = Decoder(tuple[Entry, ...]).decode
decode_balances = Decoder(tuple[Balance, ...]).decode
decode_event = Decoder(OperatorEvent).decode
_cursor_decoder: Decoder[Cursor] = Decoder(Cursor)
_account_cursor_decoder: Decoder[str] = Decoder(str)
_encode = Encoder().encode


_USAGES = ("usage", "expected", "maximum")
_UNITS = dict[str, int] | None


def _stored_field(name: str, hint: Any) -> tuple[Any, ...]:
    name_and_type = (name, _UNITS if name in _USAGES else hint)
    if name not in Record._field_defaults:
        return name_and_type
    default = Record._field_defaults[name]
    return *name_and_type, msgspec.field(default_factory=dict) if isinstance(default, Mapping) else default


_StoredRecord = defstruct(
    "_StoredRecord", [_stored_field(*each) for each in get_type_hints(Record).items()], omit_defaults=True
)
_stored_values = attrgetter(*Record._fields)
_decode_stored_record = Decoder(_StoredRecord).decode


def encode(value: Sequence[Entry] | Sequence[Balance] | OperatorEvent | str) -> str:
    """`value` as JSON text."""
    return _encode(value).decode()


def encode_record(record: Record) -> str:
    """`record` as JSON text."""
    stored: Any = _StoredRecord(*record)
    if record.usage is not None:
        stored.usage = record.usage.by_kind()
    if record.expected is not None:
        stored.expected = record.expected.by_kind()
    if record.maximum is not None:
        stored.maximum = record.maximum.by_kind()
    return _encode(stored).decode()


def decode_record(text: str | bytes) -> Record:
    """What `encode_record` made the text from."""
    stored = _decode_stored_record(text)
    for name in _USAGES:
        units: dict[str, int] | None = getattr(stored, name)
        if units is not None:
            setattr(stored, name, Usage(**units))
    return Record(*_stored_values(stored))


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

"""What an entry of Envoy's access log says of an exchange, in plain types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from policyd.core.errors import ProtocolError
from policyd.ext_proc.lean import HOLD_MARK
from policyd.ext_proc.reply_encoding import HOLD_NAMESPACE

REPLY_NAMESPACE = "policyd.reply"
"""The dynamic metadata in which Envoy keeps what it picked out of a reply, by dotted path."""

_ORDERLY = "via_upstream"
"""The details of a reply that came from the provider."""

_HARMLESS_FLAGS = frozenset({"upstream_retry_limit_exceeded", "delay_injected", "failed_local_healthcheck"})
"""Flags of replies that came whole all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    request_id: str
    """Of the hold."""
    status: int
    """That the client got; 0: none."""
    reply_bytes: int
    """How much of the reply's body went to the client."""
    was_sent: bool
    """Whether anything of the request went to the provider."""
    is_whole: bool
    """Whether the reply came from the provider, and to its end."""
    picked: Mapping[str, str | float | bool]
    """What Envoy picked out of the reply."""


def read_entries(message: bytes) -> Iterator[LogEntry]:
    """The entries of a `StreamAccessLogsMessage` that name a hold. Raises `ProtocolError` for what is none."""
    try:
        read = als_pb2.StreamAccessLogsMessage.FromString(message)
    except DecodeError as error:
        raise ProtocolError("Envoy's access log sent what cannot be read as a message") from error
    for entry in read.http_logs.log_entry:
        metadata = entry.common_properties.metadata.filter_metadata
        if HOLD_NAMESPACE in metadata:
            request_id = metadata[HOLD_NAMESPACE].fields[HOLD_MARK].string_value
            if request_id:
                picked = _values(metadata[REPLY_NAMESPACE]) if REPLY_NAMESPACE in metadata else {}
                yield _entry(entry, request_id, picked)


def _entry(entry: accesslog_pb2.HTTPAccessLogEntry, request_id: str, picked: Mapping[str, Any]) -> LogEntry:
    common, response = entry.common_properties, entry.response
    flags = {field.name for field, _ in common.response_flags.ListFields()}
    return LogEntry(
        request_id=request_id,
        status=response.response_code.value,
        reply_bytes=response.response_body_bytes,
        was_sent=common.HasField("time_to_first_upstream_tx_byte"),
        is_whole=response.response_code_details == _ORDERLY and flags <= _HARMLESS_FLAGS,
        picked=picked,
    )


def _values(metadata: Struct) -> dict[str, Any]:
    """Those that a leaf can have; whole numbers come as floats."""
    found: dict[str, Any] = {}
    for name, value in metadata.fields.items():
        match value.WhichOneof("kind"):
            case "number_value" | "string_value" | "bool_value" as kind:
                found[name] = getattr(value, kind)
            case _:
                pass
    return found

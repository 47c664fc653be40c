"""Entries of Envoy's access log, as Envoy writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from policyd.access_log.entry import REPLY_NAMESPACE
from policyd.ext_proc.lean import HOLD_MARK
from policyd.ext_proc.reply_encoding import HOLD_NAMESPACE

CHAT_PICKED: Mapping[str, Any] = {"model": "gpt-4o", "usage.prompt_tokens": 20, "usage.completion_tokens": 7}
"""What is picked out of a chat completion's document."""


def entry(
    request_id: str | None,
    picked: Mapping[str, Any] = CHAT_PICKED,
    *,
    status: int = 200,
    reply_bytes: int = 500,
    details: str = "via_upstream",
    flags: tuple[str, ...] = (),
    sent: bool = True,
) -> accesslog_pb2.HTTPAccessLogEntry:
    written = accesslog_pb2.HTTPAccessLogEntry()
    common = written.common_properties
    if request_id is not None:
        common.metadata.filter_metadata[HOLD_NAMESPACE].update({HOLD_MARK: request_id, "x-policyd-decision": "allow"})
    if picked:
        common.metadata.filter_metadata[REPLY_NAMESPACE].update(picked)
    if sent:
        common.time_to_first_upstream_tx_byte.FromMilliseconds(3)
    for flag in flags:
        setattr(common.response_flags, flag, True)
    if status:
        written.response.response_code.value = status
    written.response.response_body_bytes = reply_bytes
    written.response.response_code_details = details
    return written


def message(*entries: accesslog_pb2.HTTPAccessLogEntry) -> bytes:
    """A message of the stream, serialised."""
    written = als_pb2.StreamAccessLogsMessage()
    written.identifier.log_name = "policyd"
    written.http_logs.log_entry.extend(entries)
    serialised: bytes = written.SerializeToString()
    return serialised

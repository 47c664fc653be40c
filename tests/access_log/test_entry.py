"""What is read in entries of the access log, odd ones included."""

from __future__ import annotations

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from policyd.access_log.entry import REPLY_NAMESPACE, LogEntry, read_entries
from policyd.core.errors import ProtocolError
from policyd.ext_proc.reply_encoding import HOLD_NAMESPACE
from tests.access_log.entries import CHAT_PICKED, entry, message


def read(*entries: accesslog_pb2.HTTPAccessLogEntry) -> list[LogEntry]:
    return list(read_entries(message(*entries)))


def test_a_usual_entry() -> None:
    assert read(entry("pd-1")) == [
        LogEntry(request_id="pd-1", status=200, reply_bytes=500, was_sent=True, is_whole=True, picked=dict(CHAT_PICKED))
    ]


def test_numbers_come_as_floats_and_what_is_no_single_value_is_left_out() -> None:
    odd = {"no": None, "list": [1], "object": {"a": 1}}
    (found,) = read(entry("pd-1", {"usage.prompt_tokens": 7, "flag": True, **odd}))
    assert found.picked == {"usage.prompt_tokens": 7.0, "flag": True}


def test_entries_without_a_hold_are_passed_over() -> None:
    nameless = entry(None)
    nameless.common_properties.metadata.filter_metadata[HOLD_NAMESPACE].update({"request_id": ""})
    numbered = entry(None)
    numbered.common_properties.metadata.filter_metadata[HOLD_NAMESPACE].update({"request_id": 7})
    assert [found.request_id for found in read(entry(None), nameless, entry("pd-2"), numbered)] == ["pd-2"]


def test_an_entry_of_which_nothing_was_picked() -> None:
    (found,) = read(entry("pd-1", {}))
    assert found.picked == {}


@pytest.mark.parametrize(
    ("flags", "details"),
    [
        (("downstream_connection_termination",), "via_upstream"),
        (("upstream_protocol_error",), "upstream_reset_after_response_started{protocol_error}"),
        ((), "upstream_reset_after_response_started{connection_termination}"),
        (("stream_idle_timeout",), "via_upstream"),
        ((), ""),
    ],
)
def test_a_reply_that_broke_off(flags: tuple[str, ...], details: str) -> None:
    (found,) = read(entry("pd-1", flags=flags, details=details))
    assert not found.is_whole


def test_a_reply_that_came_whole_at_the_last_attempt() -> None:
    (found,) = read(entry("pd-1", flags=("upstream_retry_limit_exceeded",)))
    assert found.is_whole


def test_a_request_that_went_nowhere() -> None:
    (found,) = read(entry("pd-1", {}, status=0, sent=False, reply_bytes=0))
    assert (found.was_sent, found.status) == (False, 0)


def test_logs_of_other_kinds_and_empty_messages() -> None:
    written = als_pb2.StreamAccessLogsMessage()
    assert not list(read_entries(written.SerializeToString()))
    written.tcp_logs.log_entry.add()
    assert not list(read_entries(written.SerializeToString()))


def test_garbage() -> None:
    with pytest.raises(ProtocolError):
        list(read_entries(b"\xff\xff\xff"))


def test_the_namespaces_differ() -> None:
    """What a provider writes must not pass for what policyd has decided."""
    assert REPLY_NAMESPACE != HOLD_NAMESPACE

"""What an exchange of the lean profile is charged, for each way in which it can end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from policyd.access_log.charging import ending_of
from policyd.access_log.entry import LogEntry
from policyd.core.policy import OnDisconnect
from policyd.core.record import Outcome, Record, UsageSource
from policyd.core.usage import Usage
from policyd.enforcer import Ending

EXPECTED = Usage(input=20, output=75)
MAXIMUM = Usage(input=25, output=100)

RECORD = Record(
    request_id="pd-1",
    at_ms=0,
    outcome=Outcome.SERVED,
    decision="allow",
    provider="openai",
    endpoint="chat.completions",
    model="gpt-4o",
    attributes={},
    expected=EXPECTED,
    maximum=MAXIMUM,
)
STREAM = RECORD._replace(streamed=True)
MESSAGES = STREAM._replace(provider="anthropic", endpoint="messages", model="claude-haiku-4-5")

CHAT_USED: Mapping[str, Any] = {"usage.prompt_tokens": 22.0, "usage.completion_tokens": 7.0, "model": "gpt-4o-2024"}
STREAM_USED: Mapping[str, Any] = {"usage": '{"prompt_tokens":22,"completion_tokens":7}', "model": "gpt-4o-2024"}
MESSAGE_BEGUN: Mapping[str, Any] = {"message.usage": '{"input_tokens":22,"output_tokens":1}'}
MESSAGE_USED: Mapping[str, Any] = {**MESSAGE_BEGUN, "usage": '{"output_tokens":7}'}

WHOLE = LogEntry(request_id="pd-1", status=200, reply_bytes=5_000, was_sent=True, is_whole=True, picked={})
BROKEN = replace(WHOLE, is_whole=False)


def ended(entry: LogEntry, record: Record = RECORD, on_disconnect: OnDisconnect = OnDisconnect.OBSERVED) -> Ending:
    return ending_of(entry, record, on_disconnect=on_disconnect)


@pytest.mark.parametrize(("record", "picked"), [(RECORD, CHAT_USED), (STREAM, STREAM_USED), (MESSAGES, MESSAGE_USED)])
def test_what_the_provider_reports_is_charged(record: Record, picked: Mapping[str, Any]) -> None:
    ending = ended(replace(WHOLE, picked=picked), record)
    assert (ending.outcome, ending.usage) == (Outcome.SERVED, Usage(input=22, output=7))
    assert (ending.source, ending.status, ending.streamed) == (UsageSource.REPORTED, 200, record.streamed)


def test_the_model_and_the_terms_that_the_reply_names() -> None:
    ending = ended(replace(WHOLE, picked={**CHAT_USED, "service_tier": "flex"}))
    assert (ending.response_model, ending.terms) == ("gpt-4o-2024", {"service_tier": "flex"})


def test_more_than_was_held_is_charged_too() -> None:
    picked = {"usage.prompt_tokens": 1_000.0, "usage.completion_tokens": 5_000.0}
    assert ended(replace(WHOLE, picked=picked)).usage == Usage(input=1_000, output=5_000)


@pytest.mark.parametrize("record", [RECORD, STREAM, MESSAGES])
@pytest.mark.parametrize(("reply_bytes", "output"), [(0, 0), (40, 40), (100, 100), (5_000, 100)])
def test_a_reply_without_usage_is_charged_its_hold_as_far_as_its_bytes_go(
    record: Record, reply_bytes: int, output: int
) -> None:
    ending = ended(replace(WHOLE, reply_bytes=reply_bytes), record)
    assert (ending.outcome, ending.usage) == (Outcome.SERVED, Usage(input=25, output=output))
    assert ending.source is UsageSource.NONE


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_a_provider_error_is_free(status: int) -> None:
    ending = ended(replace(WHOLE, status=status, picked={"error.type": "server_error"}))
    assert (ending.outcome, ending.usage, ending.error) == (Outcome.PROVIDER_ERROR, None, "server_error")


def test_an_error_that_says_nothing_is_named_by_its_status() -> None:
    assert ended(replace(WHOLE, status=503)).error == "http_503"


def test_a_provider_error_with_usage_is_charged() -> None:
    ending = ended(replace(WHOLE, status=500, picked=CHAT_USED))
    assert (ending.outcome, ending.usage) == (Outcome.PROVIDER_ERROR, Usage(input=22, output=7))


def test_an_error_document_under_status_200_is_free() -> None:
    ending = ended(replace(WHOLE, picked={"error.code": "content_filter"}))
    assert (ending.outcome, ending.usage, ending.error) == (Outcome.PROVIDER_ERROR, None, "content_filter")


def test_a_stream_that_ends_in_an_error_has_been_served_in_part() -> None:
    ending = ended(replace(WHOLE, picked={**MESSAGE_BEGUN, "error.type": "overloaded_error"}, reply_bytes=60), MESSAGES)
    assert (ending.outcome, ending.usage) == (Outcome.PROVIDER_ERROR, Usage(input=22, output=60))
    assert ending.error == "overloaded_error"


def test_a_request_that_went_nowhere_is_free() -> None:
    ending = ended(replace(BROKEN, status=0, was_sent=False, reply_bytes=0))
    assert (ending.outcome, ending.usage, ending.status) == (Outcome.DISCONNECTED, None, None)


@pytest.mark.parametrize(
    ("on_disconnect", "reply_bytes", "usage"),
    [
        (OnDisconnect.OBSERVED, 0, Usage(input=20)),
        (OnDisconnect.OBSERVED, 40, Usage(input=20, output=40)),
        (OnDisconnect.OBSERVED, 5_000, Usage(input=20, output=100)),
        (OnDisconnect.EXPECTED, 40, EXPECTED),
        (OnDisconnect.MAXIMUM, 40, MAXIMUM),
    ],
)
def test_a_reply_that_broke_off_before_its_usage(on_disconnect: OnDisconnect, reply_bytes: int, usage: Usage) -> None:
    ending = ended(replace(BROKEN, reply_bytes=reply_bytes), STREAM, on_disconnect)
    assert (ending.outcome, ending.usage, ending.source) == (Outcome.DISCONNECTED, usage, UsageSource.NONE)


@pytest.mark.parametrize(
    ("on_disconnect", "output"),
    [(OnDisconnect.OBSERVED, 40), (OnDisconnect.EXPECTED, 75), (OnDisconnect.MAXIMUM, 100)],
)
def test_the_input_that_was_reported_before_it_broke_off_counts(on_disconnect: OnDisconnect, output: int) -> None:
    ending = ended(replace(BROKEN, reply_bytes=40, picked=MESSAGE_BEGUN), MESSAGES, on_disconnect)
    assert ending.usage == Usage(input=22, output=output)


def test_a_stream_that_broke_off_after_its_usage_was_whole() -> None:
    ending = ended(replace(BROKEN, picked=MESSAGE_USED), MESSAGES, OnDisconnect.MAXIMUM)
    assert (ending.outcome, ending.usage) == (Outcome.SERVED, Usage(input=22, output=7))


def test_a_search_that_no_reply_reports_is_charged() -> None:
    record = RECORD._replace(expected=EXPECTED._replace(web_searches=1))
    ending = ended(replace(WHOLE, picked=CHAT_USED), record)
    assert ending.usage == Usage(input=22, output=7, web_searches=1)


def test_an_endpoint_that_is_not_metered_so() -> None:
    """Whatever was configured there: the hold is what is known."""
    ending = ended(replace(WHOLE, picked=CHAT_USED), RECORD._replace(endpoint="responses"))
    assert ending.usage == MAXIMUM

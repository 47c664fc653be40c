"""Anthropic's endpoints beside messages: text completions, message batches, and those that are free."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import CacheWrite, RawRequest, RequestEdits, RequestFacts
from policyd.providers.endpoint import Endpoint, UnknownEndpoint
from policyd.providers.registry import ANTHROPIC_BATCHES, ANTHROPIC_COMPLETE, resolve
from policyd.providers.vendors import ANTHROPIC
from tests.providers.garbling import JSON, UNHURRIED, with_other_values
from tests.providers.replay import event_stream, random_chunks, read_members, read_stream, some_facts

PARAMS = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}


def endpoint(method: str, path: str) -> tuple[str, str | None] | None:
    found = resolve(provider=None, host="api.anthropic.com", method=method, path=path)
    if isinstance(found, Endpoint):
        return found.name, found.wire.name if found.wire else None
    assert isinstance(found, UnknownEndpoint)
    return None


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/complete", ("complete", "anthropic-complete")),
        ("POST", "/v1/messages/batches", ("messages.batches", "anthropic-batches")),
        ("GET", "/v1/messages/batches", ("messages.batches", None)),
        ("GET", "/v1/messages/batches/msgbatch_1", ("messages.batches", None)),
        ("GET", "/v1/messages/batches/msgbatch_1/results", ("messages.batches", None)),
        ("POST", "/v1/messages/batches/msgbatch_1/cancel", ("messages.batches", None)),
        ("DELETE", "/v1/messages/batches/msgbatch_1", ("messages.batches", None)),
        ("POST", "/v1/messages/batches/msgbatch_1", None),
        ("POST", "/v1/files", ("files", None)),
        ("GET", "/v1/files", ("files", None)),
        ("GET", "/v1/files/file_1", ("files", None)),
        ("GET", "/v1/files/file_1/content", ("files", None)),
        ("DELETE", "/v1/files/file_1", ("files", None)),
        ("GET", "/v1/models/claude-haiku-4-5", ("models", None)),
        ("GET", "/v1/files/../messages", None),
    ],
)
def test_endpoints(method: str, path: str, expected: tuple[str, str | None] | None) -> None:
    assert endpoint(method, path) == expected


# --- text completions ---


def complete(**members: Any) -> RequestFacts:
    body = {"model": "claude-2.1", "prompt": "\n\nHuman: Hi\n\nAssistant:", "max_tokens_to_sample": 9, **members}
    return ANTHROPIC_COMPLETE.read_request(RawRequest(msgspec.json.encode(body)), vendor=ANTHROPIC)


def test_what_a_completion_request_says() -> None:
    facts = complete()
    assert facts.model == "claude-2.1"
    assert facts.prompt.texts == ("\n\nHuman: Hi\n\nAssistant:",)
    assert not facts.prompt.exact
    assert facts.max_output_tokens == 9
    assert not facts.streamed
    assert complete(stream=True).streamed
    assert complete(max_tokens_to_sample=None).max_output_tokens is None


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"model": None}, "model: expected a text"),
        ({"prompt": ""}, "prompt: expected a text"),
        ({"prompt": ["Hi"]}, "prompt: expected a text"),
        ({"max_tokens_to_sample": "9"}, "max_tokens_to_sample: expected an integer"),
        ({"stream": 1}, "stream: expected true or false"),
    ],
)
def test_completion_requests_that_are_refused(members: dict[str, Any], message: str) -> None:
    with pytest.raises(BodyUnreadable, match=message):
        complete(**members)


def test_a_completion_that_contradicts_itself_is_refused() -> None:
    body = b'{"model":"m","prompt":"a","max_tokens_to_sample":1,"max_tokens_to_sample":9}'
    with pytest.raises(BodyUnreadable, match="max_tokens_to_sample: given twice"):
        ANTHROPIC_COMPLETE.read_request(RawRequest(body), vendor=ANTHROPIC)


def test_a_maximum_is_set_in_a_completion_request() -> None:
    edits = RequestEdits(max_output_tokens=7, strip_fields=("metadata.user_id",))
    body = b'{"model":"m", "prompt":"a","metadata":{"user_id":"u"},"max_tokens_to_sample":9}'
    edited = ANTHROPIC_COMPLETE.edit_request(body, edits, vendor=ANTHROPIC)
    assert edited == b'{"model":"m", "prompt":"a","metadata":{},"max_tokens_to_sample":7}'


def completion(text: str, stop_reason: str | None = None) -> tuple[str, dict[str, Any]]:
    event = {"type": "completion", "id": "c", "completion": text, "stop_reason": stop_reason, "model": "claude-2.1"}
    return "completion", event


def test_completions_are_read_for_their_text() -> None:
    stream = event_stream(completion(" Hi"), ("ping", {"type": "ping"}), completion(" there.", "stop_sequence"))
    for seed in range(3):
        reader = ANTHROPIC_COMPLETE.reply_reader(some_facts(), usage_added=False)
        assert read_stream(reader, random_chunks(stream, Random(seed))) == stream
        assert reader.take_text() == " Hi there."
        assert reader.model == "claude-2.1"
        assert reader.usage is None
        assert not reader.usage_complete
        assert reader.error is None
    document = ANTHROPIC_COMPLETE.reply_reader(some_facts(), usage_added=False)
    document.read_document(completion(" Hi there.", "stop_sequence")[1])
    assert document.take_text() == " Hi there."
    assert document.usage is None


def test_an_error_within_a_completion_is_seen() -> None:
    failure = {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}
    reader = ANTHROPIC_COMPLETE.reply_reader(some_facts(), usage_added=False)
    read_stream(reader, [event_stream(completion(" Hi"), ("error", failure))])
    assert reader.error == "overloaded_error"


# --- message batches ---


def batch(*params: Any, **members: Any) -> RequestFacts:
    requests = [{"custom_id": str(index), "params": one} for index, one in enumerate(params)]
    body = msgspec.json.encode({"requests": requests, **members})
    return ANTHROPIC_BATCHES.read_request(RawRequest(body), vendor=ANTHROPIC, identity_fields=("project",))


def test_a_batch_is_the_sum_of_its_requests() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "u"}}
    cached = {"type": "text", "text": "Yo", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    other = {**PARAMS, "max_tokens": 50, "messages": [{"role": "user", "content": [cached, image]}]}
    facts = batch(PARAMS, other, {**PARAMS, "tools": [search]}, project="p")
    assert facts.model == "claude-haiku-4-5"
    assert facts.prompt.texts[:3] == ("Hi", "Yo", "Hi")
    assert len(facts.prompt.images) == 1
    assert facts.prompt.overhead_tokens == 3 * 7 + 500 + 700
    assert facts.max_output_tokens == 250
    assert facts.choices == 1
    assert facts.cache_write is CacheWrite.LONG
    assert facts.pieces_max.web_searches == 3
    assert facts.terms == {"processing": "batch"}
    assert facts.fields == {"project": "p"}
    assert facts.outlives_client
    assert not facts.streamed


def test_a_batch_with_a_request_without_a_maximum_has_none() -> None:
    assert batch(PARAMS, {**PARAMS, "max_tokens": None}).max_output_tokens is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ((), "requests: expected at least one"),
        ((PARAMS, {**PARAMS, "model": "claude-opus-4-8"}), r"requests\[1\].params.model: expected 'claude-haiku-4-5'"),
        ((PARAMS, 5), r"requests\[1\]: params: expected an object"),
        ((None,), r"requests\[0\]: "),
        (({},), r"requests\[0\]: model: expected a text"),
        (({**PARAMS, "max_tokens": -1},), r"requests\[0\]: max_tokens: expected an integer"),
        (({**PARAMS, "messages": "Hi"},), r"requests\[0\]: messages: expected an array"),
        ((*[{**PARAMS, "max_tokens": 100_000_000}] * 101,), "requests: expected a sum of max_tokens up to"),
    ],
)
def test_batches_that_are_refused(params: tuple[Any, ...], message: str) -> None:
    with pytest.raises(BodyUnreadable, match=message):
        batch(*params)


@pytest.mark.parametrize(
    "requests",
    [
        b'[],"requests":[{"params":{}}]',
        b'[{"params":{"model":"m","messages":[],"max_tokens":1},"params":{"model":"m","messages":[],"max_tokens":9}}]',
        b'[{"params":{"model":"m","messages":[],"max_tokens":1,"max_tokens":9}}]',
    ],
)
def test_a_batch_that_contradicts_itself_is_refused(requests: bytes) -> None:
    with pytest.raises(BodyUnreadable, match="given twice"):
        ANTHROPIC_BATCHES.read_request(RawRequest(b'{"requests":' + requests + b"}"), vendor=ANTHROPIC)


def test_a_maximum_is_shared_out_among_the_requests_of_a_batch() -> None:
    one = b'{"custom_id": "a", "params": {"model": "m", "max_tokens" : 90, "temperature": 0.10, "messages": []}}'
    two = b'{"params":{"model":"m","max_tokens":5,"messages":[]}}'
    three = b'{"params":{"model":"m","messages":[]}}'
    body = b'{ "requests": [' + b" , ".join((one, two, three)) + b'], "project": "p" }'
    edits = RequestEdits(max_output_tokens=32, strip_fields=("project",))
    edited = ANTHROPIC_BATCHES.edit_request(body, edits, vendor=ANTHROPIC)
    limited = one.replace(b"90", b"10"), two, b'{"params":{"max_tokens":10,"model":"m","messages":[]}}'
    assert edited == b'{ "requests": [' + b",".join(limited) + b"] }"
    facts = ANTHROPIC_BATCHES.read_request(RawRequest(edited), vendor=ANTHROPIC)
    assert facts.max_output_tokens is not None
    assert facts.max_output_tokens <= 32


def test_the_reply_to_a_new_batch_tells_no_usage() -> None:
    created = {"id": "msgbatch_1", "type": "message_batch", "processing_status": "in_progress", "results_url": None}
    reader = ANTHROPIC_BATCHES.reply_reader(some_facts(), usage_added=False)
    reader.read_document({**created, "request_counts": {"processing": 2, "succeeded": 0}})
    assert reader.usage is None
    assert not reader.take_text()
    assert reader.error is None
    refused = ANTHROPIC_BATCHES.reply_reader(some_facts(), usage_added=False)
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    read_members(refused, [msgspec.json.encode(error)])
    assert refused.error == "invalid_request_error"


@UNHURRIED
@given(st.data())
def test_any_json_is_read_or_refused(data: st.DataObject) -> None:
    whole = {"requests": [{"custom_id": "a", "params": PARAMS}, {"custom_id": "b", "params": PARAMS}]}
    body = msgspec.json.encode(data.draw(JSON) if data.draw(st.booleans()) else with_other_values(data, whole))
    for wire in (ANTHROPIC_BATCHES, ANTHROPIC_COMPLETE):
        try:
            wire.read_request(RawRequest(body), vendor=ANTHROPIC)
        except BodyUnreadable:
            continue
        edited = wire.edit_request(body, RequestEdits(max_output_tokens=8), vendor=ANTHROPIC)
        maximum = wire.read_request(RawRequest(edited), vendor=ANTHROPIC).max_output_tokens
        assert maximum is not None
        assert maximum <= 8

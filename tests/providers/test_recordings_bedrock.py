"""Recorded traffic with Bedrock, and with Anthropic's text completions: requests are read, replies give their usage."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any
from urllib.parse import unquote

import msgspec

from policyd.providers.base import HeaderReader, RawRequest, ReplyReader, RequestFacts, WireFormat
from policyd.providers.endpoint import Endpoint
from policyd.providers.framing.choice import framer_for
from policyd.providers.framing.event_stream import encode_message
from policyd.providers.registry import ANTHROPIC_COMPLETE, resolve
from policyd.providers.vendors import vendor_named
from policyd.tokens import TokenCounter
from tests import recordings
from tests.accuracy.reported import disagreements
from tests.providers.replay import random_chunks, read_members, read_stream, single_bytes
from tests.recordings import Recording

CONVERSE = ("bedrock-converse", "bedrock-converse-stream")
INVOKE = ("bedrock-invoke", "bedrock-invoke-stream")

NOT_SHOWN = {
    "4f85a00fbec2": "Nova keeps its reasoning to itself",
}
"""Replies whose output is not in them, and why."""

CUT_REQUESTS = {
    "ec9b44dffd34": "18,131 tokens were written to a cache and are not in the recorded prompt",
}
"""Requests that were not recorded whole, and how it shows."""

pytestmark = recordings.AT_HAND


def records(*wires: str) -> Iterator[Recording]:
    return (record for record in recordings.every_recording() if record["wire"] in wires)


def endpoint(record: Recording) -> Endpoint:
    found = resolve(provider="aws", host="", method=record["method"], path=record["path"])
    assert isinstance(found, Endpoint), record["path"]
    return found


def wire_of(record: Recording) -> WireFormat:
    wire = endpoint(record).wire
    assert wire is not None
    return wire


def facts_of(record: Recording) -> RequestFacts:
    request = RawRequest(record["request_body"].encode() or b"{}", path=endpoint(record).path)
    return wire_of(record).read_request(request, vendor=vendor_named("aws"))


def headers_of(record: Recording) -> dict[str, str]:
    return {name.lower(): value for name, value in record["response_headers"].items()}


def body_of(record: Recording) -> bytes:
    """The reply as it came. Where its recorder unwrapped the events of a stream, they are wrapped again."""
    body: str = record["response_body"]
    if record["framing"] == "eventstream":
        return b64decode(body)
    if record["framing"] == "ndjson":
        return b"".join(map(message, body.splitlines()))
    return body.encode()


def message(line: str) -> bytes:
    ((name, value),) = msgspec.json.decode(line, type=dict[str, Any]).items()
    return encode_message({":event-type": name, ":message-type": "event"}, msgspec.json.encode(value))


def read(record: Recording, cut: Callable[[bytes], Iterable[bytes]]) -> ReplyReader:
    reader = wire_of(record).reply_reader(facts_of(record), usage_added=False)
    assert isinstance(reader, HeaderReader)
    reader.read_headers(headers_of(record))
    body = body_of(record)
    if record["framing"] == "json":
        reader.read_document(msgspec.json.decode(body))
        return reader
    framer = framer_for("application/vnd.amazon.eventstream")
    assert framer is not None
    frames = [frame for chunk in cut(body) for frame in framer.feed(chunk)] + framer.finish()
    assert b"".join(frame.raw for frame in frames) == body
    for frame in frames:
        assert frame.event, record["id"]
        assert reader.read_frame(frame)
    return reader


def expected(record: Recording) -> dict[str, int]:
    fields: dict[str, Any] = record["expected_usage"]
    return {name: value for name, value in fields.items() if value is not None and name != "model"}


def assert_expected(reader: ReplyReader, record: Recording) -> None:
    assert reader.usage is not None, record["id"]
    assert not disagreements(reader.usage, record), record["id"]
    assert reader.usage_complete, record["id"]
    assert reader.error is None, record["id"]


def test_usage_is_the_recorded_one_wherever_the_reply_is_cut() -> None:
    compared = 0
    for record in records(*CONVERSE, *INVOKE):
        if record["expected_usage"] is not None:
            for seed in range(3):
                random = Random(f"{record['id']} {seed}")
                assert_expected(read(record, lambda body, random=random: random_chunks(body, random)), record)  # type: ignore[misc]
            compared += 1
    assert compared > 300


def test_usage_is_the_recorded_one_byte_by_byte() -> None:
    for record in records(*CONVERSE, *INVOKE):
        small = record["framing"] == "eventstream" and len(record["response_body"]) < 8_000
        if record["expected_usage"] is not None and small:
            assert_expected(read(record, single_bytes), record)


def test_usage_is_found_without_keeping_the_document() -> None:
    for record in records(*CONVERSE, *INVOKE):
        if record["expected_usage"] is not None and record["framing"] == "json":
            reader = wire_of(record).reply_reader(facts_of(record), usage_added=False)
            assert isinstance(reader, HeaderReader)
            reader.read_headers(headers_of(record))
            read_members(reader, random_chunks(body_of(record), Random(record["id"])))
            assert_expected(reader, record)


def test_replies_without_recorded_usage_report_none_and_errors_are_seen() -> None:
    errors = 0
    for record in records(*CONVERSE, *INVOKE):
        if record["expected_usage"] is None:
            reader = read(record, lambda body: [body])
            assert reader.usage is None, record["id"]
            assert (reader.error is not None) == (record["status"] >= 400), record["id"]
            errors += record["status"] >= 400
    assert errors > 10


def test_every_recorded_reply_gives_its_output_as_text() -> None:
    """Output that cannot be seen would be free of charge for whoever hangs up."""
    seen = 0
    for record in records(*CONVERSE, *INVOKE):
        tokens = expected(record).get("output_tokens", 0) if record["expected_usage"] else 0
        text = read(record, lambda body: [body]).take_text()
        if tokens > 20 and record["id"] not in NOT_SHOWN:
            assert len(text) * 5 > tokens, record["id"]
            seen += 1
    assert seen > 150


def test_requests_are_read() -> None:
    for record in records(*CONVERSE, *INVOKE):
        facts = facts_of(record)
        assert facts.streamed == record["streamed"], record["id"]
        identifier = unquote(record["path"].split("/")[2])
        assert facts.model == (identifier if ":endpoint/" in identifier else identifier.rpartition("/")[2])
        assert facts.prompt.texts or facts.prompt.images or not record["request_body"], record["id"]


def test_the_bounds_of_what_was_asked_for_held() -> None:
    counter = TokenCounter()
    for record in records(*CONVERSE, *INVOKE):
        if not record["expected_usage"] or not record["request_body"] or record["id"] in CUT_REQUESTS:
            continue
        facts, wanted = facts_of(record), expected(record)
        used = wanted["input_tokens"] + wanted.get("cached_input_tokens", 0) + wanted.get("cache_write_tokens", 0)
        bound = counter.count_prompt(facts.prompt, provider="aws", model=facts.model).upper_bound
        assert used <= bound, record["id"]
        if facts.max_output_tokens is not None:
            assert wanted.get("output_tokens", 0) <= facts.max_output_tokens * facts.choices, record["id"]


def test_counting_tokens_is_free() -> None:
    for record in records("bedrock-count-tokens"):
        assert endpoint(record).wire is None


def test_text_completions_report_no_usage() -> None:
    read_ones = 0
    for record in records("anthropic-complete"):
        request = RawRequest(record["request_body"].encode(), path=record["path"])
        facts = ANTHROPIC_COMPLETE.read_request(request, vendor=vendor_named("anthropic"))
        asked = msgspec.json.decode(record["request_body"])
        assert facts.model == asked["model"]
        assert facts.prompt.texts == (asked["prompt"],)
        assert facts.max_output_tokens == asked["max_tokens_to_sample"]
        reader = ANTHROPIC_COMPLETE.reply_reader(facts, usage_added=False)
        if record["framing"] == "sse":
            read_stream(reader, random_chunks(record["response_body"].encode(), Random(record["id"])))
        else:
            reader.read_document(msgspec.json.decode(record["response_body"]))
        assert reader.usage is None
        assert not reader.usage_complete
        served = record["status"] == 200
        assert bool(reader.take_text()) == served
        assert reader.model == (facts.model if served else None)
        assert (reader.error is None) == served
        read_ones += served
    assert read_ones > 5

"""Recorded traffic with real providers: requests are read, replies give their usage."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from random import Random

import msgspec
import pytest

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import RawRequest, ReplyReader, RequestEdits, RequestFacts
from policyd.providers.registry import OPENAI_CHAT, resolve
from policyd.providers.vendors import vendor_named
from tests import recordings
from tests.accuracy.reported import disagreements
from tests.providers.replay import random_chunks, read_document, read_members, read_stream, single_bytes, some_facts
from tests.recordings import REFUSED, WIRES, Recording, has_readable_request

BATCHES = 16

pytestmark = recordings.AT_HAND


def batch(number: int) -> Iterable[Recording]:
    return (record for record in recordings.recordings() if zlib.crc32(record["id"].encode()) % BATCHES == number)


def facts_of(record: Recording) -> RequestFacts | None:
    """What the recorded request says; `None` where none was recorded, or where it is one that is refused."""
    if not has_readable_request(record):
        return None
    return WIRES[record["wire"]].read_request(
        RawRequest(record["request_body"].encode()),
        vendor=vendor_named(record["vendor"]),
        identity_fields=("user", "metadata.user_id"),
    )


def feed(reader: ReplyReader, record: Recording, chunk: Callable[[bytes], Iterable[bytes]]) -> None:
    body = record["response_body"].encode()
    if record["framing"] == "sse":
        read_stream(reader, chunk(body))
    else:
        read_document(reader, body)


def reader_for(record: Recording) -> ReplyReader:
    return WIRES[record["wire"]].reply_reader(facts_of(record) or some_facts(), usage_added=False)


def is_readable(record: Recording) -> bool:
    return record["framing"] in ("sse", "json") and bool(record["response_body"])


def assert_expected(reader: ReplyReader, record: Recording) -> None:
    assert reader.usage is not None, record["id"]
    assert not disagreements(reader.usage, record), record["id"]
    assert reader.usage_complete, record["id"]


@pytest.mark.parametrize("number", range(BATCHES))
def test_usage_is_the_recorded_one_wherever_the_reply_is_cut(number: int) -> None:
    compared = 0
    for record in batch(number):
        if record["expected_usage"] is None:
            continue
        for seed in range(3):
            reader = reader_for(record)
            random = Random(f"{record['id']} {seed}")
            feed(reader, record, lambda body, random=random: random_chunks(body, random))  # type: ignore[misc]
            assert_expected(reader, record)
            assert reader.model == record["expected_usage"]["model"], record["id"]
        compared += 1
    assert compared > 100


def test_usage_is_the_recorded_one_byte_by_byte() -> None:
    streams = [record for record in recordings.recordings() if record["expected_usage"] and record["framing"] == "sse"]
    sample = Random("byte by byte").sample([record for record in streams if len(record["response_body"]) < 20_000], 120)
    for record in sample:
        reader = reader_for(record)
        feed(reader, record, single_bytes)
        assert_expected(reader, record)


@pytest.mark.parametrize("number", range(BATCHES))
def test_usage_is_found_without_keeping_the_document(number: int) -> None:
    for record in batch(number):
        if record["expected_usage"] and record["framing"] == "json":
            reader = reader_for(record)
            read_members(reader, random_chunks(record["response_body"].encode(), Random(record["id"])))
            assert_expected(reader, record)


def test_replies_without_recorded_usage_report_none_and_do_not_raise() -> None:
    for record in recordings.recordings():
        if record["expected_usage"] is None and is_readable(record):
            reader = reader_for(record)
            feed(reader, record, lambda body: [body])
            assert reader.usage is None, record["id"]
            assert not reader.usage_complete


def test_every_recorded_error_is_seen_as_one() -> None:
    seen = 0
    for record in recordings.recordings():
        if record["status"] >= 400 and is_readable(record):
            reader = reader_for(record)
            feed(reader, record, lambda body: [body])
            seen += reader.error is not None
            # Errors of other shapes are told by the status alone.
            known = '"detail"' in record["response_body"] or '"Bad Request"' in record["response_body"]
            assert reader.error is not None or known, record["id"]
    assert seen > 40


UNSENT_OUTPUT = {
    "d327a1ae8a1e": "Groq counted 115 tokens and sent a call without arguments",
    "0c53b06c5a84": "the same, with 179 tokens",
    "bc7f19870ce0": "made by hand: 227 tokens for two words",
}
"""Replies whose output is not in them, and why."""


def test_every_recorded_reply_gives_its_output_as_text() -> None:
    """Output that cannot be seen would be free of charge for whoever hangs up."""
    seen = 0
    for record in recordings.recordings():
        usage = record["expected_usage"]
        if not usage or not is_readable(record):
            continue
        reader = reader_for(record)
        feed(reader, record, lambda body: [body])
        text = reader.take_text()
        assert not reader.take_text()
        hidden = (usage["reasoning_tokens"] or 0) + (usage.get("audio_output_tokens") or 0)
        if usage["output_tokens"] - hidden > 20 and record["id"] not in UNSENT_OUTPUT:
            # A call of a tool without arguments takes some thirty tokens for its name alone.
            assert len(text) * 10 > usage["output_tokens"] - hidden, record["id"]
            seen += 1
    assert seen > 1000


@pytest.mark.parametrize("number", range(BATCHES))
def test_requests_are_read(number: int) -> None:
    for record in batch(number):
        facts = facts_of(record)
        if facts is None:
            continue
        request = msgspec.json.decode(record["request_body"])
        assert facts.model == request["model"], record["id"]
        assert facts.streamed == bool(request.get("stream")), record["id"]
        assert facts.max_output_tokens == (request.get("max_completion_tokens") or request.get("max_tokens"))
        assert facts.choices == (request.get("n") or 1)
        assert facts.prompt.texts or facts.prompt.images or not request["messages"], record["id"]


@pytest.mark.parametrize("number", range(BATCHES))
def test_usage_can_be_asked_for_in_every_request(number: int) -> None:
    for record in batch(number):
        if record["wire"] != "openai-chat" or facts_of(record) is None:
            continue
        body = record["request_body"].encode()
        edited = OPENAI_CHAT.edit_request(body, RequestEdits(request_usage=True), vendor=vendor_named("openai"))
        wanted = msgspec.json.decode(body)
        wanted["stream_options"] = {**(wanted.get("stream_options") or {}), "include_usage": True}
        assert msgspec.json.decode(edited) == wanted, record["id"]


@pytest.mark.parametrize("identity", sorted(REFUSED))
def test_requests_that_are_refused(identity: str) -> None:
    record = next(record for record in recordings.recordings() if record["id"] == identity)
    with pytest.raises(BodyUnreadable):
        OPENAI_CHAT.read_request(RawRequest(record["request_body"].encode()), vendor=vendor_named("openai"))


def test_only_the_usage_chunk_is_withheld() -> None:
    withheld = 0
    for record in recordings.recordings():
        if record["wire"] == "openai-chat" and record["framing"] == "sse":
            body = record["response_body"].encode()
            reader = OPENAI_CHAT.reply_reader(some_facts(), usage_added=True)
            seen = read_stream(reader, [body])
            own = "usage-chunk-choices-empty" in record["shape_notes"]
            assert (seen != body) == own, record["id"]
            assert seen.count(b"\ndata:") + 1 >= body.count(b"\ndata:"), record["id"]
            withheld += own
    assert withheld > 200


def test_vendors_that_are_not_asked_for_usage_report_it_all_the_same() -> None:
    served = 0
    for record in recordings.recordings():
        asked = vendor_named(record["vendor"]).stream_options or "stream_options" in record["request_body"]
        if not asked and record["streamed"] and record["status"] == 200:
            assert record["expected_usage"] is not None, record["id"]
            served += 1
    assert served > 100


def test_endpoints_are_found_by_the_recorded_hosts() -> None:
    found = 0
    for record in recordings.recordings():
        if record["host"] in ("api.openai.com", "api.anthropic.com", "openrouter.ai", "api.groq.com"):
            endpoint = resolve(provider=None, host=record["host"], method=record["method"], path=record["path"])
            assert endpoint is not None
            assert getattr(endpoint, "wire", None) is WIRES[record["wire"]], record["id"]
            found += 1
    assert found > 2000

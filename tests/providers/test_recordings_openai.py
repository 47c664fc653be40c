"""Recorded traffic on OpenAI's endpoints beyond chat completions: requests are read, replies give their usage."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from random import Random

import msgspec
import pytest

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import RawRequest, ReplyReader, RequestFacts, Vendor, WireFormat
from policyd.providers.registry import (
    OPENAI_COMPLETIONS,
    OPENAI_EMBEDDINGS,
    OPENAI_IMAGES_EDITS,
    OPENAI_IMAGES_GENERATIONS,
    OPENAI_RERANK,
    OPENAI_RESPONSES,
    OPENAI_RESPONSES_COMPACT,
    OPENAI_SPEECH,
    OPENAI_TRANSCRIPTIONS,
    resolve,
)
from policyd.providers.vendors import vendor_named
from policyd.tokens import TokenCounter
from tests import recordings
from tests.accuracy.reported import disagreements
from tests.providers.replay import random_chunks, read_document, read_members, read_stream, single_bytes, some_facts
from tests.recordings import Recording

WIRES: Mapping[str, WireFormat] = {
    "openai-responses": OPENAI_RESPONSES,
    "openai-responses-compact": OPENAI_RESPONSES_COMPACT,
    # Retrieving a response is free; what it says of it is read as the reply that created it.
    "openai-responses-retrieve": OPENAI_RESPONSES,
    "openai-completions": OPENAI_COMPLETIONS,
    "openai-embeddings": OPENAI_EMBEDDINGS,
    "openai-rerank": OPENAI_RERANK,
    "openai-images-generations": OPENAI_IMAGES_GENERATIONS,
    "openai-images-edits": OPENAI_IMAGES_EDITS,
    "openai-audio-speech": OPENAI_SPEECH,
    "openai-audio-transcriptions": OPENAI_TRANSCRIPTIONS,
}

REFUSED = {
    "1d24df3e7918": "no completion: a prompt that is stored at Portkey, without a model",
    "4d265d3e5520": "no model: a server that has only one",
}
"""Recorded requests that are refused, and why."""

VENDORS = {"xai": "x-ai", "voyage": "voyageai", "copilot": "github-copilot"}
"""Vendors by the recordings' names, where those are others than ours."""

pytestmark = recordings.AT_HAND


def records(*wires: str) -> Iterable[Recording]:
    return (record for record in recordings.every_recording() if record["wire"] in (wires or WIRES))


def request_of(record: Recording) -> RawRequest | None:
    """The request, where one was recorded that is not refused."""
    if not record["request_body"] or record["id"] in REFUSED:
        return None
    body = record["request_body"].encode()
    headers = {name.lower(): value for name, value in record["request_headers"].items()}
    return RawRequest(
        b64decode(body) if record["request_body_encoding"] == "base64" else body,
        path=record["path"],
        content_type=headers.get("content-type") or "application/json",
    )


def vendor_of(record: Recording) -> Vendor:
    name: str = record["vendor"]
    return vendor_named(VENDORS.get(name, name))


def facts_of(record: Recording) -> RequestFacts | None:
    request = request_of(record)
    return None if request is None else WIRES[record["wire"]].read_request(request, vendor=vendor_of(record))


def feed(reader: ReplyReader, record: Recording, chunk: Callable[[bytes], Iterable[bytes]]) -> None:
    body = record["response_body"].encode()
    if record["framing"] == "sse":
        read_stream(reader, chunk(body))
    elif record["framing"] == "json" and body:
        read_document(reader, body)


def reader_for(record: Recording) -> ReplyReader:
    return WIRES[record["wire"]].reply_reader(facts_of(record) or some_facts(), usage_added=False)


def assert_expected(reader: ReplyReader, record: Recording) -> None:
    assert reader.usage is not None, record["id"]
    assert not disagreements(reader.usage, record), record["id"]
    assert reader.usage_complete, record["id"]
    assert reader.model == record["expected_usage"]["model"], record["id"]


def test_usage_is_the_recorded_one_wherever_the_reply_is_cut() -> None:
    compared = 0
    for record in records():
        if record["expected_usage"] is None:
            continue
        for seed in range(2):
            reader = reader_for(record)
            random = Random(f"{record['id']} {seed}")
            feed(reader, record, lambda body, random=random: random_chunks(body, random))  # type: ignore[misc]
            assert_expected(reader, record)
        compared += 1
    assert compared > 1000


def test_usage_is_the_recorded_one_byte_by_byte() -> None:
    streams = [record for record in records() if record["expected_usage"] and record["framing"] == "sse"]
    for record in Random("byte by byte").sample([one for one in streams if len(one["response_body"]) < 20_000], 40):
        reader = reader_for(record)
        feed(reader, record, single_bytes)
        assert_expected(reader, record)


def test_usage_is_found_without_keeping_the_document() -> None:
    for record in records():
        if record["expected_usage"] and record["framing"] == "json":
            reader = reader_for(record)
            read_members(reader, random_chunks(record["response_body"].encode(), Random(record["id"])))
            assert_expected(reader, record)


def test_replies_without_recorded_usage_report_none() -> None:
    for record in records():
        if record["expected_usage"] is None and record["response_body_encoding"] == "utf8":
            reader = reader_for(record)
            feed(reader, record, lambda body: [body])
            told_by_time = '"seconds"' in record["response_body"] or '"duration"' in record["response_body"]
            assert (reader.usage is None) != told_by_time, record["id"]
            assert reader.usage_complete == told_by_time
            # Errors of other shapes are told by the status alone.
            told = '"detail"' in record["response_body"] or record["status"] < 400
            assert told or reader.error is not None, record["id"]


UNSENT_OUTPUT = {
    "040355b5133a": "26 tokens for a text of one",
    "d185279b5546": "made by hand: an image",
    "c49055c50160": "an image",
    "8f81769e34d8": "its recorder left out most of the deltas",
}
"""Replies whose output is not in them, and why."""


def test_every_recorded_reply_gives_its_output_as_text() -> None:
    """Output that cannot be seen would be free of charge for whoever hangs up."""
    seen = 0
    for record in records("openai-responses", "openai-completions"):
        usage = record["expected_usage"]
        if not usage:
            continue
        reader = reader_for(record)
        feed(reader, record, lambda body: [body])
        text = reader.take_text()
        # Reasoning is not shown, and not always counted apart.
        thought = '"type":"reasoning"' in record["response_body"].replace(" ", "")
        shown = 0 if thought else usage["output_tokens"] or 0
        if shown > 20 and record["id"] not in UNSENT_OUTPUT:
            # A call of a tool without arguments takes some thirty tokens for its name alone.
            assert len(text) * 10 > shown, record["id"]
            seen += 1
    assert seen > 250


def test_requests_are_read() -> None:
    read = 0
    for record in records():
        facts = facts_of(record)
        if facts is None:
            continue
        read += 1
        assert facts.prompt.texts or facts.prompt.overhead_tokens or facts.prompt.unread_bytes, record["id"]
        if record["request_body"].startswith("{"):
            request = msgspec.json.decode(record["request_body"])
            deployed = "/deployments/" in record["path"]
            assert deployed or facts.model == request.get("model", ""), record["id"]
            assert facts.streamed == bool(request.get("stream")), record["id"]
            media = record["wire"].startswith(("openai-images", "openai-audio"))
            assert facts.outlives_client == (media or request.get("background") is True), record["id"]
            if record["wire"] == "openai-responses":
                assert facts.max_output_tokens == request.get("max_output_tokens"), record["id"]
        else:
            assert facts.model == "gpt-4o-transcribe"
    assert read > 1000


@pytest.mark.parametrize("identity", sorted(REFUSED))
def test_requests_that_are_refused(identity: str) -> None:
    record = next(record for record in records() if record["id"] == identity)
    with pytest.raises(BodyUnreadable, match="model: expected a text"):
        WIRES[record["wire"]].read_request(
            RawRequest(
                record["request_body"].encode(),
                content_type={name.lower(): value for name, value in record["request_headers"].items()}["content-type"],
            ),
            vendor=vendor_named("house-llm"),
        )


MISCOUNTED_UNTIL = 1_744_000_000
"""In its first weeks, until April 2025, the Responses API counted 18 tokens more than it does now."""


def test_text_is_counted_as_openai_counts_it() -> None:
    counter = TokenCounter()
    exact = missed = 0
    for record in records("openai-responses", "openai-completions", "openai-embeddings"):
        check, facts = record["count_check"], facts_of(record)
        if not check or facts is None or not facts.prompt.exact or record["vendor"] != "openai":
            continue
        if created_at(record) < MISCOUNTED_UNTIL and record["wire"] == "openai-responses":
            continue
        count = counter.count_prompt(facts.prompt, provider="openai", model=facts.model)
        if count.exact:
            exact += count.tokens == check["provider_count"]
            missed += count.tokens != check["provider_count"]
    assert exact > 300
    assert missed / (exact + missed) < 0.02


def created_at(record: Recording) -> int:
    body = record["response_body"]
    start = body.find('"created_at":')
    digits = body[start + 13 : start + 30].strip()[:10] if start >= 0 else ""
    return int(digits) if digits.isdigit() else 2**40


def test_endpoints_are_found_by_the_recorded_hosts() -> None:
    found = 0
    for record in records():
        if record["host"] in ("api.openai.com", "api.x.ai", "api.deepseek.com", "openrouter.ai", "api.voyageai.com"):
            endpoint = resolve(provider=None, host=record["host"], method=record["method"], path=record["path"])
            free = record["wire"] == "openai-responses-retrieve"
            assert endpoint is not None
            assert getattr(endpoint, "wire", "unknown") is (None if free else WIRES[record["wire"]]), record["id"]
            found += 1
    assert found > 900

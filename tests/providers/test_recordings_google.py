"""Recorded traffic with Google: requests are read, replies give their usage, endpoints are found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

import msgspec

from policyd.core.usage import Usage
from policyd.providers.base import RawRequest, ReplyReader, RequestEdits, RequestFacts, WireFormat
from policyd.providers.endpoint import Endpoint
from policyd.providers.framing.frame import Framer
from policyd.providers.framing.json_array import JsonArrayFramer
from policyd.providers.framing.sse import SseFramer
from policyd.providers.registry import (
    GEMINI_EMBEDDINGS,
    GEMINI_GENERATE,
    GEMINI_INTERACTIONS,
    VERTEX_ANTHROPIC,
    resolve,
)
from policyd.providers.vendors import GOOGLE
from policyd.tokens import TokenCounter
from tests import recordings
from tests.accuracy.reported import disagreements
from tests.providers.replay import random_chunks, read_document, read_members, single_bytes, some_facts
from tests.recordings import Recording

WIRES: Mapping[str, WireFormat] = {
    "gemini-generateContent": GEMINI_GENERATE,
    "gemini-streamGenerateContent": GEMINI_GENERATE,
    "gemini-interactions": GEMINI_INTERACTIONS,
    "gemini-batchEmbedContents": GEMINI_EMBEDDINGS,
    "gemini-predict": GEMINI_EMBEDDINGS,
}
GENERATE = ("gemini-generateContent", "gemini-streamGenerateContent")

FRAMERS: Mapping[str, Callable[[], Framer]] = {"sse": SseFramer, "json-array": JsonArrayFramer}

PASSED_BOUND = {"aa3facffb2b2": "33 tokens of output, by a request for 32 at the most"}
"""Replies that are longer than the maximum that was asked for."""

pytestmark = recordings.AT_HAND


def records(*wires: str) -> Iterable[Recording]:
    return (record for record in recordings.every_recording() if record["wire"] in (wires or WIRES))


def path_of(record: Recording) -> str:
    """The path, with a name where its recorder left something in angle brackets out."""
    path: str = record["path"]
    return path.replace("<", "").replace(">", "")


def facts_of(record: Recording) -> RequestFacts | None:
    """What the recorded request says; `None` where none was recorded."""
    if not record["request_body"]:
        return None
    request = RawRequest(record["request_body"].encode(), path=path_of(record), query=record["query"])
    return WIRES[record["wire"]].read_request(request, vendor=GOOGLE, identity_fields=("labels.user",))


def reader_for(record: Recording) -> ReplyReader:
    return WIRES[record["wire"]].reply_reader(facts_of(record) or some_facts(), usage_added=False)


def feed(reader: ReplyReader, record: Recording, chunk: Callable[[bytes], Iterable[bytes]]) -> None:
    body = record["response_body"].encode()
    if record["framing"] not in FRAMERS:
        read_document(reader, body)
        return
    framer = FRAMERS[record["framing"]]()
    frames = [frame for piece in chunk(body) for frame in framer.feed(piece)] + framer.finish()
    assert b"".join(frame.raw for frame in frames) == body, record["id"]
    shown = [frame for frame in frames if reader.read_frame(frame)]
    assert shown == frames, "something was withheld"


def assert_expected(reader: ReplyReader, record: Recording) -> None:
    wanted = record["expected_usage"]
    assert reader.usage is not None, record["id"]
    assert not disagreements(reader.usage, record), record["id"]
    assert reader.usage_complete == (wanted.get("input_tokens") is not None), record["id"]
    assert reader.model == wanted.get("model"), record["id"]


def test_usage_is_the_recorded_one_wherever_the_reply_is_cut() -> None:
    compared = 0
    for record in records():
        if record["expected_usage"] is None:
            continue
        for seed in range(3):
            reader = reader_for(record)
            random = Random(f"{record['id']} {seed}")
            feed(reader, record, lambda body, random=random: random_chunks(body, random))  # type: ignore[misc]
            assert_expected(reader, record)
        compared += 1
    assert compared > 700


def test_usage_is_the_recorded_one_byte_by_byte() -> None:
    streams = [record for record in records() if record["expected_usage"] and record["framing"] in FRAMERS]
    short = [record for record in streams if len(record["response_body"]) < 20_000]
    for record in [record for record in short if record["framing"] == "json-array"] + short[::5]:
        reader = reader_for(record)
        feed(reader, record, single_bytes)
        assert_expected(reader, record)


def test_usage_is_found_without_keeping_the_document() -> None:
    for record in records():
        if record["expected_usage"] and record["framing"] == "json":
            reader = reader_for(record)
            read_members(reader, random_chunks(record["response_body"].encode(), Random(record["id"])))
            if len(record["response_body"]) < 60_000 or record["wire"] in GENERATE:
                assert_expected(reader, record)


def test_replies_without_recorded_usage_report_none_and_do_not_raise() -> None:
    for record in records():
        if record["expected_usage"] is None and record["response_body"]:
            reader = reader_for(record)
            feed(reader, record, lambda body: [body])
            # An older model's embeddings: there is no output, and the input is left to be counted.
            silent = record["wire"] == "gemini-batchEmbedContents" and record["status"] == 200
            assert reader.usage == (Usage() if silent else None), record["id"]
            assert not reader.usage_complete


def test_every_recorded_error_is_seen_as_one() -> None:
    seen = 0
    for record in records():
        if record["status"] >= 400:
            reader = reader_for(record)
            feed(reader, record, lambda body: [body])
            assert reader.error in ("INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"), record["id"]
            seen += 1
    assert seen >= 12


def test_every_recorded_reply_gives_its_output_as_text() -> None:
    """Output that cannot be seen would be free of charge for whoever hangs up."""
    seen = 0
    for record in records(*GENERATE, "gemini-interactions"):
        usage = record["expected_usage"]
        if not usage or (usage["output_tokens"] or 0) <= 20:
            continue
        reader = reader_for(record)
        feed(reader, record, lambda body: [body])
        text = reader.take_text()
        assert not reader.take_text()
        assert len(text) * 10 > usage["output_tokens"], record["id"]
        seen += 1
    assert seen > 250


def config_of(request: Mapping[str, Any]) -> Mapping[str, Any]:
    config: Mapping[str, Any] = request.get("generationConfig") or request.get("generation_config") or {}
    return config


def test_requests_are_read() -> None:
    read = 0
    for record in records():
        facts = facts_of(record)
        if facts is None:
            continue
        request = msgspec.json.decode(record["request_body"])
        config = config_of(request)
        if record["wire"] == "gemini-interactions":
            assert facts.model == request.get("model", request.get("agent")), record["id"]
            assert facts.streamed == bool(request.get("stream"))
        else:
            assert f"/{facts.model}:" in record["path"], record["id"]
            assert facts.streamed == (record["wire"] == "gemini-streamGenerateContent")
        if WIRES[record["wire"]] is not GEMINI_EMBEDDINGS:
            assert facts.max_output_tokens == (config.get("maxOutputTokens") or config.get("max_output_tokens"))
            assert facts.choices == (config.get("candidateCount") or 1)
        assert facts.prompt.texts or re.search(r'"text": ?""', record["request_body"]), record["id"]
        read += 1
    assert read > 700


def test_a_maximum_can_be_set_in_every_request() -> None:
    for record in records(*GENERATE, "gemini-interactions"):
        if record["request_body"]:
            wire, body = WIRES[record["wire"]], record["request_body"].encode()
            edited = wire.edit_request(body, RequestEdits(max_output_tokens=77), vendor=GOOGLE)
            request = RawRequest(edited, path=path_of(record), query=record["query"])
            assert wire.read_request(request, vendor=GOOGLE).max_output_tokens == 77, record["id"]


def test_no_output_passes_the_bound_that_the_request_gives() -> None:
    bounded = 0
    for record in records(*GENERATE, "gemini-interactions"):
        facts, usage = facts_of(record), record["expected_usage"]
        if facts is not None and facts.max_output_tokens is not None and usage and record["id"] not in PASSED_BOUND:
            output = (usage["output_tokens"] or 0) + (usage["reasoning_tokens"] or 0)
            assert output <= facts.max_output_tokens * facts.choices, record["id"]
            bounded += 1
    assert bounded > 140


def test_the_input_stays_within_its_bound() -> None:
    counter = TokenCounter()
    for record in records():
        facts, usage = facts_of(record), record["expected_usage"]
        if facts is not None and usage and usage["input_tokens"]:
            counted = counter.count_prompt(facts.prompt, provider="google", model=facts.model)
            read = usage["input_tokens"] + (usage.get("tool_use_input_tokens") or 0)
            assert read <= counted.upper_bound, record["id"]


def test_searches_stay_within_their_bound() -> None:
    searched = 0
    for record in records(*GENERATE):
        facts = facts_of(record)
        if facts is not None and '"webSearchQueries"' in record["response_body"]:
            reader = reader_for(record)
            feed(reader, record, lambda body: [body])
            assert reader.usage is not None
            assert 0 < reader.usage.web_searches <= facts.pieces_max.web_searches, record["id"]
            searched += 1
    assert searched > 10


def test_endpoints_are_found_by_the_recorded_hosts() -> None:
    found = 0
    wires = {**WIRES, "anthropic-messages": VERTEX_ANTHROPIC, "gemini-countTokens": None}
    for record in recordings.every_recording():
        if record["host"].endswith("googleapis.com"):
            endpoint = resolve(provider=None, host=record["host"], method=record["method"], path=path_of(record))
            assert isinstance(endpoint, Endpoint), record["path"]
            assert endpoint.vendor is GOOGLE
            assert endpoint.wire is wires[record["wire"]], record["path"]
            found += 1
    assert found > 700


def test_claude_at_vertex_is_asked_for_in_the_path() -> None:
    asked = 0
    for record in recordings.every_recording():
        if record["vendor"] == "vertex" and record["wire"] == "anthropic-messages":
            request = RawRequest(record["request_body"].encode(), path=record["path"])
            facts = VERTEX_ANTHROPIC.read_request(request, vendor=GOOGLE)
            assert facts.model == "claude-3-7-sonnet@20250219"
            assert facts.streamed == record["streamed"]
            assert facts.max_output_tokens == 4000
            asked += 1
    assert asked

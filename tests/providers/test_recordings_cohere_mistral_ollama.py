"""Recorded traffic with Cohere, Mistral and Ollama: requests are read, replies give what is billed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random

import pytest

from policyd.core.usage import Usage
from policyd.providers.base import RawRequest, ReplyReader, RequestFacts, WireFormat
from policyd.providers.endpoint import Endpoint
from policyd.providers.framing.choice import framer_for
from policyd.providers.registry import (
    COHERE_CHAT,
    COHERE_CHAT_V1,
    COHERE_EMBED,
    COHERE_GENERATE,
    COHERE_RERANK,
    MISTRAL_CHAT,
    MISTRAL_OCR,
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_GENERATE,
    resolve,
)
from policyd.providers.vendors import vendor_named
from policyd.tokens import TokenCounter
from tests import recordings
from tests.accuracy.reported import disagreements
from tests.providers.replay import random_chunks, read_document, read_members, read_stream, single_bytes, some_facts
from tests.recordings import Recording

WIRES: Mapping[tuple[str, str], WireFormat] = {
    ("cohere", "cohere-chat-v2"): COHERE_CHAT,
    ("cohere", "cohere-chat"): COHERE_CHAT_V1,
    ("cohere", "cohere-generate"): COHERE_GENERATE,
    ("cohere", "cohere-embed"): COHERE_EMBED,
    ("cohere", "cohere-embed-v2"): COHERE_EMBED,
    ("cohere", "cohere-rerank"): COHERE_RERANK,
    ("cohere", "cohere-rerank-v2"): COHERE_RERANK,
    ("mistral", "openai-chat"): MISTRAL_CHAT,
    ("mistral", "mistral-ocr"): MISTRAL_OCR,
    ("ollama", "ollama-chat"): OLLAMA_CHAT,
    ("ollama", "ollama-generate"): OLLAMA_GENERATE,
    ("ollama", "ollama-embed"): OLLAMA_EMBED,
}

FREE = (("cohere", "cohere-tokenize"),)

KIND_BY_PIECE = {"search_units": "search_units", "images": "images_read", "pages_processed": "pages"}
"""The providers' names of what was billed by the piece in some recordings, and the kind of usage that counts it."""

pytestmark = recordings.AT_HAND


def key(record: Recording) -> tuple[str, str]:
    return record["vendor"], record["wire"]


def records() -> Iterable[Recording]:
    return (record for record in recordings.every_recording() if key(record) in WIRES)


def facts_of(record: Recording) -> RequestFacts | None:
    """What the recorded request says; `None` where none was recorded."""
    if not record["request_body"]:
        return None
    request = RawRequest(record["request_body"].encode(), path=record["path"])
    return WIRES[key(record)].read_request(request, vendor=vendor_named(record["vendor"]))


def reader_for(record: Recording) -> ReplyReader:
    return WIRES[key(record)].reply_reader(facts_of(record) or some_facts(), usage_added=False)


def feed(reader: ReplyReader, record: Recording, chunk: Callable[[bytes], Iterable[bytes]]) -> None:
    body = record["response_body"].encode()
    if record["framing"] == "json":
        read_document(reader, body)
        return
    types = {name.lower(): value for name, value in record["response_headers"].items()}
    framer = framer_for(types["content-type"])
    assert framer is not None, record["id"]
    assert read_stream(reader, chunk(body), framer=framer) == body, record["id"]


def billed(record: Recording) -> dict[str, int]:
    """What the recording says was billed, where usage has a kind for it: for Cohere not what was counted."""
    fields = {name: value for name, value in (record["expected_usage"] or {}).items() if value is not None}
    if record["vendor"] == "cohere":
        return {name: fields[name] for name in fields if name.startswith("billed_")}
    return {name: fields[name] for name in ("input_tokens", "output_tokens") if name in fields}


def pieces_of(record: Recording) -> dict[str, int]:
    raw = record["usage_raw"] or {}
    units = {**raw, **(raw.get("billed_units") or {})}
    return {kind: units[name] for name, kind in KIND_BY_PIECE.items() if units.get(name)}


def assert_expected(reader: ReplyReader, record: Recording) -> None:
    wanted = billed(record)
    if pieces := pieces_of(record):
        assert reader.usage == Usage(**pieces), record["id"]
        assert reader.usage_complete
        return
    if not wanted:
        assert reader.usage is None, record["id"]
        return
    assert reader.usage is not None, record["id"]
    assert not disagreements(reader.usage, record), record["id"]
    # Ollama leaves the prompt out that it still had: then the input is not known.
    known = record["vendor"] != "ollama" or "input_tokens" in wanted
    assert reader.usage_complete == known, record["id"]
    assert reader.model == record["expected_usage"]["model"], record["id"]


def test_usage_is_the_recorded_one_wherever_the_reply_is_cut() -> None:
    compared = 0
    for record in records():
        for seed in range(3):
            reader = reader_for(record)
            random = Random(f"{record['id']} {seed}")
            feed(reader, record, lambda body, random=random: random_chunks(body, random))  # type: ignore[misc]
            assert_expected(reader, record)
        compared += bool(billed(record))
    assert compared > 300


def test_usage_is_the_recorded_one_byte_by_byte() -> None:
    streams = [record for record in records() if record["framing"] != "json"]
    for record in Random("byte by byte").sample([one for one in streams if len(one["response_body"]) < 20_000], 60):
        reader = reader_for(record)
        feed(reader, record, single_bytes)
        assert_expected(reader, record)


def test_usage_is_found_without_keeping_the_document() -> None:
    for record in records():
        if record["framing"] == "json" and billed(record):
            reader = reader_for(record)
            read_members(reader, random_chunks(record["response_body"].encode(), Random(record["id"])))
            assert_expected(reader, record)


def test_pieces_stay_within_what_is_held_for_them() -> None:
    seen = 0
    for record in records():
        pieces, facts = pieces_of(record), facts_of(record)
        if pieces and facts is not None:
            most = facts.pieces_max.with_pieces_of(facts.pieces)
            assert all(units <= getattr(most, kind) for kind, units in pieces.items()), record["id"]
            seen += 1
    assert seen >= 10


def test_every_recorded_error_is_seen_as_one() -> None:
    for record in records():
        if record["status"] >= 400:
            reader = reader_for(record)
            feed(reader, record, lambda body: [body])
            # Mistral's errors of another shape are told by the status alone.
            assert reader.error is not None or '"detail"' in record["response_body"], record["id"]
        elif record["expected_usage"]:
            reader = reader_for(record)
            feed(reader, record, lambda body: [body])
            assert reader.error is None, record["id"]


def test_every_recorded_reply_gives_its_output_as_text() -> None:
    """Output that cannot be seen would be free of charge for whoever hangs up."""
    seen = 0
    for record in records():
        output = billed(record).get("billed_output_tokens") or billed(record).get("output_tokens") or 0
        reader = reader_for(record)
        feed(reader, record, lambda body: [body])
        text = reader.take_text()
        if output > 20:
            assert len(text) > output, record["id"]
            seen += 1
    assert seen > 150


def test_requests_are_read() -> None:
    for record in records():
        facts = facts_of(record)
        if facts is None:
            continue
        assert facts.model == (record["request_model"] or facts.model), record["id"]
        assert facts.streamed == record["streamed"] or record["status"] >= 400, record["id"]
        assert facts.prompt.texts or facts.prompt.images or facts.prompt.unread_bytes, record["id"]


def test_holds_cover_what_was_billed() -> None:
    counter = TokenCounter()
    bounded = 0
    for record in records():
        facts, fields = facts_of(record), billed(record)
        if facts is None or not fields:
            continue
        bound = counter.count_prompt(facts.prompt, provider=record["vendor"], model=facts.model).upper_bound
        reader = reader_for(record)
        feed(reader, record, lambda body: [body])
        assert reader.usage is not None
        assert reader.usage.input_tokens <= bound, record["id"]
        if facts.max_output_tokens:
            assert reader.usage.output_tokens <= facts.max_output_tokens * facts.choices, record["id"]
            bounded += 1
    assert bounded > 70


@pytest.mark.parametrize("by_host", [True, False])
def test_endpoints_are_found(by_host: bool) -> None:
    for record in recordings.every_recording():
        if key(record) in WIRES or key(record) in FREE:
            local = record["host"].partition(":")[0] in ("localhost", "127.0.0.1", "ollama.local")
            provider = None if by_host and not local else record["vendor"]
            found = resolve(provider=provider, host=record["host"], method=record["method"], path=record["path"])
            assert isinstance(found, Endpoint), record["id"]
            assert found.vendor.id == record["vendor"], record["id"]
            assert found.wire is WIRES.get(key(record)), record["id"]

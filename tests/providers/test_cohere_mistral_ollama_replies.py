"""Replies of Cohere, Mistral and Ollama, made up after the shapes of real ones: what is read from each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.usage import Usage
from policyd.providers.base import ReplyReader, WireFormat
from policyd.providers.framing.frame import Framer
from policyd.providers.framing.ndjson import NdjsonFramer
from policyd.providers.framing.sse import SseFramer
from policyd.providers.registry import (
    COHERE_CHAT,
    COHERE_CHAT_V1,
    COHERE_EMBED,
    COHERE_GENERATE,
    COHERE_RERANK,
    MISTRAL_CHAT,
    MISTRAL_FIM,
    MISTRAL_OCR,
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_GENERATE,
)
from tests.providers.garbling import UNHURRIED, garbled, with_other_values
from tests.providers.replay import (
    event_stream,
    random_chunks,
    read_document,
    read_members,
    read_stream,
    single_bytes,
    some_facts,
)

Case = Mapping[str, Any]

FORMATS: tuple[WireFormat, ...] = (
    COHERE_CHAT,
    COHERE_CHAT_V1,
    COHERE_GENERATE,
    COHERE_EMBED,
    COHERE_RERANK,
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    OLLAMA_EMBED,
)
WIRES: Mapping[str, WireFormat] = {wire.name: wire for wire in FORMATS}
FILES = ("cohere_replies.json", "ollama_replies.json")


def cases(form: str) -> list[Any]:
    """The cases of one form (`document` or `events`), each with its wire format."""
    return [
        pytest.param(WIRES[case["wire"]], case, id=f"{case['wire']}: {case['name']}")
        for name in FILES
        for case in json.loads((Path(__file__).parent / "fixtures" / name).read_text("utf-8"))
        if form in case
    ]


ALL = cases("events") + cases("document")


def framer(wire: WireFormat) -> Framer:
    return SseFramer() if wire is COHERE_CHAT else NdjsonFramer()


def stream_of(wire: WireFormat, events: Iterable[Any]) -> bytes:
    if wire is COHERE_CHAT:
        return event_stream(*(tuple(item) if isinstance(item, list) else item for item in events))
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def reader_for(wire: WireFormat, *, usage_added: bool = False) -> ReplyReader:
    return wire.reply_reader(some_facts(), usage_added=usage_added)


def assert_read(reader: ReplyReader, case: Case, *, text: bool = True) -> None:
    assert reader.usage == (None if case["usage"] is None else Usage(**case["usage"]))
    assert reader.usage_complete == case["complete"]
    assert reader.error == case.get("error")
    assert reader.terms == {}
    assert reader.model == case.get("model", reader.model)
    if text:
        assert reader.take_text() == case.get("text", "")
        assert reader.take_text() == "", "text is kept after it was taken"


@pytest.mark.parametrize(("wire", "case"), cases("document"))
def test_documents(wire: WireFormat, case: Case) -> None:
    reader = reader_for(wire)
    read_document(reader, json.dumps(case["document"]).encode())
    assert_read(reader, case)


# Errors, and embeddings of the older endpoint, are small and always read whole.
LARGE = [case for case in cases("document") if case.values[1]["usage"]]


@pytest.mark.parametrize(("wire", "case"), LARGE)
def test_documents_of_which_only_some_members_are_kept(wire: WireFormat, case: Case) -> None:
    reader = reader_for(wire)
    read_members(reader, single_bytes(json.dumps(case["document"], indent=1).encode()))
    assert_read(reader, case, text=False)


@pytest.mark.parametrize("cut", ["whole", "byte by byte", "at random"])
@pytest.mark.parametrize(("wire", "case"), cases("events"))
def test_streams(wire: WireFormat, case: Case, cut: str) -> None:
    body = stream_of(wire, case["events"])
    chunks = {"whole": [body], "byte by byte": single_bytes(body), "at random": random_chunks(body, Random(cut))}
    reader = reader_for(wire, usage_added=True)
    assert read_stream(reader, chunks[cut], framer=framer(wire)) == body, "nothing is withheld"
    assert_read(reader, case)


@pytest.mark.parametrize(("wire", "case"), cases("events"))
def test_streams_whose_last_event_lacks_its_end(wire: WireFormat, case: Case) -> None:
    reader = reader_for(wire)
    read_stream(reader, [stream_of(wire, case["events"]).rstrip(b"\n")], framer=framer(wire))
    assert_read(reader, case)


@pytest.mark.parametrize(("wire", "case"), [case for case in cases("events") if case.values[0] is not COHERE_CHAT])
def test_lines_that_come_as_server_sent_events(wire: WireFormat, case: Case) -> None:
    """Cohere sends v1 streams so to who accepts that."""
    reader = reader_for(wire)
    read_stream(reader, [event_stream(*case["events"])])
    assert_read(reader, case)


@pytest.mark.parametrize(("wire", "case"), [case for case in cases("events") if "completes_at" in case.values[1]])
def test_usage_is_complete_from_its_event_on_and_not_before(wire: WireFormat, case: Case) -> None:
    reader = reader_for(wire)
    complete = []
    for frame in framer(wire).feed(stream_of(wire, case["events"])):
        reader.read_frame(frame)
        complete.append(reader.usage_complete)
    assert complete.index(True) == case["completes_at"]
    assert all(complete[case["completes_at"] :])


@UNHURRIED
@given(seed=st.integers(0, 2**32), index=st.integers(0, len(ALL) - 1))
def test_garbled_replies_never_raise(seed: int, index: int) -> None:
    wire, case = ALL[index].values
    random = Random(seed)
    body = garbled(stream_of(wire, case.get("events") or [case["document"]]), random)
    reader = reader_for(wire)
    assert read_stream(reader, random_chunks(body, random), framer=framer(wire)) == body
    assert_sane(reader)


@UNHURRIED
@given(data=st.data(), index=st.integers(0, len(ALL) - 1))
def test_replies_with_other_values_in_them_never_raise(data: st.DataObject, index: int) -> None:
    wire, case = ALL[index].values
    reader = reader_for(wire)
    if "document" in case:
        reader.read_document(with_other_values(data, case["document"]))
    else:
        events = [item[1] if isinstance(item, list) else item for item in case["events"]]
        lines = (json.dumps(event).encode() + b"\n" for event in with_other_values(data, events))
        read_stream(reader, lines, framer=NdjsonFramer())
    assert_sane(reader)


def assert_sane(reader: ReplyReader) -> None:
    """Whatever was read, it is of the types that were promised."""
    assert isinstance(reader.take_text(), str)
    assert reader.model is None or isinstance(reader.model, str)
    assert reader.error is None or len(reader.error) <= 64
    if reader.usage is not None:
        assert all(units > 0 for units in reader.usage.by_kind().values())


DEEP = [
    b"[" * 100_000,
    b'{"usage":' * 100_000,
    b'{"tool_calls":[{"parameters":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}]}",
    b'{"message":{"tool_calls":[{"function":{"arguments":' + b"[" * 900 + b"]" * 900 + b"}}]}}",
]


@pytest.mark.parametrize("wire", [*FORMATS, MISTRAL_OCR], ids=lambda wire: wire.name)
@pytest.mark.parametrize("body", DEEP, ids=lambda body: body[:24].decode())
def test_deeply_nested_replies_never_raise(wire: WireFormat, body: bytes) -> None:
    reader = reader_for(wire)
    read_stream(reader, [body + b"\n"], framer=NdjsonFramer())
    read_members(reader, [b'{"usage":' + body])
    assert_sane(reader)


CHAT_USAGE = {"prompt_tokens": 11, "completion_tokens": 15, "total_tokens": 26, "num_cached_tokens": 4}


@pytest.mark.parametrize("wire", [MISTRAL_CHAT, MISTRAL_FIM], ids=lambda wire: wire.name)
def test_mistral_answers_as_openai_does(wire: WireFormat) -> None:
    reader = reader_for(wire)
    choice = {"index": 0, "message": {"role": "assistant", "content": "Two."}, "finish_reason": "stop"}
    read_document(reader, json.dumps({"model": "codestral-2508", "choices": [choice], "usage": CHAT_USAGE}).encode())
    assert reader.usage == Usage(input=7, cached_input=4, output=15)
    assert reader.usage_complete
    assert reader.model == "codestral-2508"
    assert reader.take_text() == "Two."


def test_mistral_counts_audio_beside_the_prompt() -> None:
    usage = CHAT_USAGE | {"total_tokens": 401, "prompt_tokens_details": {"audio_tokens": 375, "cached_tokens": 9}}
    reader = reader_for(MISTRAL_CHAT)
    read_document(reader, json.dumps({"model": "voxtral-small-latest", "choices": [], "usage": usage}).encode())
    assert reader.usage == Usage(input=2, cached_input=9, audio_input=375, output=15)


@pytest.mark.parametrize("kind", ["pages", "annotated_pages"])
def test_pages_are_usage_and_a_failed_page_is_an_error(kind: str) -> None:
    facts = replace(some_facts(), pieces=Usage(**{kind: 3}))
    reader = MISTRAL_OCR.reply_reader(facts, usage_added=False)
    pages = {"pages": [{"index": 0, "markdown": "# Ponds"}], "model": "mistral-ocr-latest"}
    read_document(reader, json.dumps(pages | {"usage_info": {"pages_processed": 1, "doc_size_bytes": 9}}).encode())
    assert (reader.usage, reader.usage_complete) == (Usage(**{kind: 1}), True)
    assert (reader.model, reader.error) == ("mistral-ocr-latest", None)
    read_document(
        reader, json.dumps({"object": "error", "message": "no", "type": "invalid_file", "code": "3310"}).encode()
    )
    assert reader.error == "3310"

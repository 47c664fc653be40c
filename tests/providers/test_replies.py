"""Replies as the providers send them, made up after the shapes of real ones: what is read from each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.usage import Usage
from policyd.providers.base import ReplyReader, WireFormat
from policyd.providers.framing.frame import Frame
from policyd.providers.framing.sse import SseFramer
from policyd.providers.registry import (
    ANTHROPIC_MESSAGES,
    GEMINI_EMBEDDINGS,
    GEMINI_GENERATE,
    GEMINI_INTERACTIONS,
    OPENAI_CHAT,
    OPENAI_COMPLETIONS,
    OPENAI_EMBEDDINGS,
    OPENAI_IMAGES_GENERATIONS,
    OPENAI_RESPONSES,
    OPENAI_SPEECH,
    OPENAI_TRANSCRIPTIONS,
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
WIRES: Mapping[str, WireFormat] = {
    "openai_chat_replies.json": OPENAI_CHAT,
    "openai_responses_replies.json": OPENAI_RESPONSES,
    "openai_completions_replies.json": OPENAI_COMPLETIONS,
    "openai_embeddings_replies.json": OPENAI_EMBEDDINGS,
    "openai_images_replies.json": OPENAI_IMAGES_GENERATIONS,
    "openai_audio_replies.json": OPENAI_TRANSCRIPTIONS,
    "openai_speech_replies.json": OPENAI_SPEECH,
    "anthropic_messages_replies.json": ANTHROPIC_MESSAGES,
    "gemini_generate_replies.json": GEMINI_GENERATE,
    "gemini_interactions_replies.json": GEMINI_INTERACTIONS,
    "gemini_embeddings_replies.json": GEMINI_EMBEDDINGS,
}


def cases(form: str) -> list[Any]:
    """The cases of one form (`document` or `events`), each with its wire format."""
    return [
        pytest.param(wire, case, id=f"{wire.name}: {case['name']}")
        for name, wire in WIRES.items()
        for case in json.loads((Path(__file__).parent / "fixtures" / name).read_text("utf-8"))
        if form in case
    ]


def stream_of(case: Case) -> bytes:
    return event_stream(*(tuple(item) if isinstance(item, list) else item for item in case["events"]))


def reader_for(wire: WireFormat, case: Case, *, usage_added: bool = False) -> ReplyReader:
    facts = some_facts(
        choices=case.get("choices", 1),
        pieces_min=Usage(**case.get("pieces_min", {})),
        pieces_max=Usage(**case.get("pieces_max", {})),
    )
    return wire.reply_reader(facts, usage_added=usage_added)


def assert_read(reader: ReplyReader, case: Case, *, text: bool = True) -> None:
    assert reader.usage == (None if case["usage"] is None else Usage(**case["usage"]))
    assert reader.usage_complete == case["complete"]
    assert reader.error == case.get("error")
    assert reader.terms == case.get("terms", {})
    if "model" in case:
        assert reader.model == case["model"]
    if text:
        assert reader.take_text() == case.get("text", "")
        assert reader.take_text() == "", "text is kept after it was taken"


@pytest.mark.parametrize(("wire", "case"), cases("document"))
def test_documents(wire: WireFormat, case: Case) -> None:
    reader = reader_for(wire, case)
    read_document(reader, json.dumps(case["document"]).encode())
    assert_read(reader, case)


# An error that is not wrapped is small, and always read whole.
LARGE = [case for case in cases("document") if "object" not in case.values[1]["document"] or case.values[1]["usage"]]


@pytest.mark.parametrize(("wire", "case"), LARGE)
def test_documents_of_which_only_some_members_are_kept(wire: WireFormat, case: Case) -> None:
    reader = reader_for(wire, case)
    read_members(reader, single_bytes(json.dumps(case["document"], indent=1).encode()))
    assert_read(reader, case, text=False)


@pytest.mark.parametrize("cut", ["whole", "byte by byte", "at random"])
@pytest.mark.parametrize(("wire", "case"), cases("events"))
def test_streams(wire: WireFormat, case: Case, cut: str) -> None:
    body = stream_of(case)
    chunks = {"whole": [body], "byte by byte": single_bytes(body), "at random": random_chunks(body, Random(cut))}
    reader = reader_for(wire, case)
    assert read_stream(reader, chunks[cut]) == body, "nothing is withheld from a client who asked for usage himself"
    assert_read(reader, case)


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
@pytest.mark.parametrize(("wire", "case"), cases("events"))
def test_streams_with_other_ends_of_line(wire: WireFormat, case: Case, end: bytes) -> None:
    body = b": a comment\n\n" + stream_of(case)
    reader = reader_for(wire, case)
    read_stream(reader, single_bytes(body.replace(b"\n", end)))
    assert_read(reader, case)


@pytest.mark.parametrize(("wire", "case"), cases("events"))
def test_streams_whose_last_event_lacks_its_blank_line(wire: WireFormat, case: Case) -> None:
    reader = reader_for(wire, case)
    read_stream(reader, [stream_of(case).rstrip(b"\n")])
    assert_read(reader, case)


@pytest.mark.parametrize(("wire", "case"), cases("events"))
def test_only_usage_that_policyd_asked_for_is_withheld(wire: WireFormat, case: Case) -> None:
    reader = reader_for(wire, case, usage_added=True)
    shown = [reader.read_frame(frame) for frame in frames_of(case)]
    assert [index for index, seen in enumerate(shown) if not seen] == case.get("withheld", [])
    assert_read(reader, case)


@pytest.mark.parametrize(("wire", "case"), [case for case in cases("events") if "completes_at" in case.values[1]])
def test_usage_is_complete_from_its_event_on_and_not_before(wire: WireFormat, case: Case) -> None:
    reader = reader_for(wire, case)
    complete = []
    for frame in frames_of(case):
        reader.read_frame(frame)
        complete.append(reader.usage_complete)
    assert complete.index(True) == case["completes_at"]
    assert all(complete[case["completes_at"] :])


def frames_of(case: Case) -> list[Frame]:
    return SseFramer().feed(stream_of(case))


ALL = cases("events") + cases("document")


@UNHURRIED
@given(seed=st.integers(0, 2**32), index=st.integers(0, len(ALL) - 1))
def test_garbled_replies_never_raise(seed: int, index: int) -> None:
    wire, case = ALL[index].values
    random = Random(seed)
    body = garbled(stream_of(case) if "events" in case else b"data: " + json.dumps(case["document"]).encode(), random)
    reader = reader_for(wire, case)
    seen = read_stream(reader, random_chunks(body, random))
    assert seen == body
    assert_sane(reader)


@UNHURRIED
@given(data=st.data(), index=st.integers(0, len(ALL) - 1))
def test_replies_with_other_values_in_them_never_raise(data: st.DataObject, index: int) -> None:
    wire, case = ALL[index].values
    reader = reader_for(wire, case, usage_added=True)
    if "document" in case:
        reader.read_document(with_other_values(data, case["document"]))
    else:
        read_stream(reader, [event_stream(*(("", item) for item in with_other_values(data, case["events"])))])
    assert_sane(reader)


def assert_sane(reader: ReplyReader) -> None:
    """Whatever was read, it is of the types that were promised."""
    assert isinstance(reader.take_text(), str)
    assert reader.model is None or isinstance(reader.model, str)
    assert reader.error is None or len(reader.error) <= 64
    assert all(isinstance(value, str) for value in reader.terms.values())
    if reader.usage is not None:
        assert all(units > 0 for units in reader.usage.by_kind().values())


DEEP = [
    b"[" * 100_000,
    b'{"usage":' * 100_000,
    b'{"choices":[{"delta":{"content":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}}]}",
    b'{"choices":[{"delta":{"content":' + b"[" * 900 + b"]" * 900 + b"}}]}",
    b'{"type":"content_block_start","content_block":{"input":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}}",
]


@pytest.mark.parametrize("wire", list(WIRES.values()), ids=lambda wire: wire.name)
@pytest.mark.parametrize("body", DEEP, ids=lambda body: body[:24].decode())
def test_deeply_nested_replies_never_raise(wire: WireFormat, body: bytes) -> None:
    reader = wire.reply_reader(some_facts(), usage_added=True)
    read_stream(reader, [b"data: " + body + b"\n\n"])
    read_members(reader, [b'{"usage":' + body])
    assert_sane(reader)

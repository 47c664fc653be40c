"""What the messages of realtime sessions say, by kind, in shapes that were recorded or are documented."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import Usage
from policyd.providers.base import ErrorInfo, RawRequest
from policyd.providers.realtime import RealtimeFormat, RealtimeReader, Received, ResponseEnd, Transcription
from policyd.providers.registry import GEMINI_LIVE, OPENAI_REALTIME

MEMBERS = ["type", "response", "usage", "session", "delta", "audio", "setup", "model", "serverContent", "usageMetadata"]

ANY_MESSAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(MEMBERS), inner),
)

ONE_SECOND = base64.b64encode(bytes(48_000)).decode()


def openai(query: str = "model=gpt-realtime") -> RealtimeReader:
    return OPENAI_REALTIME.reader(RawRequest(b"", query=query))


def gemini() -> RealtimeReader:
    return GEMINI_LIVE.reader(RawRequest(b""))


def received(reader: RealtimeReader, message: Any) -> Received:
    return reader.read_received(msgspec.json.encode(message))


def usage_of(ended: ResponseEnd | None) -> Usage | None:
    assert ended is not None
    return ended.usage


@pytest.mark.parametrize(
    ("query", "model"),
    [
        ("model=gpt-realtime", "gpt-realtime"),
        ("api-version=2024-10-01-preview&deployment=mine", "mine"),
        ("model=first&model=second", "first"),
        ("intent=transcription", ""),
    ],
)
def test_openais_model_is_in_the_query(query: str, model: str) -> None:
    assert openai(query).model == model


def test_openais_response_is_read_by_kind() -> None:
    reported = {
        "input_tokens": 500,
        "output_tokens": 200,
        "input_token_details": {
            "text_tokens": 120,
            "audio_tokens": 280,
            "image_tokens": 100,
            "cached_tokens": 260,
            "cached_tokens_details": {"text_tokens": 64, "audio_tokens": 128, "image_tokens": 68},
        },
        "output_token_details": {"text_tokens": 40, "audio_tokens": 160},
    }
    expected = Usage(
        input=56,
        cached_input=64,
        cached_audio_input=128,
        cached_image_input=68,
        audio_input=152,
        image_input=32,
        output=40,
        audio_output=160,
    )
    inside = {"type": "response.done", "response": {"status": "completed", "usage": reported}}
    beside = {"type": "response.done", "response": {"status": "completed", "usage": {}}, "usage": reported}
    assert usage_of(received(openai(), inside).ended) == usage_of(received(openai(), beside).ended) == expected


def test_a_failed_response_tells_its_code() -> None:
    failed = {
        "type": "response.done",
        "response": {
            "status": "failed",
            "status_details": {"error": {"code": "rate_limit_exceeded", "message": "..."}},
        },
    }
    assert received(openai(), failed).ended == ResponseEnd(None, complete=False, error="rate_limit_exceeded")


@pytest.mark.parametrize(
    ("session", "seconds"),
    [
        ({}, 1),
        ({"input_audio_format": "pcm16", "output_audio_format": "pcm16"}, 1),
        ({"input_audio_format": "g711_ulaw", "output_audio_format": "g711_alaw"}, 6),
        ({"audio": {"input": {"format": {"type": "audio/pcmu"}}, "output": {"format": {"type": "audio/pcma"}}}}, 6),
    ],
)
def test_audio_is_counted_by_its_length(session: dict[str, Any], seconds: int) -> None:
    reader = openai()
    reader.read_sent(msgspec.json.encode({"type": "session.update", "session": session}))
    sent = reader.read_sent(msgspec.json.encode({"type": "input_audio_buffer.append", "audio": ONE_SECOND}))
    assert sent.tokens == 10 * seconds
    for kind in ("response.audio.delta", "response.output_audio.delta"):
        assert received(reader, {"type": kind, "delta": ONE_SECOND}).audio_tokens == 20 * seconds


def test_what_a_client_sends_is_read() -> None:
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
        {"type": "input_audio", "audio": ONE_SECOND},
    ]
    sent = openai().read_sent(
        msgspec.json.encode({"type": "conversation.item.create", "item": {"type": "message", "content": content}})
    )
    assert "What is this?" in sent.text
    assert "AAAA" not in sent.text
    assert (sent.tokens, sent.responses) == (1_600 + 10, 0)


@pytest.mark.parametrize(("maximum", "expected"), [(200, 200), ("inf", 4_096), (None, 4_096), (-1, 4_096)])
def test_the_maximum_of_a_response(maximum: Any, expected: int) -> None:
    reader = openai()
    reader.read_sent(msgspec.json.encode({"type": "session.update", "session": {"max_output_tokens": maximum}}))
    assert reader.max_output_tokens == expected
    create = {"type": "response.create", "response": {"max_output_tokens": 1_000}}
    assert reader.read_sent(msgspec.json.encode(create)).responses == 1
    assert reader.max_output_tokens == max(1_000, expected)


def test_a_transcription_is_of_its_own_model() -> None:
    reader = openai()
    session = {"audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}
    reader.read_sent(msgspec.json.encode({"type": "session.update", "session": session}))
    done = {"type": "conversation.item.input_audio_transcription.completed", "transcript": "Hi."}
    tokens = {"type": "tokens", "input_tokens": 14, "input_token_details": {"audio_tokens": 14}, "output_tokens": 5}
    assert received(reader, {**done, "usage": tokens}).transcription == Transcription(
        "gpt-4o-transcribe", Usage(audio_input=14, output=5)
    )
    # Charged by the second: the tokens that so much audio has.
    seconds = received(reader, {**done, "usage": {"type": "duration", "seconds": 2.5}}).transcription
    assert seconds == Transcription("gpt-4o-transcribe", Usage(audio_input=30))
    assert received(reader, done) == Received()
    assert received(reader, {**done, "status": "in_progress", "usage": tokens}) == Received()


def test_an_error_of_openais_is_worded_as_its_own() -> None:
    message = msgspec.json.decode(OPENAI_REALTIME.error_message(ErrorInfo(402, "budget_exceeded", "No.", {"a": 1})))
    assert message["type"] == "error"
    assert message["event_id"]
    assert message["error"] == {
        "message": "No.",
        "type": "insufficient_quota",
        "param": None,
        "code": "budget_exceeded",
        "policyd": {"a": 1},
    }


@pytest.mark.parametrize(
    "name", ["models/gemini-x", "publishers/google/models/gemini-x", "projects/p/locations/l/models/gemini-x"]
)
def test_geminis_model_is_in_the_setup(name: str) -> None:
    reader = gemini()
    setup = {"setup": {"model": name, "generation_config": {"max_output_tokens": 500}}}
    reader.read_sent(msgspec.json.encode(setup))
    assert (reader.model, reader.max_output_tokens) == ("gemini-x", 500)


@pytest.mark.parametrize(
    "message",
    [
        {"setup": {"model": ""}},
        {"setup": {"model": 7}},
        {"setup": []},
        {"setup": {"model": "models/x", "generationConfig": {"maxOutputTokens": "many"}}},
    ],
)
def test_a_setup_that_tells_nothing_is_refused(message: Any) -> None:
    with pytest.raises(BodyUnreadable):
        gemini().read_sent(msgspec.json.encode(message))


def test_what_geminis_client_sends_is_counted() -> None:
    audio = {"mimeType": "audio/pcm;rate=16000", "data": base64.b64encode(bytes(31_998)).decode()}
    frame = {"mimeType": "image/jpeg", "data": "AAAA"}
    sent = gemini().read_sent(msgspec.json.encode({"realtimeInput": {"audio": audio, "video": frame, "text": "Hello"}}))
    assert sent.tokens == 32 + 258
    assert "Hello" in sent.text
    assert "AAAA" not in sent.text


def test_geminis_turn_begins_with_what_it_says_and_ends_with_its_usage() -> None:
    reader = gemini()
    spoken = {"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": ONE_SECOND}}
    thought = {"text": "Hm.", "thought": True}
    said = received(reader, {"serverContent": {"modelTurn": {"parts": [thought, spoken]}}})
    assert (said.began, said.text, said.audio_tokens) == (True, "Hm.", 25)
    assert not received(reader, {"serverContent": {"outputTranscription": {"text": "Hi."}}}).began
    details = [{"modality": "TEXT", "tokenCount": 4}, {"modality": "AUDIO", "tokenCount": 20}]
    reported = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 10,
        "responseTokenCount": 24,
        "thoughtsTokenCount": 7,
        "responseTokensDetails": details,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 60}],
    }
    ended = received(reader, {"serverContent": {"turnComplete": True}, "usageMetadata": reported}).ended
    assert ended == ResponseEnd(
        Usage(input=30, cached_input=10, audio_input=60, output=4, audio_output=20, reasoning=7)
    )
    assert received(reader, {"toolCall": {"functionCalls": [{"name": "f", "args": {"a": 1}}]}}).began


@pytest.mark.parametrize("realtime", [OPENAI_REALTIME, GEMINI_LIVE], ids=lambda realtime: realtime.name)
@given(message=ANY_MESSAGE)
def test_no_message_raises_anything_else(realtime: RealtimeFormat, message: Any) -> None:
    reader = realtime.reader(RawRequest(b"", query="model=m"))
    encoded = msgspec.json.encode(message)
    reader.read_received(encoded)
    with suppress(BodyUnreadable):
        reader.read_sent(encoded)

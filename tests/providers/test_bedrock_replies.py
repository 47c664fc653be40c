"""Reading Bedrock's replies: whatever form the usage comes in, it is the same usage."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.usage import Usage
from policyd.providers.base import HeaderReader, ReplyReader, RequestFacts
from policyd.providers.bedrock.converse_reply import ConverseReply
from policyd.providers.bedrock.invoke_reply import InvokeReply
from policyd.providers.framing.event_stream import EventStreamFramer, encode_message
from policyd.providers.registry import BEDROCK_CONVERSE, BEDROCK_INVOKE
from tests.providers.garbling import JSON, UNHURRIED, garbled, with_other_values
from tests.providers.replay import NO_PROMPT, random_chunks, read_members, usage_of

MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
METRICS = {"inputTokenCount": 7, "outputTokenCount": 5, "invocationLatency": 10, "firstByteLatency": 3}
HEADERS = {"x-amzn-bedrock-input-token-count": "7", "x-amzn-bedrock-output-token-count": "5"}


def message(name: str, value: Any, *, kind: str = "event") -> bytes:
    header = ":event-type" if kind == "event" else ":exception-type"
    headers = {header: name, ":content-type": "application/json", ":message-type": kind}
    return encode_message(headers, msgspec.json.encode(value))


def chunks(*events: Any, metrics: Any = METRICS) -> bytes:
    """A stream of a maker's events, Bedrock's numbers in the last one."""
    *earlier, last = events
    last = {**last, "amazon-bedrock-invocationMetrics": metrics} if metrics else last
    encoded = [b64encode(msgspec.json.encode(event)).decode() for event in (*earlier, last)]
    return b"".join(message("chunk", {"bytes": event, "p": "abc"}) for event in encoded)


def facts(model: str = MODEL, *, max_output_tokens: int | None = 100) -> RequestFacts:
    return RequestFacts(model=model, streamed=True, prompt=NO_PROMPT, max_output_tokens=max_output_tokens)


def converse() -> ConverseReply:
    return BEDROCK_CONVERSE.reply_reader(facts(), usage_added=False)


def invoke(model: str = MODEL, *, max_output_tokens: int | None = 100) -> InvokeReply:
    return BEDROCK_INVOKE.reply_reader(facts(model, max_output_tokens=max_output_tokens), usage_added=False)


def feed(reader: ReplyReader, pieces: Iterable[bytes]) -> bytes:
    framer = EventStreamFramer()
    frames = [frame for piece in pieces for frame in framer.feed(piece)] + framer.finish()
    return b"".join(frame.raw for frame in frames if reader.read_frame(frame))


# --- Converse ---

USAGE = {
    "inputTokens": 11,
    "outputTokens": 20,
    "totalTokens": 1059,
    "cacheReadInputTokens": 1000,
    "cacheWriteInputTokens": 28,
    "cacheDetails": [{"ttl": "1h", "inputTokens": 8}, {"ttl": "5m", "inputTokens": 20}],
    "serverToolUsage": {},
}
USED = Usage(input=11, cached_input=1000, cache_write_5m=20, cache_write_1h=8, output=20)

DOCUMENT = {
    "metrics": {"latencyMs": 10},
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "Hm. ", "signature": "xx"}}},
                {"text": "Look: "},
                {"citationsContent": {"content": [{"text": "cited "}], "citations": [{"title": "no"}]}},
                {"toolUse": {"toolUseId": "t", "name": "look", "input": {"at": "é"}}},
                {"toolResult": {"toolUseId": "t", "content": [{"text": "input again"}]}},
            ],
        }
    },
    "stopReason": "tool_use",
    "usage": USAGE,
    "serviceTier": {"type": "flex"},
}

STREAM = b"".join(
    (
        message("messageStart", {"role": "assistant", "p": "abc"}),
        message("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "Hm. "}}}),
        message("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "xx"}}}),
        message("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "Look: "}}),
        message("contentBlockStop", {"contentBlockIndex": 1}),
        message(
            "contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t", "name": "look"}}}
        ),
        message("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": '{"at":"é"}'}}}),
        message("messageStop", {"stopReason": "tool_use"}),
        message("metadata", {"usage": USAGE, "metrics": {"latencyMs": 10}, "serviceTier": {"type": "flex"}}),
    )
)


def test_a_converse_document() -> None:
    reader = converse()
    reader.read_document(DOCUMENT)
    assert reader.usage == USED
    assert reader.usage_complete
    assert reader.take_text() == 'Hm. Look: cited look{"at":"é"}'
    assert not reader.take_text()
    assert reader.terms == {"service_tier": "flex"}
    assert reader.model is None
    assert reader.error is None


def test_a_converse_document_that_is_not_kept() -> None:
    reader = converse()
    read_members(reader, [msgspec.json.encode(DOCUMENT)])
    assert reader.usage == USED
    assert reader.usage_complete
    assert reader.terms == {"service_tier": "flex"}


def test_a_converse_stream() -> None:
    reader = converse()
    assert feed(reader, [STREAM]) == STREAM
    assert reader.usage == USED
    assert reader.usage_complete
    assert reader.take_text() == 'Hm. Look: look{"at":"é"}'
    assert reader.terms == {"service_tier": "flex"}


def test_a_converse_stream_tells_its_usage_last() -> None:
    reader = converse()
    end = STREAM.rindex(b":event-type\x07\x00\x08metadata") - 13
    feed(reader, [STREAM[:end]])
    assert reader.usage is None
    assert not reader.usage_complete
    assert reader.take_text()


def test_the_model_that_a_prompt_router_chose() -> None:
    chosen = "arn:aws:bedrock:us-east-1:012345678901:inference-profile/us.anthropic.claude-3-haiku-20240307-v1:0"
    reader = converse()
    reader.read_document({**DOCUMENT, "trace": {"promptRouter": {"invokedModelId": chosen}}})
    assert reader.model == "us.anthropic.claude-3-haiku-20240307-v1:0"


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({"inputTokens": 5, "outputTokens": 0, "totalTokens": 5}, Usage(input=5)),
        ({"inputTokens": 0, "outputTokens": 0}, Usage()),
        ({"inputTokens": 5.0, "outputTokens": 2.0}, Usage(input=5, output=2)),
        (
            {"inputTokens": 5, "cacheWriteInputTokenCount": 3, "cacheReadInputTokenCount": 2},
            Usage(input=5, cached_input=2, cache_write_5m=3),
        ),
        (
            {"inputTokens": 5, "cacheWriteInputTokens": 3, "cacheDetails": [{"ttl": "1h", "inputTokens": 9}]},
            Usage(input=5, cache_write_1h=3),
        ),
        ({"inputTokens": -1, "outputTokens": 10**12}, None),
        ({"totalTokens": 5}, None),
        ({}, None),
    ],
)
def test_usage_objects(reported: Any, expected: Usage | None) -> None:
    reader = converse()
    reader.read_document({"output": {}, "usage": reported})
    assert reader.usage == expected
    assert reader.usage_complete == (expected is not None and "outputTokens" in reported)


# --- InvokeModel ---

ANTHROPIC = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5-20251001",
    "content": [{"type": "text", "text": "Hi there."}],
    "usage": {"input_tokens": 7, "output_tokens": 5},
}
NOVA = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hi there."}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12, "cacheReadInputTokenCount": 0},
}
TITAN = {
    "inputTextTokenCount": 7,
    "results": [
        {"tokenCount": 3, "outputText": "Hi ", "completionReason": "FINISH"},
        {"tokenCount": 2, "outputText": "there.", "completionReason": "FINISH"},
    ],
}
LLAMA = {"generation": "Hi there.", "prompt_token_count": 7, "generation_token_count": 5, "stop_reason": "stop"}
OPENAI = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"content": "Hi there."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
}
TEXT = {**OPENAI, "object": "text_completion", "choices": [{"index": 0, "text": "Hi there.", "finish_reason": "stop"}]}
COUNTED = (ANTHROPIC, NOVA, TITAN, LLAMA, OPENAI, TEXT)

MISTRAL = {"outputs": [{"text": "Hi there.", "stop_reason": "stop"}]}
COHERE = {"id": "g", "generations": [{"id": "h", "text": "Hi there.", "finish_reason": "COMPLETE"}], "prompt": "Say hi"}
COHERE_CHAT = {
    "text": "Hi there.",
    "chat_history": [{"role": "USER", "message": "Say hi"}],
    "finish_reason": "COMPLETE",
}
CLAUDE_2 = {"completion": "Hi there.", "stop_reason": "stop_sequence", "stop": "\n\nHuman:"}
JURASSIC = {
    "id": 1,
    "prompt": {"text": "Say hi", "tokens": []},
    "completions": [{"data": {"text": "Hi there.", "tokens": []}, "finishReason": {"reason": "endoftext"}}],
}
MISTRAL_CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi there."}}]}
UNCOUNTED = (MISTRAL, COHERE, COHERE_CHAT, CLAUDE_2, JURASSIC, MISTRAL_CHAT)


@pytest.mark.parametrize("document", COUNTED, ids=lambda document: next(iter(document)))
def test_documents_that_count_themselves(document: dict[str, Any]) -> None:
    reader = invoke()
    reader.read_document(document)
    assert reader.usage == Usage(input=7, output=5)
    assert reader.usage_complete
    assert reader.take_text() == "Hi there."
    assert reader.error is None
    skimmed = invoke()
    read_members(skimmed, [msgspec.json.encode(document)])
    assert skimmed.usage == Usage(input=7, output=5)
    assert skimmed.usage_complete


@pytest.mark.parametrize("document", UNCOUNTED, ids=lambda document: next(iter(document)))
def test_documents_that_the_headers_count(document: dict[str, Any]) -> None:
    alone = invoke()
    alone.read_document(document)
    assert alone.usage is None
    assert not alone.usage_complete
    assert alone.take_text() == "Hi there."

    reader = invoke()
    assert isinstance(reader, HeaderReader)
    reader.read_headers({**HEADERS, "content-type": "application/json"})
    assert reader.usage == Usage(input=7, output=5)
    reader.read_document(document)
    assert reader.usage == Usage(input=7, output=5)
    assert reader.usage_complete


def test_a_document_too_large_to_be_kept_is_counted_by_its_headers() -> None:
    for document in (*COUNTED, *UNCOUNTED):
        reader = invoke()
        reader.read_headers(HEADERS)
        read_members(reader, [msgspec.json.encode(document)])
        assert reader.usage == Usage(input=7, output=5)
        assert reader.usage_complete


def test_the_maker_s_own_count_is_the_finer_one() -> None:
    reader = invoke()
    reader.read_headers({**HEADERS, "x-amzn-bedrock-output-token-count": "4"})
    usage = {"input_tokens": 7, "output_tokens": 5, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 2}
    split = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 3}
    reader.read_document({**ANTHROPIC, "usage": {**usage, "cache_creation": split}})
    assert reader.usage == Usage(input=7, cached_input=2, cache_write_1h=3, output=5)


def test_headers_complete_what_a_document_leaves_out() -> None:
    reader = invoke()
    cached = {"x-amzn-bedrock-cache-read-input-token-count": "2", "x-amzn-bedrock-cache-write-input-token-count": "3"}
    reader.read_headers({**HEADERS, **cached, "x-amzn-bedrock-service-tier": "flex"})
    reader.read_document({**NOVA, "usage": {"inputTokens": 7}})
    assert reader.usage == Usage(input=7, cached_input=2, cache_write_5m=3, output=5)
    assert reader.usage_complete
    assert reader.terms == {"service_tier": "flex"}


@pytest.mark.parametrize("value", ["", "-5", "5.0", "1e3", "٣", "9" * 40, "x", "5 "])
def test_a_header_that_is_no_number_counts_nothing(value: str) -> None:
    reader = invoke()
    reader.read_headers({"x-amzn-bedrock-input-token-count": value})
    assert reader.usage is None


def test_embeddings_have_input_alone() -> None:
    for document in ({"embedding": [0.1], "inputTextTokenCount": 7}, {"embeddings": [[0.1]], "texts": ["Hi"]}):
        reader = invoke(max_output_tokens=0)
        reader.read_headers({"x-amzn-bedrock-input-token-count": "7"})
        reader.read_document(document)
        assert reader.usage == Usage(input=7)
        assert reader.usage_complete
        assert not reader.take_text()
    alone = invoke(max_output_tokens=0)
    alone.read_document({"embedding": [0.1], "inputTextTokenCount": 7})
    assert usage_of(alone) == Usage(input=7)
    assert alone.usage_complete


def test_the_maker_names_the_model_only_where_the_request_did_not() -> None:
    named, hidden = invoke(), invoke("arn:aws:bedrock:us-east-1:012345678901:application-inference-profile/abc")
    for reader in (named, hidden):
        reader.read_document(ANTHROPIC)
    assert named.model is None
    assert hidden.model == "claude-haiku-4-5-20251001"


# --- streams of InvokeModel ---

ANTHROPIC_EVENTS = (
    {"type": "message_start", "message": {"model": "claude", "usage": {"input_tokens": 7, "output_tokens": 1}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "there."}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
)
NOVA_EVENTS = (
    {"messageStart": {"role": "assistant"}},
    {"contentBlockDelta": {"delta": {"text": "Hi "}, "contentBlockIndex": 0}},
    {"contentBlockDelta": {"delta": {"text": "there."}, "contentBlockIndex": 0}},
    {"messageStop": {"stopReason": "end_turn"}},
    {"metadata": {"usage": {"inputTokens": 7, "outputTokens": 5, "cacheReadInputTokenCount": 0}}},
)
TITAN_EVENTS = (
    {"outputText": "Hi ", "index": 0, "totalOutputTextTokenCount": None, "inputTextTokenCount": 7},
    {"outputText": "there.", "index": 0, "totalOutputTextTokenCount": 5.0, "inputTextTokenCount": None},
)
LLAMA_EVENTS = (
    {"generation": "Hi ", "prompt_token_count": 7, "generation_token_count": 1, "stop_reason": None},
    {"generation": "there.", "prompt_token_count": None, "generation_token_count": 5, "stop_reason": "stop"},
)
OPENAI_EVENTS = (
    {"choices": [{"index": 0, "delta": {"content": "Hi "}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": "there."}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}},
)
MISTRAL_EVENTS = ({"outputs": [{"text": "Hi ", "stop_reason": None}]}, {"outputs": [{"text": "there."}]})
MISTRAL_CHAT_EVENTS = tuple(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": piece}}]} for piece in ("Hi ", "there.")
)
COHERE_EVENTS = (
    {"index": 0, "is_finished": False, "text": "Hi "},
    {"index": 0, "is_finished": False, "text": "there."},
    {"is_finished": True, "finish_reason": "COMPLETE"},
)
COHERE_CHAT_EVENTS = (
    {"is_finished": False, "event_type": "text-generation", "text": "Hi "},
    {"is_finished": False, "event_type": "text-generation", "text": "there."},
    {"is_finished": True, "event_type": "stream-end", "response": {"text": "Hi there."}},
)
CLAUDE_2_EVENTS = ({"completion": "Hi ", "stop_reason": None}, {"completion": "there.", "stop_reason": "stop"})

STREAMS = (
    *(ANTHROPIC_EVENTS, NOVA_EVENTS, TITAN_EVENTS, LLAMA_EVENTS, OPENAI_EVENTS),
    *(MISTRAL_EVENTS, MISTRAL_CHAT_EVENTS, COHERE_EVENTS, COHERE_CHAT_EVENTS, CLAUDE_2_EVENTS),
)
COUNT_THEMSELVES = STREAMS[:5]


@pytest.mark.parametrize("events", STREAMS, ids=lambda events: ",".join(events[0])[:40])
def test_streams_of_every_maker(events: tuple[Any, ...]) -> None:
    stream = chunks(*events)
    for seed in range(3):
        reader = invoke()
        assert feed(reader, random_chunks(stream, Random(seed))) == stream
        assert reader.usage == Usage(input=7, output=5)
        assert reader.usage_complete
        assert reader.take_text() == "Hi there."
        assert reader.error is None


@pytest.mark.parametrize("events", COUNT_THEMSELVES, ids=lambda events: ",".join(events[0])[:40])
def test_streams_that_count_themselves(events: tuple[Any, ...]) -> None:
    reader = invoke()
    feed(reader, [chunks(*events, metrics={**METRICS, "outputTokenCount": 4})])
    assert reader.usage == Usage(input=7, output=5)
    without = invoke()
    feed(without, [chunks(*events, metrics=None)])
    assert without.usage == Usage(input=7, output=5)
    assert without.usage_complete


@pytest.mark.parametrize("events", STREAMS, ids=lambda events: ",".join(events[0])[:40])
def test_a_stream_that_broke_off_is_not_complete(events: tuple[Any, ...]) -> None:
    reader = invoke()
    feed(reader, [chunks(*events[:1], metrics=None)])
    assert not reader.usage_complete


def test_what_is_no_chunk_is_passed_over() -> None:
    values: tuple[Any, ...] = ({}, {"bytes": 5}, {"bytes": "%%%"}, {"bytes": "e30"}, {"bytes": "bm8="}, [], "x")
    for value in values:
        reader = invoke()
        stream = message("chunk", value)
        assert feed(reader, [stream]) == stream
        assert reader.usage is None
        assert reader.error is None


# --- errors ---


@pytest.mark.parametrize("reader", [converse, invoke])
def test_errors_are_seen(reader: Any) -> None:
    for document, kind in (
        ({"message": "The provided model identifier is invalid."}, "error"),
        ({"__type": "com.amazon#ThrottlingException", "message": "Too many"}, "ThrottlingException"),
        ({"message": "x" * 5000, "__type": "what it says"}, "error"),
    ):
        one = reader()
        one.read_document(document)
        assert one.error == kind
        assert one.usage is None
        skimmed = reader()
        read_members(skimmed, [msgspec.json.encode(document)])
        assert skimmed.error == kind
    named = reader()
    named.read_headers({"x-amzn-errortype": "ValidationException:http://internal.amazon.com/coral/"})
    named.read_document({"message": "no"})
    assert named.error == "ValidationException"


@pytest.mark.parametrize("reader", [converse, invoke])
def test_errors_within_a_stream_are_seen(reader: Any) -> None:
    for name in ("throttlingException", "modelStreamErrorException", "internalServerException"):
        one = reader()
        feed(one, [message(name, {"message": "no"}, kind="exception")])
        assert one.error == name
    for name in ("contentBlockThing", "initial-response", "messageStart"):
        one = reader()
        feed(one, [message(name, {})])
        assert one.error is None


# --- anything else ---


@UNHURRIED
@given(st.data())
def test_documents_of_any_shape_do_not_raise(data: st.DataObject) -> None:
    document = data.draw(st.sampled_from((DOCUMENT, *COUNTED, *UNCOUNTED)))
    changed = data.draw(
        st.one_of(st.just(with_other_values(data, document)), st.dictionaries(st.text(max_size=8), JSON))
    )
    for reader in (converse(), invoke()):
        reader.read_document(changed)
        assert reader.usage is None or min(reader.usage.by_kind().values(), default=0) >= 0
        reader.take_text()


@UNHURRIED
@given(st.data())
def test_events_of_any_shape_do_not_raise(data: st.DataObject) -> None:
    first, second, *_ = data.draw(st.sampled_from(STREAMS))
    stream = chunks(with_other_values(data, first), second)
    for reader in (converse(), invoke()):
        assert feed(reader, [stream]) == stream
        reader.take_text()


@UNHURRIED
@given(st.sampled_from((STREAM, *(chunks(*events) for events in STREAMS))), st.randoms(use_true_random=False))
def test_garbled_streams_pass_and_do_not_raise(stream: bytes, random: Random) -> None:
    broken = garbled(stream, random)
    for reader in (converse(), invoke()):
        assert feed(reader, random_chunks(broken, random)) == broken
        reader.take_text()

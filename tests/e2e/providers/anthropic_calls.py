"""Anthropic's endpoints, by Anthropic's SDK: at Anthropic and at Vertex. Those at Bedrock are with Bedrock's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anthropic

from policyd.core.usage import Usage
from tests.e2e.providers.case import (
    ANSWER,
    API_KEY,
    QUESTION,
    WORDS,
    Answer,
    Caller,
    Case,
    Charge,
    Sdk,
    document,
    events,
)


def _told(error: anthropic.APIStatusError) -> Any:
    body: Any = error.body
    return body["error"]["policyd"]


SDK = Sdk(refused=anthropic.PaymentRequiredError, told=_told, cut=anthropic.APIStatusError)

MODEL = "claude-haiku-4-5"
VERTEX_MODEL = "claude-haiku-4-5@20251001"
VERTEX_PATH = f"/v1/projects/p/locations/global/publishers/anthropic/models/{VERTEX_MODEL}"

INPUT_USAGE = {
    "input_tokens": 31,
    "cache_read_input_tokens": 2000,
    "cache_creation_input_tokens": 700,
    "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 200},
}
CHARGED = Usage(input=31, cached_input=2000, cache_write_5m=500, cache_write_1h=200, output=9)

ASKED: dict[str, Any] = {"max_tokens": 100, "messages": [{"role": "user", "content": QUESTION}]}


BATCHED: Any = {"custom_id": "a", "params": {"model": MODEL, **ASKED}}


def message(*, content: list[Any], output_tokens: int) -> Any:
    return {
        "id": "msg",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": None,
        "usage": {**INPUT_USAGE, "output_tokens": output_tokens},
    }


def message_events(words: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"type": "message_start", "message": message(content=[], output_tokens=1)},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in words),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]


def message_stream(words: Sequence[str]) -> Answer:
    return events(*message_events(words))


WHOLE = document(message(content=[{"type": "text", "text": ANSWER}], output_tokens=9))


def client(caller: Caller) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=caller.url, api_key=API_KEY, http_client=caller.http(anthropic.DefaultHttpxClient)
    )


def vertex(caller: Caller) -> anthropic.AnthropicVertex:
    return anthropic.AnthropicVertex(
        base_url=f"{caller.url}/google/v1",
        region="global",
        project_id="p",
        access_token=API_KEY,
        http_client=caller.http(anthropic.DefaultHttpxClient),
    )


def ask(client: Any, *, model: str = MODEL) -> Any:
    return client.messages.create(model=model, **ASKED).content[0].text


def stream(client: Any, *, model: str = MODEL) -> Any:
    with client.messages.stream(model=model, **ASKED) as reply:
        return "".join(reply.text_stream)


def anthropic_case(name: str, **members: Any) -> Case:
    return Case(**{"id": f"anthropic-{name}", "sdk": SDK, "upstream": "anthropic", "model": MODEL, **members})


CASES = (
    anthropic_case(
        "messages",
        target="/v1/messages",
        ask=lambda caller: ask(client(caller)),
        answer=WHOLE,
        charged=CHARGED,
    ),
    anthropic_case(
        "messages-stream",
        target="/v1/messages",
        ask=lambda caller: stream(client(caller)),
        answer=message_stream(WORDS),
        stream=message_stream,
        charged=CHARGED,
    ),
    anthropic_case(
        "count-tokens",
        target="/v1/messages/count_tokens",
        ask=lambda caller: client(caller).messages.count_tokens(model=MODEL, messages=ASKED["messages"]).input_tokens,
        answer=document({"input_tokens": 31}),
        heard=31,
        charged=Charge.NOTHING,
    ),
    anthropic_case(
        "batches",
        target="/v1/messages/batches",
        ask=lambda caller: client(caller).messages.batches.create(requests=[BATCHED]).processing_status,
        answer=document({"id": "b", "type": "message_batch", "processing_status": "in_progress"}),
        heard="in_progress",
        charged=Charge.HOLD,
    ),
    anthropic_case(
        "vertex",
        upstream="google",
        model=VERTEX_MODEL,
        target=f"{VERTEX_PATH}:rawPredict",
        ask=lambda caller: ask(vertex(caller), model=VERTEX_MODEL),
        answer=WHOLE,
        charged=CHARGED,
    ),
    anthropic_case(
        "vertex-stream",
        upstream="google",
        model=VERTEX_MODEL,
        target=f"{VERTEX_PATH}:streamRawPredict",
        ask=lambda caller: stream(vertex(caller), model=VERTEX_MODEL),
        answer=message_stream(WORDS),
        stream=message_stream,
        charged=CHARGED,
    ),
)

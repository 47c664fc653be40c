"""Cohere's endpoints, both versions, by Cohere's SDK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cohere
import httpx
from cohere.core.api_error import ApiError

from policyd.core.usage import Usage
from tests.e2e.providers.case import (
    ANSWER,
    API_KEY,
    QUESTION,
    WORDS,
    Answer,
    Caller,
    Case,
    Sdk,
    document,
    events,
    lines,
)

SDK = Sdk(refused=ApiError, told=lambda error: error.body["policyd"], cut=None)

MODEL = "command-r-08-2024"

METERED = {
    "billed_units": {"input_tokens": 27, "output_tokens": 9},
    "tokens": {"input_tokens": 556, "output_tokens": 12},
}
CHARGED = Usage(input=27, output=9)


def stream_v2(words: Sequence[str]) -> Answer:
    return events(
        {"type": "message-start", "id": "c", "delta": {"message": {"role": "assistant", "content": []}}},
        {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
        *({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": word}}}} for word in words),
        {"type": "content-end", "index": 0},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": METERED}},
    )


def stream_v1(words: Sequence[str]) -> Answer:
    whole = {"text": "".join(words), "generation_id": "g", "meta": METERED}
    return lines(
        {"is_finished": False, "event_type": "stream-start", "generation_id": "g"},
        *({"is_finished": False, "event_type": "text-generation", "text": word} for word in words),
        {"is_finished": True, "event_type": "stream-end", "finish_reason": "COMPLETE", "response": whole},
        content_type="application/stream+json",
    )


def v1(caller: Caller) -> cohere.Client:
    return cohere.Client(api_key=API_KEY, base_url=f"{caller.url}/cohere", httpx_client=caller.http(httpx.Client))


def v2(caller: Caller) -> cohere.ClientV2:
    return cohere.ClientV2(api_key=API_KEY, base_url=f"{caller.url}/cohere", httpx_client=caller.http(httpx.Client))


def _chat_v2(caller: Caller) -> Any:
    reply: Any = v2(caller).chat(model=MODEL, messages=[cohere.UserChatMessageV2(content=QUESTION)])
    return reply.message.content[0].text


def _stream_v2(caller: Caller) -> Any:
    reply: Any = v2(caller).chat_stream(model=MODEL, messages=[cohere.UserChatMessageV2(content=QUESTION)])
    return "".join(event.delta.message.content.text for event in reply if event.type == "content-delta")


def _stream_v1(caller: Caller) -> Any:
    reply: Any = v1(caller).chat_stream(model=MODEL, message=QUESTION)
    return "".join(event.text for event in reply if event.event_type == "text-generation")


def _embed(caller: Caller) -> Any:
    reply = v2(caller).embed(model="embed-v4.0", texts=[QUESTION], input_type="search_query", embedding_types=["float"])
    return reply.embeddings.float_


def _rerank(caller: Caller) -> Any:
    reply = v2(caller).rerank(model="rerank-v3.5", query=QUESTION, documents=list(WORDS))
    return [result.index for result in reply.results]


def cohere_case(name: str, **members: Any) -> Case:
    return Case(**{"id": f"cohere-{name}", "sdk": SDK, "upstream": "cohere", "model": MODEL, **members})


CASES = (
    cohere_case(
        "v2-chat",
        target="/v2/chat",
        ask=_chat_v2,
        answer=document(
            {
                "id": "c",
                "finish_reason": "COMPLETE",
                "message": {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
                "usage": METERED,
            }
        ),
        charged=CHARGED,
    ),
    cohere_case(
        "v2-chat-stream",
        target="/v2/chat",
        ask=_stream_v2,
        answer=stream_v2(WORDS),
        stream=stream_v2,
        charged=CHARGED,
    ),
    cohere_case(
        "v1-chat",
        target="/v1/chat",
        ask=lambda caller: v1(caller).chat(model=MODEL, message=QUESTION).text,
        answer=document({"text": ANSWER, "generation_id": "g", "finish_reason": "COMPLETE", "meta": METERED}),
        charged=CHARGED,
    ),
    cohere_case(
        "v1-chat-stream",
        target="/v1/chat",
        ask=_stream_v1,
        answer=stream_v1(WORDS),
        stream=stream_v1,
        charged=CHARGED,
    ),
    cohere_case(
        "embed",
        model="embed-v4.0",
        target="/v2/embed",
        ask=_embed,
        answer=document(
            {
                "id": "e",
                "embeddings": {"float": [[0.5]]},
                "texts": [QUESTION],
                "meta": {"billed_units": {"input_tokens": 7}},
            }
        ),
        heard=[[0.5]],
        charged=Usage(input=7),
    ),
    cohere_case(
        "rerank",
        model="rerank-v3.5",
        target="/v2/rerank",
        ask=_rerank,
        answer=document(
            {
                "id": "r",
                "results": [{"index": 2, "relevance_score": 0.9}],
                "meta": {"billed_units": {"search_units": 1}},
            }
        ),
        heard=[2],
        charged=Usage(search_units=1),
    ),
)

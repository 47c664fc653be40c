"""Mistral's endpoints, by Mistral's SDK."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import httpx
from mistralai.client import Mistral
from mistralai.client.errors import MistralError, ResponseValidationError

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
)

SDK = Sdk(refused=MistralError, told=lambda error: json.loads(error.body)["policyd"], cut=ResponseValidationError)

MODEL = "mistral-small-latest"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]

USAGE = {"prompt_tokens": 31, "completion_tokens": 9, "total_tokens": 40}
CHARGED = Usage(input=31, output=9)


def chat_stream(words: Sequence[str]) -> Answer:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    texts = [chunk | {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in words]
    last = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}], "usage": USAGE}
    return events(*texts, chunk | last, done=True)


def client(caller: Caller) -> Any:
    # Its own types ask for a client that httpx's, which it is made for, is not quite.
    return cast(Any, Mistral)(api_key=API_KEY, server_url=f"{caller.url}/mistral", client=caller.http(httpx.Client))


def stream_chat(caller: Caller) -> Any:
    stream: Any = client(caller).chat.stream(model=MODEL, messages=MESSAGES)
    return "".join(event.data.choices[0].delta.content for event in stream)


def read_document(caller: Caller) -> Any:
    reply = client(caller).ocr.process(
        model="mistral-ocr-2505", document={"type": "document_url", "document_url": "https://example.org/a.pdf"}
    )
    return [page.markdown for page in reply.pages]


def mistral_case(name: str, **members: Any) -> Case:
    return Case(**{"id": f"mistral-{name}", "sdk": SDK, "upstream": "mistral", "model": MODEL, **members})


CASES = (
    mistral_case(
        "chat",
        target="/v1/chat/completions",
        ask=lambda caller: client(caller).chat.complete(model=MODEL, messages=MESSAGES).choices[0].message.content,
        answer=document(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": MODEL,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
                "usage": USAGE,
            }
        ),
        charged=CHARGED,
    ),
    mistral_case(
        "chat-stream",
        target="/v1/chat/completions",
        ask=stream_chat,
        answer=chat_stream(WORDS),
        stream=chat_stream,
        charged=CHARGED,
    ),
    mistral_case(
        "embeddings",
        model="mistral-embed",
        target="/v1/embeddings",
        ask=lambda caller: client(caller).embeddings.create(model="mistral-embed", inputs=[QUESTION]).data[0].embedding,
        answer=document(
            {
                "id": "e",
                "object": "list",
                "model": "mistral-embed",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7},
            }
        ),
        heard=[0.5],
        charged=Usage(input=7),
    ),
    mistral_case(
        "ocr",
        model="mistral-ocr-2505",
        target="/v1/ocr",
        ask=read_document,
        answer=document(
            {
                "model": "mistral-ocr-2505",
                "pages": [{"index": 0, "markdown": ANSWER, "images": [], "dimensions": None}],
                "usage_info": {"pages_processed": 1, "doc_size_bytes": 5},
            }
        ),
        heard=[ANSWER],
        charged=Usage(pages=1),
    ),
)

"""Refusals by Cohere's and Ollama's shapes: the official SDKs raise their natural exceptions.

Cohere's raises nothing in a stream that is cut: it hands out the last event, which says that the reply failed and why,
as it does when Cohere itself fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import cohere
import ollama
import pytest
from cohere.core.api_error import ApiError

from policyd.providers.registry import COHERE_CHAT, COHERE_CHAT_V1, COHERE_GENERATE, OLLAMA_CHAT
from tests.providers.replay import event_stream
from tests.providers.test_errors import EXACT, answering, error

HI: list[Any] = [{"role": "user", "content": "Hi"}]
NUMBERS = {"reason": "limit_exceeded", "remaining_usd": float(EXACT), "limits": [{"name": "a"}]}


def cohere_client(address: str) -> Any:
    return cohere.ClientV2(api_key="k", base_url=address, max_retries=0)


def cohere_v1_client(address: str) -> Any:
    return cohere.Client(api_key="k", base_url=address, max_retries=0)


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (400, "BadRequestError"),
        (402, "ApiError"),
        (403, "ForbiddenError"),
        (404, "NotFoundError"),
        (413, "ApiError"),
        (429, "TooManyRequestsError"),
        (500, "InternalServerError"),
        (503, "ServiceUnavailableError"),
    ],
)
def test_cohere_raises_its_natural_exception(status: int, raised: str) -> None:
    with answering(status, COHERE_CHAT.error_body(error(status))) as address:
        asks: list[Callable[[], Any]] = [
            lambda: cohere_client(address).chat(model="m", messages=HI),
            lambda: cohere_v1_client(address).chat(model="m", message="Hi"),
            lambda: cohere_client(address).rerank(model="m", query="q", documents=["d"]),
        ]
        for ask in asks:
            with pytest.raises(ApiError) as caught:
                ask()
            assert type(caught.value).__name__ == raised
            assert caught.value.status_code == status
            assert caught.value.body == {"message": "The budget is spent: 1.00 of 1.00 USD.", "policyd": NUMBERS}


def test_a_cohere_stream_ends_with_an_error() -> None:
    delta = {"message": {"content": {"text": "Hé"}}}
    body = event_stream(("content-delta", {"type": "content-delta", "index": 0, "delta": delta}))
    with answering(200, body + COHERE_CHAT.error_event(error(402)), content_type="text/event-stream") as address:
        first, last = cohere_client(address).chat_stream(model="m", messages=HI)
    assert first.delta.message.content.text == "Hé"
    assert (last.type, last.delta.finish_reason) == ("message-end", "ERROR")
    assert last.delta.error.startswith("The budget is spent")
    assert last.delta.policyd == NUMBERS


def test_a_cohere_v1_stream_ends_with_an_error() -> None:
    body = b'{"event_type":"text-generation","is_finished":false,"text":"Hi"}\n'
    stream_type = "application/stream+json"
    with answering(200, body + COHERE_CHAT_V1.error_event(error(402)), content_type=stream_type) as address:
        first, last = cohere_v1_client(address).chat_stream(model="m", message="Hi")
    assert first.text == "Hi"
    assert (last.event_type, last.finish_reason) == ("stream-end", "ERROR")
    assert last.message.startswith("The budget is spent")
    assert last.policyd == NUMBERS
    with answering(200, body + COHERE_GENERATE.error_event(error(402)), content_type=stream_type) as address:
        first, last = cohere_v1_client(address).generate_stream(prompt="Hi")
    assert (last.event_type, last.finish_reason) == ("stream-error", "ERROR")
    assert last.err.startswith("The budget is spent")


@pytest.mark.parametrize("status", [400, 402, 404, 429, 503])
def test_ollama_raises_its_natural_exception(status: int) -> None:
    with answering(status, OLLAMA_CHAT.error_body(error(status))) as address:
        client: Any = ollama.Client(host=address)
        asks: list[Callable[[], Any]] = [
            lambda: client.chat(model="m", messages=HI),
            lambda: list(client.chat(model="m", messages=HI, stream=True)),
            lambda: client.embed(model="m", input="Hi"),
        ]
        for ask in asks:
            with pytest.raises(ollama.ResponseError) as caught:
                ask()
            assert caught.value.status_code == status
            assert caught.value.error == "The budget is spent: 1.00 of 1.00 USD."
        client.close()


def test_ollama_raises_in_a_stream_that_ends_with_an_error() -> None:
    line = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": "Hé"}}
    body = json.dumps(line | {"done": False}).encode() + b"\n" + OLLAMA_CHAT.error_event(error(402))
    with answering(200, body, content_type="application/x-ndjson") as address:
        client: Any = ollama.Client(host=address)
        stream = client.chat(model="m", messages=HI, stream=True)
        assert next(stream).message.content == "Hé"
        with pytest.raises(ollama.ResponseError, match="The budget is spent"):
            next(stream)
        client.close()

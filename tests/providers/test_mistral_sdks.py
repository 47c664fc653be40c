"""Refusals by Mistral's shapes: its own SDK and OpenAI's, by which many call it, raise their natural exceptions."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from policyd.providers.registry import MISTRAL_CHAT
from tests.providers.replay import event_stream
from tests.providers.test_errors import EXACT, answering, error

HI: list[Any] = [{"role": "user", "content": "Hi"}]
NUMBERS = {"reason": "limit_exceeded", "remaining_usd": float(EXACT), "limits": [{"name": "a"}]}


@pytest.fixture
def mistral() -> Any:
    return pytest.importorskip("mistralai.client")


@pytest.fixture
def mistral_errors() -> Any:
    return pytest.importorskip("mistralai.client.errors")


MISTRAL_ERRORS = [
    (400, "SDKError", "invalid_request_error"),
    (402, "SDKError", "payment_required"),
    (413, "SDKError", "invalid_request_error"),
    (422, "HTTPValidationError", "invalid_request_error"),
    (429, "SDKError", "rate_limited"),
    (503, "SDKError", "internal_error"),
]


@pytest.mark.parametrize(("status", "raised", "kind"), MISTRAL_ERRORS)
def test_mistral_raises_its_natural_exception(
    mistral: Any, mistral_errors: Any, status: int, raised: str, kind: str
) -> None:
    with (
        answering(status, MISTRAL_CHAT.error_body(error(status))) as address,
        mistral.Mistral(api_key="k", server_url=address) as client,
        pytest.raises(mistral_errors.MistralError) as caught,
    ):
        client.chat.complete(model="m", messages=HI)
    assert type(caught.value).__name__ == raised
    assert caught.value.status_code == status
    assert "The budget is spent" in str(caught.value)
    body = json.loads(caught.value.body)
    assert (body["object"], body["type"], body["code"]) == ("error", kind, "limit_exceeded")
    assert body["policyd"] == NUMBERS


CHUNK = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "Hé"}, "finish_reason": None}],
}


def test_mistral_raises_in_a_stream_that_ends_with_an_error(mistral: Any, mistral_errors: Any) -> None:
    body = event_stream(CHUNK) + MISTRAL_CHAT.error_event(error(402))
    with (
        answering(200, body, content_type="text/event-stream") as address,
        mistral.Mistral(api_key="k", server_url=address) as client,
    ):
        stream = iter(client.chat.stream(model="m", messages=HI))
        assert next(stream).data.choices[0].delta.content == "Hé"
        with pytest.raises(mistral_errors.ResponseValidationError):
            next(stream)


def test_openais_sdk_raises_at_mistral_too() -> None:
    with (
        answering(402, MISTRAL_CHAT.error_body(error(402))) as address,
        openai.OpenAI(base_url=address, api_key="k", max_retries=0) as client,
        pytest.raises(openai.APIStatusError, match="The budget is spent") as refused,
    ):
        client.chat.completions.create(model="m", messages=HI)
    assert refused.value.status_code == 402
    body = event_stream(CHUNK) + MISTRAL_CHAT.error_event(error(402))
    with (
        answering(200, body, content_type="text/event-stream") as address,
        openai.OpenAI(base_url=address, api_key="k", max_retries=0) as client,
        pytest.raises(openai.APIError, match="The budget is spent") as cut,
    ):
        list(client.chat.completions.create(model="m", messages=HI, stream=True))
    assert isinstance(cut.value.body, dict)
    assert cut.value.body["policyd"] == NUMBERS

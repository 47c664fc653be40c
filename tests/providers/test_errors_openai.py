"""Refusals on OpenAI's other endpoints: its SDK raises its natural exceptions, before a reply and in mid-stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from policyd.providers.base import WireFormat
from policyd.providers.framing.sse import SseFramer
from policyd.providers.registry import (
    OPENAI_COMPLETIONS,
    OPENAI_EMBEDDINGS,
    OPENAI_IMAGES_EDITS,
    OPENAI_IMAGES_GENERATIONS,
    OPENAI_RERANK,
    OPENAI_RESPONSES,
    OPENAI_RESPONSES_COMPACT,
    OPENAI_SPEECH,
    OPENAI_TRANSCRIPTIONS,
)
from tests.providers.replay import event_stream
from tests.providers.test_errors import answering, error

Call = Callable[[openai.OpenAI], Any]

CALLS: list[tuple[WireFormat, Call]] = [
    (OPENAI_RESPONSES, lambda client: client.responses.create(model="m", input="Hi")),
    (OPENAI_RESPONSES_COMPACT, lambda client: client.responses.compact(model="m", input="Hi")),
    (OPENAI_COMPLETIONS, lambda client: client.completions.create(model="m", prompt="Hi")),
    (OPENAI_EMBEDDINGS, lambda client: client.embeddings.create(model="m", input="Hi")),
    (OPENAI_IMAGES_GENERATIONS, lambda client: client.images.generate(model="m", prompt="a heron")),
    (OPENAI_IMAGES_EDITS, lambda client: client.images.edit(model="m", image=("a", b"1"), prompt="bluer")),
    (OPENAI_SPEECH, lambda client: client.audio.speech.create(model="m", voice="alloy", input="Hi")),
    (OPENAI_TRANSCRIPTIONS, lambda client: client.audio.transcriptions.create(model="m", file=("a", b"1"))),
]

STREAMS: list[tuple[WireFormat, Call, dict[str, Any]]] = [
    (
        OPENAI_RESPONSES,
        lambda client: client.responses.create(model="m", input="Hi", stream=True),
        {"type": "response.output_text.delta", "delta": "Hé", "item_id": "i", "output_index": 0, "content_index": 0},
    ),
    (
        OPENAI_COMPLETIONS,
        lambda client: client.completions.create(model="m", prompt="Hi", stream=True),
        {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": []},
    ),
    (
        OPENAI_IMAGES_GENERATIONS,
        lambda client: client.images.generate(model="m", prompt="a heron", stream=True),
        {"type": "image_generation.partial_image", "b64_json": "aGU=", "partial_image_index": 0},
    ),
    (
        OPENAI_TRANSCRIPTIONS,
        lambda client: client.audio.transcriptions.create(model="m", file=("a", b"1"), stream=True),
        {"type": "transcript.text.delta", "delta": "Hé"},
    ),
]


def named(value: Any) -> str:
    return str(getattr(value, "name", ""))


def client_of(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="k", max_retries=0)


@pytest.mark.parametrize(("wire", "call"), CALLS, ids=named)
@pytest.mark.parametrize(
    ("status", "raised"),
    [(400, openai.BadRequestError), (402, openai.APIStatusError), (429, openai.RateLimitError)],
)
def test_the_sdk_raises_before_a_reply(
    wire: WireFormat, call: Call, status: int, raised: type[openai.APIStatusError]
) -> None:
    with (
        answering(status, wire.error_body(error(status))) as address,
        client_of(address) as client,
        pytest.raises(raised, match="The budget is spent") as caught,
    ):
        call(client)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["policyd"]["limits"] == [{"name": "a"}]


@pytest.mark.parametrize(("wire", "call", "first"), STREAMS, ids=named)
def test_the_sdk_raises_in_a_stream_that_ends_with_an_error(wire: WireFormat, call: Call, first: Any) -> None:
    body = event_stream((first.get("type", ""), first)) + wire.error_event(error(402))
    with (
        answering(200, body, content_type="text/event-stream") as address,
        client_of(address) as client,
    ):
        stream = iter(call(client))
        assert next(stream).model_dump(exclude_unset=True) == first
        with pytest.raises(openai.APIError, match="The budget is spent") as caught:
            next(stream)
    assert (caught.value.type, caught.value.code) == ("insufficient_quota", "budget_exceeded")
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["policyd"]["limits"] == [{"name": "a"}]


@pytest.mark.parametrize("wire", [OPENAI_RESPONSES, OPENAI_SPEECH, OPENAI_EMBEDDINGS, OPENAI_RERANK], ids=named)
def test_error_events_of_typed_streams_are_one_event(wire: WireFormat) -> None:
    frames = SseFramer().feed(wire.error_event(error(429)))
    assert [frame.event for frame in frames] == ["error"]
    shown = json.loads(frames[0].data)
    assert (shown["type"], shown["error"]["code"]) == ("error", "rate_limit_exceeded")

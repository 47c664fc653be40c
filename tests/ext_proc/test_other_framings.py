"""Replies in other framings: a JSON array, an AWS event stream, lines. And one that goes on without its client."""

from __future__ import annotations

import json
from collections.abc import Sequence

from policyd.core.policy import OnDisconnect
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.providers.framing.event_stream import encode_message
from tests.builders import World, limit, policy
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import reply_headers, request_headers, to_json

GEMINI = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
CONVERSE = "/aws/model/amazon.nova-lite-v1%3A0/converse-stream"
OLLAMA = "/ollama/api/chat"
RESPONSES = "/v1/responses"


def gemini_body() -> bytes:
    return to_json({"contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]})


def gemini_element(text: str, **usage: int) -> bytes:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}}
    return to_json({"candidates": [candidate], **({"usageMetadata": usage} if usage else {})})


async def exchanged(
    world: World, path: str, body: bytes, content_type: str, chunks: Sequence[bytes], *, whole: bool = True
) -> Envoy:
    envoy = Envoy(world)
    await envoy.request(request_headers(body, path=path), [body])
    assert envoy.upstream.ended, envoy.client
    if whole:
        await envoy.response(reply_headers(content_type), chunks)
    await envoy.close()
    return envoy


async def test_a_json_array_is_read_element_by_element() -> None:
    world = World(policy())
    last = gemini_element("!", promptTokenCount=4, candidatesTokenCount=3, totalTokenCount=7)
    last = last.replace(b'{"content"', b'{"finishReason":"STOP","content"', 1)
    chunks = [b"[" + gemini_element("Hello"), b",\n" + last, b"\n]"]
    envoy = await exchanged(world, GEMINI, gemini_body(), "application/json; charset=UTF-8", chunks)
    assert envoy.client.body == b"".join(chunks)
    assert world.record.usage == Usage(input=4, output=3)
    assert world.record.usage_source is UsageSource.REPORTED
    assert world.record.streamed


async def test_a_json_array_that_is_cut_is_an_array_still() -> None:
    limits = limit(amount=100_000)
    world = World(policy(limits, default_max_output_tokens=10))
    chunks = [b"[" + gemini_element("Hello there, "), *[b",\n" + gemini_element("and on it goes ")] * 200]
    envoy = await exchanged(world, GEMINI, gemini_body(), "application/json", chunks)
    assert world.record.outcome is Outcome.CUT
    *elements, end = json.loads(envoy.client.body)
    assert elements
    assert all("candidates" in element for element in elements)
    assert end["error"]["details"] or end["error"]["message"]
    assert await world.spent() <= limits.amount


async def test_an_aws_event_stream_is_metered() -> None:
    world = World(policy())
    body = to_json({"messages": [{"role": "user", "content": [{"text": "Say hello."}]}]})

    def message(kind: str, content: object) -> bytes:
        headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
        return encode_message(headers, to_json(content))

    stream = b"".join(
        [
            message("messageStart", {"role": "assistant"}),
            message("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hello"}}),
            message("messageStop", {"stopReason": "end_turn"}),
            message("metadata", {"usage": {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7}}),
        ]
    )
    pieces = [stream[start : start + 7] for start in range(0, len(stream), 7)]
    envoy = await exchanged(world, CONVERSE, body, "application/vnd.amazon.eventstream", pieces)
    assert envoy.client.body == stream
    assert world.record.usage == Usage(input=5, output=2)


async def test_lines_of_json_are_metered() -> None:
    world = World(policy())
    body = to_json({"model": "llama3.2", "messages": [{"role": "user", "content": "Say hello."}]})
    told = {"role": "assistant", "content": "Hello"}
    lines = [
        to_json({"model": "llama3.2", "message": told, "done": False}) + b"\n",
        to_json({"model": "llama3.2", "message": told, "done": True, "prompt_eval_count": 8, "eval_count": 2}),
    ]
    envoy = await exchanged(world, OLLAMA, body, "application/x-ndjson", lines)
    assert envoy.client.body == b"".join(lines)
    assert world.record.usage == Usage(input=8, output=2)


async def test_what_goes_on_without_its_client_is_charged_its_maximum() -> None:
    """A background response can be fetched later, where it costs nothing more: hanging up must not make it free."""
    world = World(policy(on_disconnect=OnDisconnect.OBSERVED))
    body = to_json({"model": "gpt-4o", "input": "Say hello.", "background": True, "max_output_tokens": 300})
    await exchanged(world, RESPONSES, body, "application/json", [], whole=False)
    assert world.record.outcome is Outcome.DISCONNECTED
    assert world.record.usage is not None
    assert world.record.usage.output_tokens == 300

    world = World(policy())
    queued = to_json({"id": "resp_1", "object": "response", "status": "queued", "model": "gpt-4o", "usage": None})
    await exchanged(world, RESPONSES, body, "application/json", [queued])
    assert world.record.outcome is Outcome.SERVED
    assert world.record.usage is not None
    assert world.record.usage.output_tokens == 300

"""What is charged by the piece or by the time, from the request through Envoy to the ledger, at published prices."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from policyd.config import parse_policy
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from tests.builders import World, limit, policy, price_of
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import reply_headers, request_headers, to_json

JSON = "application/json"
USD = 10**9


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    path: str
    request: bytes
    reply: bytes
    usage: Usage
    nanos: int
    content_type: str = JSON
    """The reply's."""
    form: str = ""
    """The boundary of a request that is a form."""
    source: UsageSource = UsageSource.REPORTED


def form(*, file_bytes: int, **fields: str) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in fields.items()]
    file = f'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n{"x" * file_bytes}'
    return "\r\n".join((*parts, file, "--b--\r\n")).encode()


def searched(model: str, **usage: Any) -> bytes:
    return to_json({"model": model, "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5, **usage}})


PDF = "data:application/pdf;base64," + b64encode(bytes(100_000)).decode()
TRANSCRIPTIONS = "/v1/audio/transcriptions"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}
CLAUDE = to_json({"model": "claude-opus-4-6", **CHAT})
MILLISECONDS_HEARD = 8 * 3_000 // 6

CASES = [
    Case(
        "a transcript by the second",
        TRANSCRIPTIONS,
        form(model="whisper-1", file_bytes=9_000),
        to_json({"text": "Good day", "usage": {"type": "duration", "seconds": 6}}),
        Usage(audio_input_ms=6_000),
        USD * 6 * 36 // 360_000,
        form="b",
    ),
    Case(
        "a transcript that does not tell how long the audio was: as long as the file can be",
        TRANSCRIPTIONS,
        form(model="whisper-1", file_bytes=3_000),
        b"Good day",
        Usage(audio_input_ms=MILLISECONDS_HEARD),
        MILLISECONDS_HEARD * 100,
        content_type="text/plain",
        form="b",
        source=UsageSource.NONE,
    ),
    Case(
        "a short transcript of Groq's: ten seconds at least",
        "/groq/openai/v1/audio/transcriptions",
        form(model="whisper-large-v3", file_bytes=9_000),
        to_json({"text": "Good day", "duration": 2.5}),
        Usage(audio_input_ms=10_000),
        USD * 111 // 360_000 + 1,
        form="b",
    ),
    Case(
        "speech by the character, whatever comes back",
        "/v1/audio/speech",
        to_json({"model": "tts-1", "voice": "alloy", "input": "Good day"}),
        b"RIFF....",
        Usage(characters=8),
        8 * 15_000,
        content_type="audio/mpeg",
        source=UsageSource.NONE,
    ),
    Case(
        "images by the piece, by their size and quality",
        "/v1/images/generations",
        to_json({"model": "dall-e-3", "prompt": "a heron", "size": "1792x1024", "quality": "hd", "n": 2}),
        to_json({"created": 1, "data": [{"url": "https://example.org/1"}, {"url": "https://example.org/2"}]}),
        Usage(images_generated=2),
        2 * 120_000_000,
        source=UsageSource.NONE,
    ),
    Case(
        "pages of a document",
        "/mistral/v1/ocr",
        to_json({"model": "mistral-ocr-2512", "document": {"type": "document_url", "document_url": PDF}}),
        to_json({"pages": [], "model": "mistral-ocr-2512", "usage_info": {"pages_processed": 3}}),
        Usage(pages=3),
        3 * 2_000_000,
    ),
    Case(
        "annotated pages",
        "/mistral/v1/ocr",
        to_json(
            {
                "model": "mistral-ocr-2512",
                "document": {"type": "document_url", "document_url": PDF},
                "bbox_annotation_format": {"type": "json_schema"},
            }
        ),
        to_json({"pages": [], "model": "mistral-ocr-2512", "usage_info": {"pages_processed": 3}}),
        Usage(annotated_pages=3),
        3 * 3_000_000,
    ),
    Case(
        "a ranking",
        "/cohere/v2/rerank",
        to_json({"model": "rerank-v3.5", "query": "ponds", "documents": ["a", "b"] * 70}),
        to_json({"results": [], "meta": {"billed_units": {"search_units": 2}}}),
        Usage(search_units=2),
        2 * 2_000_000,
    ),
    Case(
        "images that are embedded",
        "/cohere/v2/embed",
        to_json({"model": "embed-english-v3.0", "images": ["data:image/png;base64,AAAA"]}),
        to_json({"embeddings": {}, "meta": {"billed_units": {"images": 1}}}),
        Usage(images_read=1),
        100_000,
    ),
    Case(
        "a fee for the request",
        "/perplexity/chat/completions",
        to_json({"model": "sonar", **CHAT}),
        searched("sonar", search_context_size="low"),
        Usage(input=10, output=5, requests=1),
        15 * 1_000 + 12_000_000,
    ),
    Case(
        "a search that no reply reports",
        "/v1/chat/completions",
        to_json({"model": "gpt-4o-search-preview", **CHAT}),
        searched("gpt-4o-search-preview-2025-03-11"),
        Usage(input=10, output=5, web_searches=1),
        10 * 2_500 + 5 * 10_000 + 25_000_000,
    ),
    Case(
        "a region that costs more, as the reply says",
        "/v1/messages",
        CLAUDE,
        to_json(
            {
                "type": "message",
                "model": "claude-opus-4-6",
                "usage": {"input_tokens": 10, "output_tokens": 4, "inference_geo": "us"},
            }
        ),
        Usage(input=10, output=4),
        (10 * 5_000 + 4 * 25_000) * 11 // 10,
    ),
    Case(
        "a regional endpoint of Vertex AI",
        "/v1/projects/p/locations/europe-west1/publishers/anthropic/models/claude-sonnet-4-5@20250929:rawPredict",
        to_json({"anthropic_version": "vertex-2023-10-16", **CHAT}),
        to_json(
            {"type": "message", "model": "claude-sonnet-4-5", "usage": {"input_tokens": 10, "output_tokens": 4}},
        ),
        Usage(input=10, output=4),
        (10 * 3_000 + 4 * 15_000) * 11 // 10,
    ),
    Case(
        "tools of a response",
        "/v1/responses",
        to_json(
            {
                "model": "gpt-4.1",
                "input": "Hi",
                "max_output_tokens": 50,
                "tools": [
                    {"type": "file_search"},
                    {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}},
                ],
            }
        ),
        to_json(
            {
                "model": "gpt-4.1",
                "status": "completed",
                "output": [{"type": "file_search_call"}, {"type": "code_interpreter_call", "container_id": "c"}],
                "usage": {"input_tokens": 10, "output_tokens": 5},
            }
        ),
        Usage(input=10, output=5, file_searches=1, code_sessions=1),
        10 * 2_000 + 5 * 8_000 + 2_500_000 + 120_000_000,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_what_is_held_and_charged(case: Case) -> None:
    world = World(policy())
    envoy = Envoy(world)
    content_type = {"content-type": f"multipart/form-data; boundary={case.form}"} if case.form else {}
    await envoy.request({**request_headers(case.request, path=case.path), **content_type}, [case.request])
    assert envoy.upstream.ended, envoy.client
    await envoy.response(reply_headers(case.content_type), [case.reply])
    await envoy.close()
    assert world.record.usage == case.usage
    assert (world.record.outcome, world.record.usage_source) == (Outcome.SERVED, case.source)
    assert await world.spent() == world.record.actual_cost_nanos == case.nanos
    assert world.record.estimated_cost_nanos >= case.nanos, "the hold did not cover the cost"


async def chat_v1(content_type: str, event: bytes) -> bytes:
    """What a client of Cohere v1 gets of a stream that its budget cuts."""
    world = World(policy(limit(amount=10_000_000), default_max_output_tokens=10))
    envoy = Envoy(world)
    body = to_json({"model": "command-a-03-2025", "message": "Hi", "stream": True})
    await envoy.request(request_headers(body, path="/cohere/v1/chat"), [body])
    await envoy.response(reply_headers(content_type), [event] * 1_000)
    await envoy.close()
    assert world.record.outcome is Outcome.CUT
    return envoy.client.body


TEXT = to_json({"event_type": "text-generation", "text": "and on it goes, and on"})


@pytest.mark.parametrize(
    ("content_type", "event", "ends"),
    [
        ("application/stream+json", TEXT + b"\n", (b'{"event_type":"stream-end"', b"}\n")),
        ("text/event-stream", b"data: " + TEXT + b"\n\n", (b'data: {"event_type":"stream-end"', b"}\n\n")),
    ],
)
async def test_a_stream_ends_in_the_framing_that_it_came_in(
    content_type: str, event: bytes, ends: Sequence[bytes]
) -> None:
    told = (await chat_v1(content_type, event)).rpartition(event)[2]
    assert (told.startswith(ends[0]), told.endswith(ends[1])) == (True, True), told


ALIASES = parse_policy(
    """
version: 1
unknown_model: deny
prices:
  - {provider: azure, model: chat-prod, price_as: gpt-4o}
  - provider: aws
    model: "arn:aws:bedrock:*:application-inference-profile/abc"
    price_as: us.anthropic.claude-sonnet-4-5-20250929-v1:0
limits: [{name: budget, cost_usd: 10.00, window: lifetime}]
""",
    source="policyd.yaml",
)


@pytest.mark.parametrize(
    ("served", "nanos"),
    [("gpt-4o-2024-08-06", 10 * 2_500 + 5 * 10_000), ("gpt-4o-mini", 10 * 150 + 5 * 600), ("chat-prod", 75_000)],
)
async def test_a_deployment_costs_what_its_model_does(served: str, nanos: int) -> None:
    """It is held as the model that it is said to be, and charged as the one that the reply names."""
    world = World(ALIASES)
    envoy = Envoy(world)
    body = to_json(CHAT)
    path = "/azure/openai/deployments/chat-prod/chat/completions"
    await envoy.request(request_headers(body, path=path), [body])
    await envoy.response(reply_headers(JSON), [searched(served)])
    await envoy.close()
    assert await world.spent() == nanos


async def test_an_inference_profile_costs_what_its_model_does() -> None:
    world = World(ALIASES)
    envoy = Envoy(world)
    body = to_json({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]})
    arn = "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fabc"
    await envoy.request(request_headers(body, path=f"/bedrock/model/{arn}/converse"), [body])
    await envoy.response(reply_headers(JSON), [to_json({"usage": {"inputTokens": 10, "outputTokens": 4}})])
    await envoy.close()
    price = price_of("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "aws")
    assert world.record.actual_cost_nanos == price.cost_nanos(Usage(input=10, output=4)) > 0

"""The simulated provider, driven by the official SDKs, and on a bare socket where the bytes themselves matter."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import anthropic
import brotli
import httpx
import openai
import pytest
import zstandard
from openai.types.chat import ChatCompletionChunk

from policyd.demo.provider import SimulatedProvider
from policyd.demo.simulated import text
from policyd.demo.simulated.script import Script

TIMEOUT_SECONDS = 10.0
SCRIPTED_TOKENS = 40
HELLO_OPENAI_TOKENS = 3 + 1 + 2 + 3  # message, role, two words, priming


def count_words(written: str) -> int:
    return len(written.split())


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatedProvider]:
    with SimulatedProvider(count_text=count_words) as provider:
        yield provider


@pytest.fixture
def provider(running: SimulatedProvider) -> SimulatedProvider:
    running.wait_until(lambda served: served.requests_open == 0, timeout_seconds=TIMEOUT_SECONDS)
    running.reset()
    return running


@pytest.fixture
def openai_client(provider: SimulatedProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{provider.url}/v1", api_key="made-up", max_retries=0, timeout=TIMEOUT_SECONDS
    ) as client:
        yield client


@pytest.fixture
def anthropic_client(provider: SimulatedProvider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=provider.url, api_key="made-up", max_retries=0, timeout=TIMEOUT_SECONDS
    ) as client:
        yield client


@pytest.fixture
def http(provider: SimulatedProvider) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=provider.url, timeout=TIMEOUT_SECONDS) as client:
        yield client


OPENAI_BODY: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello"}]}
ANTHROPIC_BODY: dict[str, Any] = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Say hello"}],
}
BODIES = {"/v1/chat/completions": OPENAI_BODY, "/v1/messages": ANTHROPIC_BODY}
BOTH_PROVIDERS = pytest.mark.parametrize("path", BODIES)
JSON_AND_SSE = pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])


def ask_openai(client: openai.OpenAI, **headers: str) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Say hello"}], extra_headers=sim(headers)
    )


def stream_openai(
    client: openai.OpenAI, *, include_usage: bool = False, n: int = 1, max_tokens: int | None = None, **headers: str
) -> openai.Stream[ChatCompletionChunk]:
    return client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Say hello"}],
        n=n,
        max_tokens=openai.omit if max_tokens is None else max_tokens,
        stream=True,
        stream_options={"include_usage": True} if include_usage else openai.omit,
        extra_headers=sim(headers),
    )


def ask_anthropic(client: anthropic.Anthropic, *, max_tokens: int = 100, **headers: str) -> anthropic.types.Message:
    return client.messages.create(
        model="claude-sonnet-4-6",
        max_tokens=max_tokens,
        messages=[{"role": "user", "content": "Say hello"}],
        extra_headers=sim(headers),
    )


def stream_anthropic(
    client: anthropic.Anthropic, *, max_tokens: int = 100, **headers: str
) -> anthropic.Stream[anthropic.types.RawMessageStreamEvent]:
    return client.messages.create(
        model="claude-sonnet-4-6",
        max_tokens=max_tokens,
        messages=[{"role": "user", "content": "Say hello"}],
        stream=True,
        extra_headers=sim(headers),
    )


def sim(headers: dict[str, str]) -> dict[str, str]:
    return {f"x-sim-{name.replace('_', '-')}": value for name, value in headers.items()}


def deltas_openai(chunks: list[ChatCompletionChunk], *, choice: int = 0) -> list[str]:
    return [
        each.delta.content for chunk in chunks for each in chunk.choices if each.index == choice and each.delta.content
    ]


def deltas_anthropic(events: list[anthropic.types.RawMessageStreamEvent]) -> list[str]:
    return [
        event.delta.text for event in events if event.type == "content_block_delta" and event.delta.type == "text_delta"
    ]


@dataclass(frozen=True, slots=True)
class RawReply:
    """A reply as it crossed the socket, HTTP/1.1 framing undone by hand."""

    headers: dict[str, str]
    chunks: list[bytes]
    ended_orderly: bool

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


def open_request(provider: SimulatedProvider, path: str, *, stream: bool = False, **headers: str) -> socket.socket:
    """Sends a request and leaves the socket open."""
    body = json.dumps({**BODIES[path], "stream": stream}).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: provider",
        "connection: close",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in sim(headers).items()),
    ]
    host, port = provider.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS)
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return connection


def raw_reply(provider: SimulatedProvider, path: str, *, stream: bool = False, **headers: str) -> RawReply:
    """Reads to the end of the connection. A body with content-length is one chunk here."""
    with open_request(provider, path, stream=stream, **headers) as connection, connection.makefile("rb") as file:
        received = file.read()
    head, _, rest = received.partition(b"\r\n\r\n")
    reply_headers = {
        name.lower(): value for name, value in (line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    }
    if reply_headers.get("transfer-encoding") != "chunked":
        length = int(reply_headers["content-length"])
        return RawReply(reply_headers, [rest], ended_orderly=len(rest) == length)
    chunks: list[bytes] = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return RawReply(reply_headers, chunks, ended_orderly=True)
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return RawReply(reply_headers, chunks, ended_orderly=False)


def events_of(body: bytes) -> list[bytes]:
    return [event for event in body.split(b"\n\n") if event]


class TestText:
    def test_a_token_is_one_word_with_the_space_before_it(self) -> None:
        tokens = [text.token(position=position) for position in range(200)]
        assert "".join(tokens) == text.text(tokens=200)
        assert "".join(tokens).split(" ") == [token.strip() for token in tokens]

    def test_characters_of_one_two_three_and_four_bytes_occur(self) -> None:
        written = text.text(tokens=SCRIPTED_TOKENS)
        assert {len(character.encode()) for character in written} == {1, 2, 3, 4}

    def test_padding_is_about_as_long_as_asked(self) -> None:
        assert 99_000 < len(text.padding(about_bytes=100_000).encode()) <= 100_000


class TestOpenAIChat:
    def test_json(self, openai_client: openai.OpenAI) -> None:
        reply = ask_openai(openai_client)
        choice = reply.choices[0]
        assert (reply.object, reply.model) == ("chat.completion", "gpt-4o")
        assert choice.message.role == "assistant"
        assert choice.message.content is not None
        assert choice.finish_reason == "stop"
        assert reply.usage is not None
        assert reply.usage.completion_tokens == count_words(choice.message.content) == SCRIPTED_TOKENS
        assert reply.usage.prompt_tokens == HELLO_OPENAI_TOKENS
        assert reply.usage.total_tokens == HELLO_OPENAI_TOKENS + SCRIPTED_TOKENS
        assert reply._request_id is not None

    def test_json_fields_stand_in_the_order_of_the_real_provider(self, http: httpx.Client) -> None:
        response = http.post("/v1/chat/completions", json=OPENAI_BODY)
        assert response.headers["content-type"] == "application/json"
        assert response.text.startswith('{\n  "id": "chatcmpl-')
        reply = response.json()
        assert list(reply) == [
            "id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint"
        ]  # fmt: skip
        assert list(reply["choices"][0]) == ["index", "message", "logprobs", "finish_reason"]
        assert list(reply["choices"][0]["message"]) == ["role", "content", "refusal", "annotations"]

    def test_stream_sends_role_then_one_token_a_chunk_then_the_finish_reason(
        self, openai_client: openai.OpenAI
    ) -> None:
        first, *middle, last = stream_openai(openai_client, output_tokens="5")
        assert first.choices[0].delta.role == "assistant"
        assert deltas_openai(middle) == [text.token(position=position) for position in range(5)]
        assert len(middle) == 5
        assert last.choices[0].finish_reason == "stop"
        assert last.choices[0].delta.content is None

    def test_stream_without_include_usage_has_no_usage_field_at_all(self, http: httpx.Client) -> None:
        response = http.post("/v1/chat/completions", json={**OPENAI_BODY, "stream": True})
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        *chunks, done = events_of(response.content)
        assert done == b"data: [DONE]"
        assert response.content.endswith(b"\n\n")
        for chunk in chunks:
            assert list(json.loads(chunk.removeprefix(b"data: "))) == [
                "id", "object", "created", "model", "service_tier", "system_fingerprint", "choices", "obfuscation"
            ]  # fmt: skip

    def test_stream_with_include_usage_reports_it_once_with_no_choices(self, http: httpx.Client) -> None:
        response = http.post(
            "/v1/chat/completions", json={**OPENAI_BODY, "stream": True, "stream_options": {"include_usage": True}}
        )
        *chunks, last = [json.loads(event.removeprefix(b"data: ")) for event in events_of(response.content)[:-1]]
        assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)
        assert last["choices"] == []
        assert last["usage"]["prompt_tokens"] == HELLO_OPENAI_TOKENS
        assert last["usage"]["completion_tokens"] == SCRIPTED_TOKENS

    def test_sdk_reads_the_usage_of_a_stream(self, openai_client: openai.OpenAI) -> None:
        chunks = list(stream_openai(openai_client, include_usage=True))
        usage = chunks[-1].usage
        assert usage is not None
        assert usage.completion_tokens == len(deltas_openai(chunks)) == SCRIPTED_TOKENS

    def test_obfuscation_can_be_declined(self, http: httpx.Client) -> None:
        body = {**OPENAI_BODY, "stream": True, "stream_options": {"include_obfuscation": False}}
        assert b"obfuscation" not in http.post("/v1/chat/completions", json=body).content

    def test_every_choice_is_served_and_counted(self, openai_client: openai.OpenAI) -> None:
        reply = openai_client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Say hello"}], n=3, max_tokens=7
        )
        contents = [choice.message.content for choice in reply.choices]
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        assert len(set(contents)) == 3
        assert [count_words(content) for content in contents if content] == [7, 7, 7]
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 21

    def test_streamed_choices_take_turns(self, openai_client: openai.OpenAI) -> None:
        chunks = list(stream_openai(openai_client, include_usage=True, n=2, max_tokens=4))
        for choice in (0, 1):
            assert deltas_openai(chunks, choice=choice) == [
                text.token(position=position, choice=choice) for position in range(4)
            ]
        finished = [
            (each.index, each.finish_reason) for chunk in chunks for each in chunk.choices if each.finish_reason
        ]
        assert finished == [(0, "length"), (1, "length")]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 8

    @pytest.mark.parametrize(
        ("maxima", "tokens", "finish_reason"),
        [
            ({"max_tokens": 3}, 3, "length"),
            ({"max_completion_tokens": 3}, 3, "length"),
            ({"max_tokens": 9, "max_completion_tokens": 3}, 3, "length"),
            ({"max_tokens": SCRIPTED_TOKENS}, SCRIPTED_TOKENS, "stop"),
            ({"max_tokens": 1000}, SCRIPTED_TOKENS, "stop"),
            ({"max_tokens": None}, SCRIPTED_TOKENS, "stop"),
        ],
    )
    def test_output_is_bounded_by_the_clients_maximum(
        self, http: httpx.Client, maxima: dict[str, int | None], tokens: int, finish_reason: str
    ) -> None:
        reply = http.post("/v1/chat/completions", json={**OPENAI_BODY, **maxima}).json()
        assert reply["usage"]["completion_tokens"] == tokens
        assert count_words(reply["choices"][0]["message"]["content"]) == tokens
        assert reply["choices"][0]["finish_reason"] == finish_reason

    @pytest.mark.parametrize(
        ("fields", "tokens"),
        [
            ({"messages": [{"role": "user", "content": "one two three"}]}, 3 + 1 + 3 + 3),
            ({"messages": [{"role": "user", "name": "ann", "content": "one"}]}, 3 + 1 + 1 + 1 + 1 + 3),
            ({"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}, 2 * 5 + 3),
            (
                {
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "text", "text": "one two"},
                                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                            ],
                        }
                    ]
                },
                3 + 1 + 2 + 3,
            ),
            (
                {
                    "messages": [
                        {
                            "role": "assistant",
                            "content": None,
                            "tool_calls": [
                                {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
                            ],
                        }
                    ]
                },
                3 + 1 + 1 + 2 + 3,
            ),
            ({"tools": [{"type": "function", "function": {"name": "add"}}]}, HELLO_OPENAI_TOKENS + 1),
        ],
        ids=["text", "name", "two-messages", "parts", "tool-calls", "tools"],
    )
    def test_input_tokens_are_counted_from_the_text(
        self, http: httpx.Client, fields: dict[str, Any], tokens: int
    ) -> None:
        reply = http.post("/v1/chat/completions", json={**OPENAI_BODY, **fields}).json()
        assert reply["usage"]["prompt_tokens"] == tokens

    def test_models(self, openai_client: openai.OpenAI) -> None:
        assert "gpt-4o" in [model.id for model in openai_client.models.list()]

    def test_a_path_it_does_not_serve_is_not_found(self, openai_client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            openai_client.embeddings.create(model="text-embedding-3-small", input="hello")
        assert caught.value.type == "invalid_request_error"

    @pytest.mark.parametrize(
        "body",
        [
            b"no JSON",
            b"\xff\xfe",
            b"[]",
            b'{"messages": [{"role": "user", "content": "Say hello"}]}',
            b'{"model": "gpt-4o", "messages": []}',
            b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 0}',
            b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "stream_options": {}}',
        ],
    )
    def test_a_bad_body_is_a_bad_request(self, http: httpx.Client, body: bytes) -> None:
        response = http.post("/v1/chat/completions", content=body)
        assert response.status_code == 400
        assert list(response.json()["error"]) == ["message", "type", "param", "code"]
        assert response.json()["error"]["type"] == "invalid_request_error"


class TestAnthropicMessages:
    def test_json(self, anthropic_client: anthropic.Anthropic) -> None:
        reply = ask_anthropic(anthropic_client)
        block = reply.content[0]
        assert (reply.type, reply.role, reply.model) == ("message", "assistant", "claude-sonnet-4-6")
        assert block.type == "text"
        assert reply.stop_reason == "end_turn"
        assert reply.usage.output_tokens == count_words(block.text) == SCRIPTED_TOKENS
        assert reply.usage.input_tokens == 2
        assert reply.usage.cache_read_input_tokens == reply.usage.cache_creation_input_tokens == 0
        assert reply._request_id is not None

    def test_json_fields_stand_in_the_order_of_the_real_provider(self, http: httpx.Client) -> None:
        response = http.post("/v1/messages", json=ANTHROPIC_BODY)
        assert response.headers["content-type"] == "application/json"
        reply = response.json()
        assert list(reply) == [
            "model", "id", "type", "role", "content", "stop_reason", "stop_sequence", "usage"
        ]  # fmt: skip

    def test_stream_events(self, http: httpx.Client) -> None:
        response = http.post("/v1/messages", json={**ANTHROPIC_BODY, "stream": True, "max_tokens": 3})
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.content.endswith(b"\n\n")
        named = [event.split(b"\n") for event in events_of(response.content)]
        payloads = [json.loads(data.removeprefix(b"data: ")) for _, data in named]
        assert [name for name, _ in named] == [b"event: " + payload["type"].encode() for payload in payloads]
        assert [payload["type"] for payload in payloads] == [
            "message_start",
            "content_block_start",
            "ping",
            *["content_block_delta"] * 3,
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        started, delta = payloads[0]["message"], payloads[-2]
        assert (started["usage"]["input_tokens"], started["usage"]["output_tokens"]) == (2, 1)
        assert (started["content"], started["stop_reason"]) == ([], None)
        assert (delta["usage"]["input_tokens"], delta["usage"]["output_tokens"]) == (2, 3)
        assert delta["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}

    def test_sdk_gathers_a_stream_into_the_message(self, anthropic_client: anthropic.Anthropic) -> None:
        with anthropic_client.messages.stream(
            model="claude-sonnet-4-6", max_tokens=100, messages=[{"role": "user", "content": "Say hello"}]
        ) as stream:
            pieces = list(stream.text_stream)
            final = stream.get_final_message()
        assert pieces == [text.token(position=position) for position in range(SCRIPTED_TOKENS)]
        assert final.usage.output_tokens == SCRIPTED_TOKENS
        assert final.stop_reason == "end_turn"

    @pytest.mark.parametrize(
        ("max_tokens", "tokens", "stop_reason"),
        [(3, 3, "max_tokens"), (SCRIPTED_TOKENS, SCRIPTED_TOKENS, "end_turn"), (1000, SCRIPTED_TOKENS, "end_turn")],
    )
    def test_output_is_bounded_by_the_clients_maximum(
        self, anthropic_client: anthropic.Anthropic, max_tokens: int, tokens: int, stop_reason: str
    ) -> None:
        reply = ask_anthropic(anthropic_client, max_tokens=max_tokens)
        assert (reply.usage.output_tokens, reply.stop_reason) == (tokens, stop_reason)

    @pytest.mark.parametrize(
        ("fields", "tokens"),
        [
            ({"system": "be brief now"}, 3 + 2),
            ({"system": [{"type": "text", "text": "be brief"}]}, 2 + 2),
            ({"tools": [{"name": "add", "input_schema": {"type": "object"}}]}, 1 + 2),
            (
                {
                    "messages": [
                        {"role": "assistant", "content": [{"type": "tool_use", "name": "add", "input": {"a": 1}}]},
                        {
                            "role": "user",
                            "content": [
                                {"type": "tool_result", "content": [{"type": "text", "text": "one two"}]},
                                {"type": "tool_result", "content": "three"},
                                {"type": "image", "source": {"type": "base64", "data": "AAAA"}},
                            ],
                        },
                    ]
                },
                2 + 2 + 1,
            ),
        ],
        ids=["system", "system-blocks", "tools", "tool-turns"],
    )
    def test_input_tokens_are_counted_from_the_text(
        self, http: httpx.Client, fields: dict[str, Any], tokens: int
    ) -> None:
        body = {**ANTHROPIC_BODY, **fields}
        assert http.post("/v1/messages", json=body).json()["usage"]["input_tokens"] == tokens
        del body["max_tokens"]
        assert http.post("/v1/messages/count_tokens", json=body).json() == {"input_tokens": tokens}

    def test_sdk_counts_tokens(self, anthropic_client: anthropic.Anthropic) -> None:
        counted = anthropic_client.messages.count_tokens(
            model="claude-sonnet-4-6", messages=[{"role": "user", "content": "Say hello"}]
        )
        assert counted.input_tokens == 2

    @pytest.mark.parametrize("body", [b"no JSON", b"{}", json.dumps({**ANTHROPIC_BODY, "max_tokens": 0}).encode()])
    def test_a_bad_body_is_a_bad_request(self, http: httpx.Client, body: bytes) -> None:
        response = http.post("/v1/messages", content=body)
        assert response.status_code == 400
        assert response.json()["type"] == "error"
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert response.json()["request_id"] == response.headers["request-id"]

    def test_a_path_it_does_not_serve_is_not_found(self, http: httpx.Client) -> None:
        response = http.get("/v1/messages/batches")
        assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


class TestScript:
    """One test a header of `Script`, at least."""

    def test_output_tokens(self, openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic) -> None:
        chunks = list(stream_openai(openai_client, include_usage=True, output_tokens="500"))
        assert len(deltas_openai(chunks)) == 500
        assert ask_anthropic(anthropic_client, max_tokens=1000, output_tokens="7").usage.output_tokens == 7

    @JSON_AND_SSE
    @BOTH_PROVIDERS
    def test_output_tokens_may_be_zero(self, provider: SimulatedProvider, path: str, stream: bool) -> None:
        assert raw_reply(provider, path, stream=stream, output_tokens="0").ended_orderly
        assert provider.served.output_tokens == 0

    def test_model(self, openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic) -> None:
        assert ask_openai(openai_client, model="gpt-4o-2024-08-06").model == "gpt-4o-2024-08-06"
        assert {chunk.model for chunk in stream_openai(openai_client, model="other")} == {"other"}
        assert ask_anthropic(anthropic_client, model="claude-x").model == "claude-x"
        started = next(iter(stream_anthropic(anthropic_client, model="claude-x")))
        assert started.type == "message_start"
        assert started.message.model == "claude-x"

    @JSON_AND_SSE
    @BOTH_PROVIDERS
    def test_no_usage(self, http: httpx.Client, path: str, stream: bool) -> None:
        body = {**BODIES[path], "stream": stream}
        if stream and path == "/v1/chat/completions":
            body["stream_options"] = {"include_usage": True}
        assert b'"usage"' in http.post(path, json=body).content
        assert b'"usage"' not in http.post(path, json=body, headers={"x-sim-no-usage": "1"}).content

    def test_no_usage_leaves_the_sdk_with_none(self, openai_client: openai.OpenAI) -> None:
        assert ask_openai(openai_client, no_usage="1").usage is None
        chunks = list(stream_openai(openai_client, include_usage=True, no_usage="1"))
        assert all(chunk.usage is None and chunk.choices for chunk in chunks)

    @BOTH_PROVIDERS
    def test_pad_bytes_leaves_the_usage_as_it_is(self, http: httpx.Client, path: str) -> None:
        plain = http.post(path, json=BODIES[path])
        padded = http.post(path, json=BODIES[path], headers={"x-sim-pad-bytes": "3000000"})
        assert 2_990_000 < len(padded.content) - len(plain.content) <= 3_000_000
        assert padded.json()["usage"] == plain.json()["usage"]
        assert int(padded.headers["content-length"]) == len(padded.content)

    @pytest.mark.parametrize(
        ("status", "exception", "kind"),
        [
            (400, openai.BadRequestError, "invalid_request_error"),
            (401, openai.AuthenticationError, "invalid_request_error"),
            (429, openai.RateLimitError, "requests"),
            (500, openai.InternalServerError, "server_error"),
            (503, openai.InternalServerError, "server_error"),
        ],
    )
    @JSON_AND_SSE
    def test_status_openai(
        self, openai_client: openai.OpenAI, status: int, exception: type[openai.APIStatusError], kind: str, stream: bool
    ) -> None:
        ask: Callable[..., object] = stream_openai if stream else ask_openai
        with pytest.raises(exception) as caught:
            ask(openai_client, status=str(status))
        assert (caught.value.status_code, caught.value.type) == (status, kind)

    @pytest.mark.parametrize(
        ("status", "exception", "kind"),
        [
            (400, anthropic.BadRequestError, "invalid_request_error"),
            (402, anthropic.APIStatusError, "billing_error"),
            (429, anthropic.RateLimitError, "rate_limit_error"),
            (500, anthropic.InternalServerError, "api_error"),
            (529, anthropic.InternalServerError, "overloaded_error"),
        ],
    )
    @JSON_AND_SSE
    def test_status_anthropic(
        self,
        anthropic_client: anthropic.Anthropic,
        status: int,
        exception: type[anthropic.APIStatusError],
        kind: str,
        stream: bool,
    ) -> None:
        ask: Callable[..., object] = stream_anthropic if stream else ask_anthropic
        with pytest.raises(exception) as caught:
            ask(anthropic_client, status=str(status))
        assert caught.value.status_code == status
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["type"] == "error"
        assert caught.value.body["error"]["type"] == kind

    def test_error_after_chunks_openai(self, openai_client: openai.OpenAI) -> None:
        chunks: list[ChatCompletionChunk] = []
        with pytest.raises(openai.APIError) as caught:
            chunks.extend(stream_openai(openai_client, error_after_chunks="4"))
        assert len(deltas_openai(chunks)) == 3
        assert caught.value.type == "server_error"
        assert not isinstance(caught.value, openai.APIStatusError)

    def test_error_after_chunks_anthropic(
        self, provider: SimulatedProvider, anthropic_client: anthropic.Anthropic
    ) -> None:
        events: list[anthropic.types.RawMessageStreamEvent] = []
        with pytest.raises(anthropic.APIStatusError) as caught:
            events.extend(stream_anthropic(anthropic_client, error_after_chunks="5"))
        assert len(deltas_anthropic(events)) == 2
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["error"]["type"] == "overloaded_error"
        assert provider.served.output_tokens == 2
        assert (provider.served.requests_failed, provider.served.requests_completed) == (1, 0)

    @BOTH_PROVIDERS
    def test_error_after_chunks_ends_the_stream_in_good_order(self, provider: SimulatedProvider, path: str) -> None:
        reply = raw_reply(provider, path, stream=True, error_after_chunks="2")
        assert reply.ended_orderly
        assert b'"error"' in events_of(reply.body)[-1]
        assert b"[DONE]" not in reply.body
        assert b"message_stop" not in reply.body

    def test_reset_after_chunks_openai(self, openai_client: openai.OpenAI) -> None:
        chunks: list[ChatCompletionChunk] = []
        with pytest.raises(openai.APIConnectionError):
            chunks.extend(stream_openai(openai_client, reset_after_chunks="6"))
        assert len(deltas_openai(chunks)) == 5

    @BOTH_PROVIDERS
    @pytest.mark.parametrize("after", [0, 1, 20])
    def test_reset_after_chunks_leaves_a_stream_without_its_end(
        self, provider: SimulatedProvider, path: str, after: int
    ) -> None:
        reply = raw_reply(provider, path, stream=True, reset_after_chunks=str(after))
        assert len(reply.chunks) == after
        assert not reply.ended_orderly
        assert provider.served.requests_broken_off == 1
        assert provider.served.requests_completed == 0

    @JSON_AND_SSE
    @BOTH_PROVIDERS
    def test_reset_after_more_chunks_than_there_are_still_withholds_the_last(
        self, provider: SimulatedProvider, path: str, stream: bool
    ) -> None:
        whole = raw_reply(provider, path, stream=stream, chunk_bytes="100")
        broken = raw_reply(provider, path, stream=stream, chunk_bytes="100", reset_after_chunks="1000")
        assert whole.ended_orderly
        assert not broken.ended_orderly
        assert 0 < len(whole.body) - len(broken.body) <= 100

    @BOTH_PROVIDERS
    def test_delay_ms(self, http: httpx.Client, path: str) -> None:
        began = time.monotonic()
        http.post(path, json=BODIES[path], headers={"x-sim-delay-ms": "150"})
        assert time.monotonic() - began >= 0.15

    def test_chunk_delay_ms_is_spent_between_all_chunks(self, openai_client: openai.OpenAI) -> None:
        began = time.monotonic()
        chunks = list(stream_openai(openai_client, chunk_delay_ms="40", output_tokens="4"))
        assert len(chunks) == 6
        assert time.monotonic() - began >= 6 * 0.04  # six chunks, and `[DONE]` after them

    def test_chunk_delay_ms_does_not_hold_up_the_first_chunk(self, provider: SimulatedProvider) -> None:
        with open_request(provider, "/v1/messages", stream=True, chunk_delay_ms="60000") as connection:
            received = b""
            while b"message_start" not in received:
                received += connection.recv(65536)
        assert b"content_block_start" not in received

    @JSON_AND_SSE
    @BOTH_PROVIDERS
    def test_chunk_bytes_cuts_inside_characters(self, provider: SimulatedProvider, path: str, stream: bool) -> None:
        reply = raw_reply(provider, path, stream=stream, chunk_bytes="7", unknown_length="1")
        assert reply.ended_orderly
        assert {len(chunk) for chunk in reply.chunks[:-1]} == {7}
        assert any(is_cut_inside_a_character(left, right) for left, right in pairwise(reply.chunks))
        assert "😀" in reply.body.decode()

    def test_chunk_bytes_joins_events_too(self, openai_client: openai.OpenAI, provider: SimulatedProvider) -> None:
        reply = raw_reply(provider, "/v1/chat/completions", stream=True, chunk_bytes="1000")
        assert {len(chunk) for chunk in reply.chunks[:-1]} == {1000}
        assert len(deltas_openai(list(stream_openai(openai_client, chunk_bytes="3")))) == SCRIPTED_TOKENS

    def test_chunk_bytes_counts_every_token(self, provider: SimulatedProvider) -> None:
        for size in ("1", "3", "1000", "1000000"):
            provider.reset()
            raw_reply(provider, "/v1/messages", stream=True, chunk_bytes=size)
            assert provider.served.output_tokens == SCRIPTED_TOKENS

    @BOTH_PROVIDERS
    def test_crlf(self, provider: SimulatedProvider, path: str) -> None:
        reply = raw_reply(provider, path, stream=True, crlf="1")
        assert reply.body.count(b"\r\n") == reply.body.count(b"\n") > 0
        assert reply.body.endswith(b"\r\n\r\n")

    def test_sdks_read_crlf(self, openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic) -> None:
        assert len(deltas_openai(list(stream_openai(openai_client, crlf="1")))) == SCRIPTED_TOKENS
        assert len(deltas_anthropic(list(stream_anthropic(anthropic_client, crlf="1")))) == SCRIPTED_TOKENS

    @pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
    @JSON_AND_SSE
    @BOTH_PROVIDERS
    def test_encoding_compresses_though_identity_was_asked_for(
        self, http: httpx.Client, path: str, stream: bool, encoding: str
    ) -> None:
        response = http.post(
            path,
            json={**BODIES[path], "stream": stream, "model": "marker"},
            headers={"accept-encoding": "identity", "x-sim-encoding": encoding},
        )
        assert response.headers["content-encoding"] == encoding
        assert "marker" in response.text
        assert response.text.rstrip().endswith("[DONE]" if stream and path == "/v1/chat/completions" else "}")

    @pytest.mark.parametrize("encoding", ["gzip", "br"])
    def test_sdks_read_what_their_http_client_decodes(
        self, openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic, encoding: str
    ) -> None:
        assert ask_openai(openai_client, encoding=encoding).usage is not None
        assert len(deltas_openai(list(stream_openai(openai_client, encoding=encoding)))) == SCRIPTED_TOKENS
        assert len(deltas_anthropic(list(stream_anthropic(anthropic_client, encoding=encoding)))) == SCRIPTED_TOKENS

    @pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
    def test_encoding_is_flushed_after_each_event(self, provider: SimulatedProvider, encoding: str) -> None:
        reply = raw_reply(provider, "/v1/messages", stream=True, encoding=encoding)
        decode = incremental_decoder(encoding)
        events = [decode(chunk) for chunk in reply.chunks]
        assert all(event.startswith(b"event: ") and event.endswith(b"\n\n") for event in events[:-1])
        assert events[-1] == b""  # the trailer of the encoding

    @JSON_AND_SSE
    def test_encoding_goes_with_chunk_bytes(
        self, anthropic_client: anthropic.Anthropic, http: httpx.Client, stream: bool
    ) -> None:
        headers = {"x-sim-encoding": "gzip", "x-sim-chunk-bytes": "5"}
        plain = http.post("/v1/messages", json={**ANTHROPIC_BODY, "stream": stream})
        cut = http.post("/v1/messages", json={**ANTHROPIC_BODY, "stream": stream}, headers=headers)
        assert without_ids(cut.text) == without_ids(plain.text)

    @BOTH_PROVIDERS
    def test_unknown_length(self, http: httpx.Client, path: str) -> None:
        known = http.post(path, json=BODIES[path])
        unknown = http.post(path, json=BODIES[path], headers={"x-sim-unknown-length": "1"})
        assert int(known.headers["content-length"]) == len(known.content)
        assert "content-length" not in unknown.headers
        assert unknown.headers["transfer-encoding"] == "chunked"
        assert unknown.json()["usage"] == known.json()["usage"]

    def test_a_large_reply_is_written_in_pieces(self, provider: SimulatedProvider) -> None:
        reply = raw_reply(provider, "/v1/messages", pad_bytes="1000000", unknown_length="1")
        assert max(map(len, reply.chunks)) == 64 * 1024
        assert json.loads(reply.body)["usage"]["output_tokens"] == SCRIPTED_TOKENS

    @pytest.mark.parametrize(
        "headers",
        [
            {"x-sim-outputtokens": "3"},
            {"x-sim-output-tokens": "three"},
            {"x-sim-output-tokens": "-1"},
            {"x-sim-chunk-bytes": "0"},
            {"x-sim-status": "200"},
            {"x-sim-no-usage": "yes"},
            {"x-sim-encoding": "deflate"},
        ],
        ids=str,
    )
    @BOTH_PROVIDERS
    def test_a_header_it_does_not_understand_is_a_bad_request(
        self, http: httpx.Client, path: str, headers: dict[str, str]
    ) -> None:
        response = http.post(path, json=BODIES[path], headers=headers)
        assert response.status_code == 400
        assert next(iter(headers)) in response.json()["error"]["message"]

    def test_headers_of_others_are_left_alone(self) -> None:
        assert Script.from_headers({"user-agent": "sdk", "x-simple": "1"}) == Script()


def is_cut_inside_a_character(left: bytes, right: bytes) -> bool:
    """Whether the right piece begins with a continuation byte of UTF-8."""
    return bool(left) and right[0] & 0b1100_0000 == 0b1000_0000


def incremental_decoder(encoding: str) -> Callable[[bytes], bytes]:
    if encoding == "gzip":
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS).decompress
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress
    decompressor = brotli.Decompressor()

    def decode(data: bytes) -> bytes:
        return bytes(decompressor.process(data))

    return decode


def without_ids(written: str) -> str:
    before, _, after = written.partition('"id":"')
    return before + after[after.index('"') :]


class TestServed:
    def test_counts_what_was_served(
        self, provider: SimulatedProvider, openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic
    ) -> None:
        ask_openai(openai_client)
        list(stream_anthropic(anthropic_client, output_tokens="5"))
        with pytest.raises(openai.RateLimitError):
            ask_openai(openai_client, status="429")
        served = provider.served
        assert served.requests_received == {"/v1/chat/completions": 2, "/v1/messages": 1}
        assert (served.requests_completed, served.requests_failed, served.requests_open) == (2, 1, 0)
        assert served.input_tokens == HELLO_OPENAI_TOKENS + 2
        assert served.output_tokens == SCRIPTED_TOKENS + 5

    @JSON_AND_SSE
    @BOTH_PROVIDERS
    def test_counts_bytes(self, provider: SimulatedProvider, http: httpx.Client, path: str, stream: bool) -> None:
        request = http.build_request("POST", path, json={**BODIES[path], "stream": stream})
        response = http.send(request)
        assert provider.served.bytes_received == len(request.content)
        assert provider.served.bytes_sent == len(response.content)

    @pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
    def test_counts_bytes_as_encoded(self, provider: SimulatedProvider, encoding: str) -> None:
        reply = raw_reply(provider, "/v1/messages", encoding=encoding)
        assert provider.served.bytes_sent == len(reply.body) == int(reply.headers["content-length"])

    def test_keeps_the_last_request_byte_for_byte(self, provider: SimulatedProvider, http: httpx.Client) -> None:
        body = b'{ "model":"gpt-4o",\n "messages":[{"role":"user","content":"caf\\u00e9 \xc3\xa9"}] , "x": 1.0 }'
        http.post(
            "/v1/chat/completions?team=a%20b&team=c",
            content=body,
            headers=[("X-Twice", "one"), ("x-twice", "two"), ("authorization", "Bearer made-up")],
        )
        last = provider.served.last_request
        assert last is not None
        assert (last.method, last.path) == ("POST", "/v1/chat/completions")
        assert last.target == "/v1/chat/completions?team=a%20b&team=c"
        assert last.body == body
        assert [value for name, value in last.headers if name == "x-twice"] == ["one", "two"]
        assert ("authorization", "Bearer made-up") in last.headers

    def test_stats_as_json(self, provider: SimulatedProvider, http: httpx.Client) -> None:
        http.post("/v1/messages", content=b"\xff not JSON")
        stats = http.get("/_sim/stats").json()
        assert stats["requests_received"] == {"/v1/messages": 1}
        assert stats["requests_failed"] == 1
        assert b64decode(stats["last_request"]["body"]) == b"\xff not JSON"
        assert ["host", provider.url.removeprefix("http://")] in stats["last_request"]["headers"]

    def test_reset(self, provider: SimulatedProvider, http: httpx.Client) -> None:
        http.post("/v1/messages", json=ANTHROPIC_BODY)
        assert http.post("/_sim/reset").status_code == 204
        served = provider.served
        assert (served.requests_received, served.output_tokens, served.last_request) == ({}, 0, None)

    def test_a_stream_that_the_client_leaves_is_cancelled(
        self, provider: SimulatedProvider, openai_client: openai.OpenAI
    ) -> None:
        stream = stream_openai(openai_client, output_tokens="100000", chunk_delay_ms="5")
        seen = deltas_openai([next(stream) for _ in range(4)])
        stream.close()
        served = provider.wait_until(lambda served: served.requests_open == 0, timeout_seconds=TIMEOUT_SECONDS)
        assert (served.streams_cancelled, served.requests_completed) == (1, 0)
        assert len(seen) <= served.output_tokens < 100_000

    def test_a_stream_without_pauses_notices_the_hang_up_too(self, provider: SimulatedProvider) -> None:
        with open_request(provider, "/v1/chat/completions", stream=True, output_tokens="1000000"):
            provider.wait_until(lambda served: served.output_tokens > 0, timeout_seconds=TIMEOUT_SECONDS)
        served = provider.wait_until(lambda served: served.requests_open == 0, timeout_seconds=TIMEOUT_SECONDS)
        assert (served.streams_cancelled, served.requests_completed) == (1, 0)
        assert served.output_tokens < 1_000_000

    def test_a_large_body_that_the_client_stops_reading_is_cancelled(self, provider: SimulatedProvider) -> None:
        with open_request(provider, "/v1/messages", pad_bytes="50000000"):
            provider.wait_until(lambda served: served.bytes_sent > 0, timeout_seconds=TIMEOUT_SECONDS)
        served = provider.wait_until(lambda served: served.requests_open == 0, timeout_seconds=TIMEOUT_SECONDS)
        assert (served.streams_cancelled, served.requests_completed) == (1, 0)
        assert served.bytes_sent < 50_000_000

    def test_a_request_left_before_its_reply_is_abandoned(self, provider: SimulatedProvider) -> None:
        with open_request(provider, "/v1/messages", delay_ms="60000"):
            provider.wait_until(lambda served: served.last_request is not None, timeout_seconds=TIMEOUT_SECONDS)
        served = provider.wait_until(lambda served: served.requests_open == 0, timeout_seconds=TIMEOUT_SECONDS)
        assert (served.requests_abandoned, served.streams_cancelled) == (1, 0)
        assert served.input_tokens == served.output_tokens == 0

    def test_an_unfinished_request_is_received_and_abandoned(self, provider: SimulatedProvider) -> None:
        host, port = provider.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: provider\r\ncontent-length: 100\r\n\r\nhalf")
            provider.wait_until(lambda served: served.requests_open == 1, timeout_seconds=TIMEOUT_SECONDS)
        served = provider.wait_until(lambda served: served.requests_open == 0, timeout_seconds=TIMEOUT_SECONDS)
        assert (served.requests_received, served.requests_abandoned) == ({"/v1/messages": 1}, 1)
        assert served.last_request is None

    def test_reset_keeps_the_requests_that_are_open(self, provider: SimulatedProvider) -> None:
        with open_request(provider, "/v1/messages", delay_ms="60000"):
            provider.wait_until(lambda served: served.requests_open == 1, timeout_seconds=TIMEOUT_SECONDS)
            provider.reset()
            assert provider.served.requests_open == 1
        served = provider.wait_until(lambda served: served.requests_open == 0, timeout_seconds=TIMEOUT_SECONDS)
        assert served.requests_abandoned == 1

    def test_waiting_for_what_never_comes_ends(self, provider: SimulatedProvider) -> None:
        with pytest.raises(TimeoutError, match="requests_completed=0"):
            provider.wait_until(lambda served: served.requests_completed == 1, timeout_seconds=0.01)


class TestServing:
    async def test_in_the_running_event_loop(self) -> None:
        async with SimulatedProvider(count_text=count_words) as provider:
            client = openai.AsyncOpenAI(base_url=f"{provider.url}/v1", api_key="made-up", max_retries=0)
            async with client:
                stream = await client.chat.completions.create(
                    model="gpt-4o", messages=[{"role": "user", "content": "Say hello"}], stream=True
                )
                chunks = [chunk async for chunk in stream]
            async with anthropic.AsyncAnthropic(base_url=provider.url, api_key="made-up") as claude:
                reply = await claude.messages.create(
                    model="claude-sonnet-4-6", max_tokens=5, messages=[{"role": "user", "content": "Say hello"}]
                )
            assert len(deltas_openai(chunks)) == SCRIPTED_TOKENS
            assert reply.usage.output_tokens == 5
            assert provider.served.requests_completed == 2

    async def test_200_concurrent_streams(self) -> None:
        async with (
            SimulatedProvider(count_text=count_words) as provider,
            httpx.AsyncClient(base_url=provider.url, timeout=30, limits=httpx.Limits(max_connections=None)) as client,
        ):
            body = {**ANTHROPIC_BODY, "stream": True}
            replies = await asyncio.gather(*[client.post("/v1/messages", json=body) for _ in range(200)])
            assert {reply.status_code for reply in replies} == {200}
            assert provider.served.requests_completed == 200
            assert provider.served.output_tokens == 200 * SCRIPTED_TOKENS

    def test_has_no_address_before_it_is_entered(self) -> None:
        with pytest.raises(RuntimeError, match="address"):
            _ = SimulatedProvider(count_text=count_words).url

    def test_its_port_is_free_after_it_stops(self) -> None:
        with SimulatedProvider(count_text=count_words) as provider:
            port = int(provider.url.rpartition(":")[2])
        with SimulatedProvider(count_text=count_words, port=port) as again:
            assert httpx.get(f"{again.url}/v1/models").status_code == 200

    def test_a_port_that_is_taken_is_an_error(self, provider: SimulatedProvider) -> None:
        port = int(provider.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            SimulatedProvider(count_text=count_words, port=port).__enter__()

    @pytest.mark.parametrize("headers", [{"chunk_delay_ms": "60000"}, {"pad_bytes": "50000000"}], ids=str)
    def test_stops_quietly_with_a_reply_open(self, headers: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
        with ExitStack() as connections:
            with SimulatedProvider(count_text=count_words) as provider:
                stream = "pad_bytes" not in headers
                connections.enter_context(open_request(provider, "/v1/messages", stream=stream, **headers))
                provider.wait_until(lambda served: served.bytes_sent > 0, timeout_seconds=TIMEOUT_SECONDS)
                began = time.monotonic()
            assert time.monotonic() - began < TIMEOUT_SECONDS
        assert provider.served.streams_cancelled == 1
        assert caplog.records == []

    async def test_leaves_the_signals_of_the_process_alone(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        async with SimulatedProvider(count_text=count_words):
            assert signal.getsignal(signal.SIGINT) is before

    def test_importing_it_loads_no_web_framework(self) -> None:
        script = (
            "import sys, policyd.demo.provider\n"
            "print(sorted({'starlette', 'uvicorn', 'brotli', 'zstandard'} & set(sys.modules)))"
        )
        loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert loaded.stdout.strip() == "[]"

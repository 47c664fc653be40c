"""The reply's side: however a reply is framed, encoded and cut into pieces, it reaches the client and is metered."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.core.money import format_usd
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.ext_proc import messages as m
from policyd.ext_proc.document import KEPT_BYTES_MAX
from policyd.ext_proc.messages import BodyMode
from policyd.ext_proc.settings import ExchangeSettings
from tests.builders import COUNTER, World, limit, policy, price_of
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import (
    CHAT_USED,
    COMPRESS,
    DONE,
    MESSAGE_USED,
    SSE,
    chat,
    chat_reply,
    chat_stream,
    flushed,
    messages,
    reply_headers,
    request_headers,
    usage_chunk,
)

FULL_DUPLEX = BodyMode.FULL_DUPLEX_STREAMED

COST_HEADERS = {
    "x-policyd-input-tokens": "9",
    "x-policyd-output-tokens": "12",
    "x-policyd-cost-usd": format_usd(price_of("gpt-4o").cost_nanos(CHAT_USED)),
}


async def answered(
    world: World,
    headers: Mapping[str, str],
    chunks: Sequence[bytes],
    *,
    body: bytes | None = None,
    path: str = wire.CHAT_PATH,
    trailers: bool = False,
    **envoy_settings: Any,
) -> Envoy:
    """A request, its reply, and the end."""
    envoy = Envoy(world, **envoy_settings)
    body = chat(stream=True) if body is None else body
    await envoy.request(request_headers(body, path=path), [body])
    assert envoy.upstream.ended
    await envoy.response(headers, chunks, trailers=trailers)
    await envoy.close()
    return envoy


def added(envoy: Envoy) -> dict[str, str]:
    """The headers that tell the client what it used."""
    return {name: value for name, value in envoy.client.headers.items() if name in COST_HEADERS}


def visible(events: Sequence[bytes]) -> bytes:
    """What a client sees that did not ask for usage."""
    return b"".join(each for each in events if each != usage_chunk())


class TestDocuments:
    async def test_of_a_known_length_is_buffered_and_carries_its_cost(self, world: World) -> None:
        reply = chat_reply()
        envoy = await answered(world, reply_headers(length=len(reply)), [reply[:50], reply[50:]], body=chat())
        assert envoy.client.body == reply
        assert added(envoy) == COST_HEADERS
        assert world.record.usage == CHAT_USED
        assert world.record.usage_source is UsageSource.REPORTED
        assert world.record.actual_cost_nanos == price_of("gpt-4o").cost_nanos(CHAT_USED) == await world.spent()
        assert (world.record.outcome, world.record.status, world.record.streamed) == (Outcome.SERVED, 200, False)
        assert world.record.response_model == "gpt-4o-2024-08-06"

    async def test_decision_headers(self, world: World) -> None:
        reply = chat_reply()
        envoy = await answered(world, reply_headers(length=len(reply)), [reply], body=chat(max_tokens=100))
        price = price_of("gpt-4o")
        held = price.cost_nanos(Usage(input=10, output=100))
        names = ("request-id", "decision", "estimated-input-tokens", "estimated-output-tokens", "confidence")
        assert [envoy.client.headers[f"x-policyd-{name}"] for name in names] == ["pd-1", "allow", "10", "100", "high"]
        assert envoy.client.headers["x-policyd-estimated-cost-usd"] == format_usd(held)
        assert envoy.client.headers["x-policyd-budget-remaining-usd"] == format_usd(10 * 10**9 - held)

    async def test_another_header_prefix(self, world: World) -> None:
        reply = chat_reply()
        envoy = await answered(
            world,
            reply_headers(length=len(reply)),
            [reply],
            body=chat(),
            settings=ExchangeSettings(header_prefix="x-acme-"),
        )
        ours = {name for name in envoy.client.headers if name.startswith("x-acme-")}
        assert {"x-acme-request-id", "x-acme-decision", "x-acme-cost-usd"} <= ours
        assert not [name for name in envoy.client.headers if name.startswith("x-policyd-")]

    @pytest.mark.parametrize("length", [-1, 0, 1])
    async def test_what_is_buffered(self, world: World, length: int) -> None:
        """Up to the bound; more would hang in Envoy's buffer."""
        reply = chat_reply()
        envoy = await answered(
            world,
            reply_headers(length=len(reply)),
            [reply],
            body=chat(),
            settings=ExchangeSettings(response_buffer_bytes_max=len(reply) + length),
        )
        assert envoy.client.body == reply
        assert added(envoy) == (COST_HEADERS if length >= 0 else {})
        assert world.record.usage == CHAT_USED

    async def test_of_an_unknown_length_streams_through(self, world: World) -> None:
        reply = chat_reply()
        envoy = await answered(world, reply_headers(), [reply[:60], reply[60:61], reply[61:]], body=chat())
        assert envoy.client.body == reply
        assert added(envoy) == {}
        assert world.record.usage == CHAT_USED
        assert world.record.usage_source is UsageSource.REPORTED
        assert await world.spent() == world.record.actual_cost_nanos

    @pytest.mark.parametrize("megabytes", [3, 30])
    async def test_a_huge_one(self, world: World, megabytes: int) -> None:
        reply = chat_reply('a "quoted" \\ word ' * (megabytes * 1_000_000 // 20))
        assert len(reply) >= megabytes * 1_000_000
        chunks = [reply[start : start + 65_536] for start in range(0, len(reply), 65_536)]
        envoy = await answered(world, reply_headers(length=len(reply)), chunks, body=chat())
        assert envoy.client.body == reply
        assert world.record.usage == CHAT_USED

    @pytest.mark.parametrize("length", [True, False])
    async def test_ended_by_trailers(self, world: World, length: bool) -> None:
        """The last of its bytes then does not say that it is the last, nor do bytes that Envoy buffered."""
        reply = chat_reply()
        headers = reply_headers(length=len(reply) if length else None)
        envoy = await answered(world, headers, [reply], body=chat(), trailers=True)
        assert envoy.client.body == reply
        assert added(envoy) == (COST_HEADERS if length else {})
        assert (world.record.outcome, world.record.usage) == (Outcome.SERVED, CHAT_USED)

    @pytest.mark.parametrize("length", [True, False])
    async def test_without_usage_its_text_is_charged(self, world: World, length: bool) -> None:
        reply = chat_reply("Hello there!", usage=None)
        headers = reply_headers(length=len(reply) if length else None)
        await answered(world, headers, [reply] if length else [reply[:40], reply[40:]], body=chat(max_tokens=100))
        text_tokens = COUNTER.count_text("Hello there!", provider="openai", model="gpt-4o")
        assert world.record.usage == Usage(input=10, output=text_tokens)
        assert world.record.usage_source is UsageSource.COUNTED

    async def test_too_large_to_be_kept_and_without_usage_is_charged_its_hold(self, world: World) -> None:
        reply = chat_reply("word " * (KEPT_BYTES_MAX // 5), usage=None)
        await answered(world, reply_headers(), [reply[:40], reply[40:]], body=chat(max_tokens=100))
        assert world.record.usage == Usage(input=10, output=100)
        assert world.record.usage_source is UsageSource.NONE

    @pytest.mark.parametrize("length", [True, False])
    @pytest.mark.parametrize("reply", [b"<html>", b"[1, 2]", chat_reply()[:-20], b"\xff\xfe", b'{"a": 1}'])
    async def test_that_cannot_be_read_is_charged_its_hold(self, world: World, reply: bytes, length: bool) -> None:
        headers = reply_headers(length=len(reply) if length else None)
        envoy = await answered(world, headers, [reply], body=chat(max_tokens=100))
        assert envoy.client.body == reply
        assert world.record.usage == Usage(input=10, output=100)
        assert world.record.usage_source is UsageSource.NONE
        assert await world.spent() == world.record.actual_cost_nanos

    @pytest.mark.parametrize("chunks", [[], [b""], [b"", b""]])
    @pytest.mark.parametrize("stream", [True, False])
    async def test_an_empty_reply_is_charged_its_input(self, chunks: list[bytes], stream: bool) -> None:
        world = World()
        envoy = await answered(world, reply_headers(), chunks, body=chat(stream=stream))
        assert envoy.client.body == b""
        assert world.record.usage == Usage(input=10)
        assert world.record.usage_source is UsageSource.COUNTED


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("encoding", COMPRESS)
class TestCompressed:
    async def test_documents_pass_as_they_come(self, world: World, encoding: str, length: bool, stream: bool) -> None:
        plain = chat_reply()
        reply = COMPRESS[encoding](plain)
        headers = reply_headers(length=len(reply) if length else None, content_encoding=encoding)
        envoy = await answered(world, headers, [reply[:20], reply[20:]], body=chat(stream=stream))
        assert world.record.usage == CHAT_USED
        if stream:
            # What a stream was asked for may turn out to be one: it is passed on decoded.
            assert "content-encoding" not in envoy.client.headers
            assert envoy.client.body == plain
        else:
            assert envoy.client.headers["content-encoding"] == encoding
            assert envoy.client.body == reply
            assert added(envoy) == (COST_HEADERS if length else {})

    async def test_streams_pass_decoded(self, world: World, encoding: str, length: bool, stream: bool) -> None:
        chunks = flushed(encoding, chat_stream())
        headers = reply_headers("text/event-stream", length=sum(map(len, chunks)) if length else None)
        headers["content-encoding"] = encoding.upper()
        envoy = await answered(world, headers, chunks, body=chat(stream=stream))
        assert "content-encoding" not in envoy.client.headers
        # Only the client that asked for a stream did not ask for its usage.
        assert envoy.client.body == (visible(chat_stream()) if stream else b"".join(chat_stream()))
        assert world.record.usage == CHAT_USED

    async def test_what_cannot_be_decoded(self, world: World, encoding: str, length: bool, stream: bool) -> None:
        reply = b"this is not compressed at all, whatever its headers say"
        headers = reply_headers(length=len(reply) if length else None, content_encoding=encoding)
        envoy = await answered(world, headers, [reply], body=chat(stream=stream, max_tokens=100))
        assert world.record.usage == Usage(input=10, output=100)
        if stream:
            assert envoy.client.body.startswith(b'data: {"error":')
            assert wire.decision_fields(envoy.client.body.splitlines()[0][6:])["reason"] == "reply_unreadable"
            assert (world.record.outcome, world.record.error) == (Outcome.PROVIDER_ERROR, "reply_unreadable")
        else:
            assert envoy.client.body == reply


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_compressed_frames_one_after_the_other(world: World, encoding: str) -> None:
    """Some servers end a gzip member, or a zstd frame, with every flush."""
    chunks = [COMPRESS[encoding](each) for each in chat_stream()]
    envoy = await answered(world, SSE | {"content-encoding": encoding}, [b"".join(chunks[:3]), *chunks[3:], b""])
    assert envoy.client.body == visible(chat_stream())
    assert world.record.usage == CHAT_USED


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("encoding", ["compress", "gzip, br", "zip"])
async def test_an_unknown_encoding_passes_unread_and_is_charged_its_hold(
    world: World, encoding: str, content_type: str
) -> None:
    headers = reply_headers(content_type, content_encoding=encoding)
    envoy = await answered(world, headers, [b"whatever", b"this is"], body=chat(stream=True, max_tokens=100))
    assert envoy.client.body == b"whateverthis is"
    assert envoy.client.headers["content-encoding"] == encoding
    assert world.record.usage == Usage(input=10, output=100)
    assert world.record.usage_source is UsageSource.NONE
    assert world.record.outcome is Outcome.SERVED


class TestStreams:
    async def test_usage_that_the_client_did_not_ask_for_is_withheld(self, world: World) -> None:
        envoy = await answered(world, SSE, chat_stream())
        assert envoy.client.body == visible(chat_stream())
        assert usage_chunk() not in envoy.client.body
        assert world.record.usage == CHAT_USED
        assert world.record.streamed
        assert await world.spent() == world.record.actual_cost_nanos

    async def test_usage_that_the_client_asked_for_is_not(self, world: World) -> None:
        body = chat(stream=True, stream_options={"include_usage": True})
        envoy = await answered(world, SSE, chat_stream(), body=body)
        assert envoy.client.body == b"".join(chat_stream())

    async def test_without_usage_the_text_is_counted(self, world: World) -> None:
        envoy = await answered(world, SSE, chat_stream(usage=None))
        assert envoy.client.body == b"".join(chat_stream(usage=None))
        tokens = COUNTER.count_text("Hello there!", provider="openai", model="gpt-4o")
        assert world.record.usage is not None
        assert world.record.usage.input == 10
        assert tokens <= world.record.usage.output <= tokens + 1
        assert world.record.usage_source is UsageSource.COUNTED

    async def test_of_anthropic(self, world: World) -> None:
        events = wire.message_stream()
        envoy = await answered(world, SSE, events, body=messages(stream=True), path=wire.MESSAGES_PATH)
        assert envoy.client.body == b"".join(events)
        assert world.record.usage == MESSAGE_USED
        assert world.record.response_model == "claude-sonnet-4-5-20250929"

    @pytest.mark.parametrize("trailers", [True, False])
    @pytest.mark.parametrize("ending", [b"", b"\n", b"\n\n"])
    async def test_a_last_event_without_its_end(self, world: World, ending: bytes, trailers: bool) -> None:
        stream = b"".join(wire.chat_stream()[:-1]).removesuffix(b"\n\n") + ending
        await answered(world, SSE, [stream], trailers=trailers)
        assert world.record.usage == CHAT_USED

    async def test_an_event_without_its_end_that_is_the_clients(self, world: World) -> None:
        stream = b"".join(chat_stream()).removesuffix(b"\n\n")
        envoy = await answered(world, SSE, [stream[:-3], stream[-3:]], trailers=True)
        assert envoy.client.body == visible(chat_stream()).removesuffix(b"\n\n")

    async def test_labelled_as_json(self, world: World) -> None:
        envoy = await answered(world, reply_headers(length=12345), [b"\n", *chat_stream()])
        assert envoy.client.body == b"\n" + visible(chat_stream())
        assert "content-length" not in envoy.client.headers
        assert world.record.usage == CHAT_USED
        assert world.record.streamed

    async def test_a_document_in_answer_to_a_request_for_a_stream(self, world: World) -> None:
        reply = chat_reply()
        envoy = await answered(world, reply_headers(length=len(reply)), [b" ", reply[:9], reply[9:]])
        assert envoy.client.body == b" " + reply
        assert world.record.usage == CHAT_USED
        assert not world.record.streamed

    async def test_comments_pass(self, world: World) -> None:
        events = chat_stream()
        envoy = await answered(world, SSE, [b": ping\n\n", *events[:2], b":\n\n", *events[2:]])
        assert envoy.client.body == b": ping\n\n" + visible(events[:2]) + b":\n\n" + visible(events[2:])


CUTS = st.lists(st.integers(0, 10_000), max_size=30)


def in_lines(events: Sequence[bytes], line_end: bytes) -> list[bytes]:
    return [each.replace(b"\n", line_end) for each in events]


class TestAnyChunks:
    """The same bytes give the same usage and the same forwarded bytes, wherever they are cut."""

    @given(
        cuts=CUTS,
        line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
        texts=st.lists(st.text(max_size=20), max_size=6),
        trailers=st.booleans(),
    )
    @settings(max_examples=60)
    async def test_of_a_stream(self, cuts: list[int], line_end: bytes, texts: list[str], trailers: bool) -> None:
        world = World()
        events = in_lines(chat_stream(texts), line_end)
        envoy = await answered(world, SSE, wire.cut_at(b"".join(events), cuts), trailers=trailers)
        assert envoy.client.body == b"".join(each for each in events if b'"usage"' not in each)
        assert all(reply.body or reply.end_of_stream for reply in envoy.replies if isinstance(reply, m.StreamedBody))
        assert world.record.usage == CHAT_USED
        assert world.record.usage_source is UsageSource.REPORTED

    @given(cuts=CUTS, texts=st.lists(st.text(max_size=20), max_size=6))
    @settings(max_examples=40)
    async def test_of_a_stream_of_anthropic(self, cuts: list[int], texts: list[str]) -> None:
        world = World()
        stream = b"".join(wire.message_stream(texts))
        chunks = wire.cut_at(stream, cuts)
        envoy = await answered(world, SSE, chunks, body=messages(stream=True), path=wire.MESSAGES_PATH)
        assert envoy.client.body == stream
        assert world.record.usage == MESSAGE_USED

    @given(cuts=CUTS, encoding=st.sampled_from(sorted(COMPRESS)), seed=st.integers(0, 99))
    @settings(max_examples=60)
    async def test_of_a_compressed_stream(self, cuts: list[int], encoding: str, seed: int) -> None:
        world = World()
        stream = b"".join(chat_stream())
        dice = random.Random(seed)
        parts = wire.cut_at(stream, [dice.randrange(len(stream)) for _ in range(4)])
        compressed = b"".join(flushed(encoding, parts))
        envoy = await answered(world, SSE | {"content-encoding": encoding}, wire.cut_at(compressed, cuts))
        assert envoy.client.body == visible(chat_stream())
        assert world.record.usage == CHAT_USED

    @given(cuts=CUTS, text=st.text(max_size=50))
    @settings(max_examples=40)
    async def test_of_a_document(self, cuts: list[int], text: str) -> None:
        world = World()
        reply = json.dumps({"extra": [text, {"usage": text}], **json.loads(chat_reply(text))}).encode()
        envoy = await answered(world, reply_headers(), wire.cut_at(reply, cuts), body=chat())
        assert envoy.client.body == reply
        assert world.record.usage == CHAT_USED


ERROR = wire.to_json({"error": {"type": "server_error", "code": "overloaded", "message": "do not log me"}})


class TestErrors:
    @pytest.mark.parametrize("length", [True, False])
    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("status", [400, 429, 500, 529])
    async def test_without_usage_release(self, world: World, status: int, stream: bool, length: bool) -> None:
        headers = reply_headers(length=len(ERROR) if length else None, status=status)
        envoy = await answered(world, headers, [ERROR], body=chat(stream=stream))
        assert (envoy.client.status, envoy.client.body) == (status, ERROR)
        assert added(envoy) == {}
        assert (world.record.outcome, world.record.status) == (Outcome.PROVIDER_ERROR, status)
        assert world.record.error == "overloaded"
        assert world.record.usage is None
        assert await world.spent() == 0

    @pytest.mark.parametrize("body", [[], [b"upstream connect error"], [b""]])
    async def test_without_words(self, world: World, body: list[bytes]) -> None:
        await answered(world, reply_headers("text/plain", status=503), body)
        assert (world.record.outcome, world.record.error) == (Outcome.PROVIDER_ERROR, "http_503")
        assert await world.spent() == 0

    async def test_that_cannot_be_decoded_release(self, world: World) -> None:
        await answered(world, reply_headers(status=500, content_encoding="zip"), [b"what"], body=chat())
        assert await world.spent() == 0

    @pytest.mark.parametrize("length", [True, False])
    async def test_with_usage_settle(self, world: World, length: bool) -> None:
        refusal = chat_reply(error={"code": "content_filter"})
        headers = reply_headers(length=len(refusal) if length else None, status=400)
        await answered(world, headers, [refusal], body=chat())
        assert (world.record.outcome, world.record.error) == (Outcome.PROVIDER_ERROR, "content_filter")
        assert world.record.usage == CHAT_USED
        assert await world.spent() == price_of("gpt-4o").cost_nanos(CHAT_USED)

    async def test_a_document_that_is_an_error_under_200(self, world: World) -> None:
        await answered(world, reply_headers(length=len(ERROR)), [ERROR], body=chat())
        assert (world.record.outcome, world.record.status) == (Outcome.PROVIDER_ERROR, 200)
        assert await world.spent() == 0

    async def test_inside_a_stream_before_any_output(self, world: World) -> None:
        envoy = await answered(world, SSE, [b"data: " + ERROR + b"\n\n", DONE])
        assert envoy.client.body == b"data: " + ERROR + b"\n\n" + DONE
        assert (world.record.outcome, world.record.error) == (Outcome.PROVIDER_ERROR, "overloaded")
        assert await world.spent() == 0

    async def test_inside_a_stream_after_some_output(self, world: World) -> None:
        await answered(world, SSE, [*chat_stream()[:3], b"data: " + ERROR + b"\n\n"])
        assert (world.record.outcome, world.record.usage_source) == (Outcome.PROVIDER_ERROR, UsageSource.COUNTED)
        assert world.record.usage is not None
        assert world.record.usage.output > 0
        assert await world.spent() == world.record.actual_cost_nanos

    async def test_inside_a_stream_of_anthropic(self, world: World) -> None:
        events = [
            *wire.message_stream()[:3],
            wire.event("error", error={"type": "overloaded_error", "message": "do not log me"}),
        ]
        await answered(world, SSE, events, body=messages(stream=True), path=wire.MESSAGES_PATH)
        assert (world.record.outcome, world.record.error) == (Outcome.PROVIDER_ERROR, "overloaded_error")
        # message_start told what the input was.
        assert world.record.usage is not None
        assert world.record.usage.input == 11


class TestOperatorsModes:
    """An operator's own response body mode, with overrides allowed or not."""

    @pytest.mark.parametrize("allow_mode_override", [True, False])
    @pytest.mark.parametrize(
        "mode", [BodyMode.STREAMED, BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL, FULL_DUPLEX], ids=str
    )
    @pytest.mark.parametrize("request_mode", [BodyMode.BUFFERED, FULL_DUPLEX])
    @pytest.mark.parametrize("chunking", ["whole", "pieces", "whole and an empty end"])
    async def test_a_document(
        self, mode: BodyMode, request_mode: BodyMode, allow_mode_override: bool, chunking: str
    ) -> None:
        world = World()
        reply = chat_reply()
        chunks = {"whole": [reply], "pieces": [reply[:99], reply[99:]], "whole and an empty end": [reply, b""]}
        envoy = await answered(
            world,
            reply_headers(length=len(reply)),
            chunks[chunking],
            body=chat(),
            request_mode=request_mode,
            response_mode=mode,
            allow_mode_override=allow_mode_override,
        )
        assert envoy.client.body == reply
        assert envoy.client.ended
        assert world.record.usage == CHAT_USED
        assert world.record.usage_source is UsageSource.REPORTED
        if mode is BodyMode.BUFFERED:
            assert added(envoy) == COST_HEADERS

    @pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL, FULL_DUPLEX], ids=str)
    @pytest.mark.parametrize("encoding", ["identity", *COMPRESS])
    async def test_a_stream(self, mode: BodyMode, encoding: str) -> None:
        world = World()
        chunks = chat_stream() if encoding == "identity" else flushed(encoding, chat_stream())
        headers = SSE | {"content-encoding": encoding, "content-length": str(sum(map(len, chunks)))}
        envoy = await answered(world, headers, chunks, response_mode=mode)
        assert envoy.client.body == visible(chat_stream())
        assert "content-encoding" not in envoy.client.headers
        assert world.record.usage == CHAT_USED
        assert world.record.streamed
        if mode is BodyMode.BUFFERED:
            assert added(envoy) == COST_HEADERS

    @pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL, FULL_DUPLEX], ids=str)
    async def test_a_compressed_document_in_answer_to_a_request_for_a_stream(self, mode: BodyMode) -> None:
        world = World()
        reply = COMPRESS["gzip"](chat_reply())
        headers = reply_headers(length=len(reply), content_encoding="gzip")
        envoy = await answered(world, headers, [reply[:30], reply[30:]], response_mode=mode)
        assert "content-encoding" not in envoy.client.headers
        assert envoy.client.body == chat_reply()
        assert world.record.usage == CHAT_USED

    async def test_a_stream_where_no_override_is_taken(self, world: World) -> None:
        """Full duplex of the request's body alone: Envoy goes on to stream the reply."""
        envoy = await answered(world, SSE, chat_stream(), request_mode=FULL_DUPLEX)
        assert envoy.client.body == visible(chat_stream())
        assert world.record.usage == CHAT_USED

    @pytest.mark.parametrize("headers", [SSE, reply_headers()])
    async def test_a_reply_over_the_buffer_of_buffered_partial_is_charged_its_hold(
        self, world: World, headers: dict[str, str]
    ) -> None:
        reply = [b"data: " + b"x" * 2_000_000, b"\n\n"]
        envoy = await answered(
            world, headers, reply, body=chat(max_tokens=100), response_mode=BodyMode.BUFFERED_PARTIAL
        )
        assert envoy.client.body == b"".join(reply)
        assert world.record.usage == Usage(input=10, output=100)
        assert world.record.usage_source is UsageSource.NONE

    async def test_a_stream_is_asked_for_in_full_duplex_with_trailers(self, world: World) -> None:
        envoy = await answered(world, SSE, chat_stream(), trailers=True)
        (reply,) = [reply for reply in envoy.replies if isinstance(reply, m.HeadersReply) and reply.response]
        assert reply.mode == m.ModeOverride(response_body=FULL_DUPLEX, response_trailers=True)
        assert any(isinstance(reply, m.TrailersReply) for reply in envoy.replies)


async def test_nothing_is_held_after_a_reply_that_cost_more_than_its_hold() -> None:
    """What was really used is charged in full, past the limit."""
    world = World(policy(limit(amount=price_of("gpt-4o").cost_nanos(Usage(input=10, output=4096)))))
    used = {"prompt_tokens": 10, "completion_tokens": 9000}
    reply = chat_reply(usage=used)
    await answered(world, reply_headers(length=len(reply)), [reply], body=chat())
    assert await world.spent() == price_of("gpt-4o").cost_nanos(Usage(input=10, output=9000))


async def test_a_settlement_that_fails_lets_the_reply_out() -> None:
    world = World()
    envoy = Envoy(world)
    body, reply = chat(), chat_reply()
    await envoy.request(request_headers(body), [body])
    await world.store.close()
    await envoy.response(reply_headers(length=len(reply)), [reply])
    await envoy.close()
    assert envoy.client.body == reply
    assert added(envoy) == {}
    assert world.enforcer.open_reservations == 0
    assert not world.seen.records

"""What is fuzzed: one function a target, which takes any bytes and raises only if something is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from policyd.config.policy_file import parse_policy
from policyd.core.errors import BodyUnreadable, ConfigError
from policyd.core.policy import FailureMode
from policyd.core.record import Outcome
from policyd.ext_proc import messages as m
from policyd.ext_proc.encoding import PIECE_BYTES_MAX, UndecodableReply, decoder
from policyd.ext_proc.servicer import ExternalProcessor
from policyd.ext_proc.settings import ExchangeSettings
from policyd.providers.base import OUTPUT_TOKENS_MAX, RawRequest, ReplyReader, RequestEdits, RequestFacts
from policyd.providers.editing import reread
from policyd.providers.endpoint import Endpoint
from policyd.providers.framing.event_stream import EventStreamFramer
from policyd.providers.framing.frame import Framer
from policyd.providers.framing.json_array import JsonArrayFramer
from policyd.providers.framing.json_members import JsonMembers
from policyd.providers.framing.ndjson import NdjsonFramer
from policyd.providers.framing.sse import SseFramer
from policyd.providers.framing.websocket import WebSocketFramer
from policyd.providers.multipart import read_form
from policyd.providers.registry import resolve
from tests.builders import USD, World, limit, policy
from tests.ext_proc import wire
from tests.ext_proc.test_servicer import REQUEST_BODY, REQUEST_HEADERS, RESPONSE_HEADERS
from tests.fuzz import seeds
from tests.providers.replay import NO_PROMPT

ENDPOINTS = (
    ("openai", "/v1/chat/completions"),
    ("openai", "/v1/responses"),
    ("openai", "/v1/responses/compact"),
    ("openai", "/v1/completions"),
    ("openai", "/v1/embeddings"),
    ("openai", "/v1/images/generations"),
    ("openai", "/v1/images/edits"),
    ("openai", "/v1/images/variations"),
    ("openai", "/v1/audio/speech"),
    ("openai", "/v1/audio/transcriptions"),
    ("openai", "/v1/audio/translations"),
    ("together", "/v1/rerank"),
    ("anthropic", "/v1/messages"),
    ("anthropic", "/v1/complete"),
    ("anthropic", "/v1/messages/batches"),
    ("aws", "/model/anthropic.claude-3-haiku-20240307-v1:0/invoke"),
    ("aws", "/model/amazon.nova-lite-v1:0/converse"),
    ("aws", "/model/meta.llama3-1-8b-instruct-v1:0/invoke"),
    ("google", "/v1beta/models/gemini-2.5-flash:generateContent"),
    ("google", "/v1beta/models/gemini-embedding-001:embedContent"),
    ("google", "/v1beta/interactions"),
    ("google", "/v1/projects/p/locations/global/publishers/anthropic/models/claude-sonnet-4-5:rawPredict"),
    ("cohere", "/v2/chat"),
    ("cohere", "/v1/chat"),
    ("cohere", "/v1/generate"),
    ("cohere", "/v2/embed"),
    ("cohere", "/v2/rerank"),
    ("mistral", "/v1/chat/completions"),
    ("mistral", "/v1/fim/completions"),
    ("mistral", "/v1/embeddings"),
    ("mistral", "/v1/ocr"),
    ("ollama", "/api/chat"),
    ("ollama", "/api/generate"),
    ("ollama", "/api/embed"),
)
"""An endpoint of each wire format: the provider, and a path."""

CONTENT_TYPES = ("application/json", 'multipart/form-data; boundary="x"')

FACTS = RequestFacts(model="m", streamed=True, prompt=NO_PROMPT, max_output_tokens=None)

FRAMERS: tuple[Callable[[], Framer], ...] = (SseFramer, NdjsonFramer, EventStreamFramer, JsonArrayFramer)


@dataclass(frozen=True, slots=True)
class Target:
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]


def endpoint(index: int) -> Endpoint:
    provider, path = ENDPOINTS[index % len(ENDPOINTS)]
    found = resolve(provider=provider, host="", method="POST", path=path)
    assert isinstance(found, Endpoint), (provider, path)
    return found


def chosen(data: bytes) -> tuple[int, bytes]:
    """The first byte chooses, the rest is the input."""
    return (data[0], data[1:]) if data else (0, b"")


def cut(data: bytes) -> Iterator[bytes]:
    """The same bytes in pieces, always the same ones."""
    random, start = Random(len(data)), 0
    while start < len(data):
        end = start + random.choice((1, 2, 7, 64, 4096))
        yield data[start:end]
        start = end


# --- the targets ---


def request(data: bytes) -> None:
    """A body is read or refused, and what was read can be edited and is then what was meant."""
    which, body = chosen(data)
    asked = endpoint(which)
    wire_format = asked.wire
    assert wire_format is not None
    for content_type in CONTENT_TYPES:
        raw = RawRequest(body, path=asked.path, content_type=content_type)
        with suppress(BodyUnreadable):
            facts = wire_format.read_request(raw, vendor=asked.vendor, identity_fields=("user", "metadata.user_id"))
            assert facts.model
            assert facts.choices >= 1
            assert facts.max_output_tokens is None or 0 <= facts.max_output_tokens <= OUTPUT_TOKENS_MAX
            for edits in (RequestEdits(request_usage=True), RequestEdits(strip_fields=("user",))):
                again = reread(wire_format, raw, edits, vendor=asked.vendor)
                assert again.model == facts.model
            reread(wire_format, raw, RequestEdits(max_output_tokens=7), vendor=asked.vendor)


def reply(data: bytes) -> None:
    """A reply is read in every framing, and never raises; what it reports is no less than nothing."""
    which, body = chosen(data)
    wire_format = endpoint(which).wire
    assert wire_format is not None

    def reader() -> ReplyReader:
        return wire_format.reply_reader(FACTS, usage_added=True)

    for framer in FRAMERS:
        framing, streamed = framer(), reader()
        for chunk in cut(body):
            for frame in framing.feed(chunk):
                streamed.read_frame(frame)
        for frame in framing.finish():
            streamed.read_frame(frame)
        assert_sane(streamed)
    whole = reader()
    with suppress(ValueError, RecursionError):
        document: Any = msgspec.json.decode(body)
        if isinstance(document, dict):
            whole.read_document(document)
    assert_sane(whole)
    partial = reader()
    members = JsonMembers(partial.document_members, bytes_max=4096)
    for chunk in cut(body):
        members.feed(chunk)
    partial.read_document(members.found, partial=True)
    assert_sane(partial)


def assert_sane(reader: ReplyReader) -> None:
    assert isinstance(reader.take_text(), str)
    if reader.usage is not None:
        assert all(units >= 0 for units in reader.usage.by_kind().values())


def framing(data: bytes) -> None:
    """Nothing is lost or made up, and the same bytes give the same events however they come."""
    for make in FRAMERS:
        at_once, in_pieces = make(), make()
        frames = [*at_once.feed(data), *at_once.finish()]
        assert b"".join(frame.raw for frame in frames) == data
        pieces = [frame for chunk in cut(data) for frame in in_pieces.feed(chunk)] + in_pieces.finish()
        assert b"".join(frame.raw for frame in pieces) == data
        assert [frame.data for frame in pieces if frame.data] == [frame.data for frame in frames if frame.data]


def websocket(data: bytes) -> None:
    """However the bytes come, the same units, each as it came."""
    which, stream = chosen(data)
    at_once = WebSocketFramer(from_client=bool(which % 2))
    in_pieces = WebSocketFramer(from_client=bool(which % 2))
    units = at_once.feed(stream)
    assert units == [unit for chunk in cut(stream) for unit in in_pieces.feed(chunk)]
    assert at_once.violation == in_pieces.violation
    assert sum(len(unit.raw) for unit in units) <= len(stream)


def multipart(data: bytes) -> None:
    with suppress(BodyUnreadable):
        read_form(data, CONTENT_TYPES[1])


def policy_file(data: bytes) -> None:
    with suppress(ConfigError):
        parse_policy(data, source="policyd.yaml")


def encoding(data: bytes) -> None:
    which, body = chosen(data)
    reading = decoder([*wire.COMPRESS][which % len(wire.COMPRESS)])
    assert reading is not None
    with suppress(UndecodableReply):
        for chunk in cut(body):
            assert len(reading.feed(chunk)) <= PIECE_BYTES_MAX


MESSAGES = tuple(
    message.SerializeToString()
    for message in (
        REQUEST_HEADERS,
        REQUEST_BODY,
        RESPONSE_HEADERS,
        pb.ProcessingRequest(request_trailers=pb.HttpTrailers()),
        pb.ProcessingRequest(response_trailers=pb.HttpTrailers()),
        *(pb.ProcessingRequest(response_body=pb.HttpBody(body=event)) for event in wire.chat_stream()),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=wire.DONE, end_of_stream=True)),
        pb.ProcessingRequest(response_headers=pb.HttpHeaders(end_of_stream=True)),
    )
)


def exchange(data: bytes) -> None:
    """Messages of Envoy in any order, and bytes that are none: the exchange ends, and the books balance."""
    which, order = chosen(data)
    mode = FailureMode.OPEN if which % 2 else FailureMode.CLOSED
    asyncio.run(_exchange(order, World(policy(limit(amount=10 * USD), default_max_output_tokens=5, failure_mode=mode))))


async def _exchange(order: bytes, world: World) -> None:
    processor = ExternalProcessor(world.enforcer, ExchangeSettings())
    stream = processor.open(provider="openai")

    async def nowhere(_: m.Reply) -> None: ...

    for message in _messages(order):
        await stream.handle(stream.event(message), nowhere)
        if stream.aborted is not None:
            break
    processor.close(stream)
    await processor.finish_endings()
    books = await world.books()
    assert (books.open_reservations, world.enforcer.open_reservations) == (0, 0)
    assert books.spent["budget"] == sum(record.actual_cost_nanos or 0 for record in world.seen.records)
    failed = [record for record in world.seen.records if record.outcome is Outcome.UNMETERED and record.error]
    assert all(record.actual_cost_nanos for record in failed)
    assert not failed or world.policy.failure_mode is FailureMode.OPEN


def _messages(order: bytes) -> Iterator[bytes]:
    """Each byte is one of `MESSAGES`; one beyond them says how many of the bytes that follow are a message."""
    rest = order[:64]
    while rest:
        which, rest = rest[0], rest[1:]
        if which < 0xC0:
            yield MESSAGES[which % len(MESSAGES)]
        else:
            yield rest[: which & 0x3F]
            rest = rest[which & 0x3F :]


def _each_endpoint(inputs: Callable[[], Iterable[bytes]]) -> Callable[[], Iterator[bytes]]:
    """Each input for each endpoint."""

    def spread() -> Iterator[bytes]:
        for body in inputs():
            yield from (bytes([index]) + body for index in range(len(ENDPOINTS)))

    return spread


TARGETS: Mapping[str, Target] = {
    "request": Target(request, _each_endpoint(seeds.requests)),
    "reply": Target(reply, _each_endpoint(seeds.replies)),
    "framing": Target(framing, seeds.replies),
    "websocket": Target(
        websocket, lambda: (b"\0\x81\x02Hi\x88\x00", b"\1\x81\x82abcd)\x0b\x01\x02\x03", b"\0\x89\x00")
    ),
    "multipart": Target(multipart, seeds.forms),
    "policy": Target(policy_file, seeds.policies),
    "encoding": Target(encoding, seeds.compressed),
    "exchange": Target(exchange, lambda: (bytes(range(16)), b"\1\0\1\2\5\6\7\10\11\12", b"\0\0\1\2\xc4\xa2\6\1\0")),
}

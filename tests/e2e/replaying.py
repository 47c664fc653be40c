"""Replays exchanges through `policyd up` and a real Envoy, as clients on one side and as the provider on the other.

The client sends the recorded request, the provider answers with the recorded reply, cut into random chunks, with a
content-length for some and without for others. What each side saw is kept, with what policyd held and logged.
"""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc
import httpx
import msgspec
from starlette.types import Receive, Scope, Send

from policyd.core.usage import Usage
from policyd.demo.simulated.serving import on_thread
from policyd.providers.vendors import COMMON_BASES, vendor_named
from policyd.v1.policy_service_pb2 import ListUsageRequest
from policyd.v1.policy_service_pb2_grpc import PolicyServiceStub
from policyd.v1.usage_pb2 import UsageRecord
from tests.e2e.envoy_version import PASSES_EMPTY_REPLIES
from tests.e2e.mesh import ANSWER_SECONDS_MAX, Balance, Line, Mesh, policyd_up
from tests.providers.replay import random_chunks
from tests.recordings import Recording

REPLAY_ID = "x-replay-id"
PROJECT = "x-policyd-project"
REQUEST_ID = "x-policyd-request-id"

POLICY = """\
version: 1
identity:
  project: [{header: x-policyd-project}]
limits:
  - {name: each, per: [project], cost_usd: 100000, window: lifetime}
  - {name: cost, cost_usd: 1000000, window: lifetime}
  - {name: tokens, tokens: 1000000000000, window: lifetime}
  - {name: input, input_tokens: 1000000000000, window: lifetime}
  - {name: output, output_tokens: 1000000000000, window: lifetime}
  - {name: requests, requests: 1000000, window: lifetime}
  - {name: concurrent, concurrent_requests: 1000}
"""
"""Limits of every metric, with room for all: each exchange is a project of its own, so that its hold can be told."""

SHARED_LIMITS = ("cost", "tokens", "input", "output", "requests", "concurrent")

PROVIDERS = {"xai": "x-ai", "copilot": "github-copilot", "bedrock": "aws"}
"""Vendors of recordings that policyd knows by another name."""

REPORT_UNASKED = ("databricks", "mistral", "openrouter", "perplexity")
"""Vendors whose streams have usage without being asked for it."""

CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as the provider got it."""

    target: str
    """The path with its query."""
    headers: Mapping[str, str]
    body: bytes
    held: Balance
    """Of the exchange's own limit, while the provider had not answered yet."""


@dataclass(frozen=True, slots=True, repr=False)
class Exchange:
    """A recorded exchange and what came of it."""

    recording: Recording
    arrival: Arrival
    reply: httpx.Response
    """As the client got it."""
    line: Line

    @property
    def usage(self) -> Usage | None:
        """What the log line says was used."""
        fields = self.line["usage"]
        if fields is None:
            return None
        # A log line shows output with the reasoning in it.
        return Usage(**{**fields, "output": fields["output"] - fields.get("reasoning", 0)})


@dataclass(frozen=True, slots=True, repr=False)
class Replay:
    """Everything that was replayed, and policyd's books at the end."""

    exchanges: Sequence[Exchange]
    balances: Mapping[str, Balance]
    """Of `SHARED_LIMITS`."""
    usage_records: Sequence[UsageRecord]


def replay(recordings: Sequence[Recording], *, folder: Path) -> Replay:
    """Replays all of them, several at a time. `folder` is for the policy and the ledger."""
    policy = folder / "policyd.yaml"
    policy.write_text(POLICY)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        names = dict.fromkeys(provider_name(recording) for recording in recordings)
        upstreams = dict.fromkeys(names, url)
        with policyd_up(upstreams=upstreams, policy=policy, store=f"sqlite:///{folder}/ledger.db") as mesh:
            provider = _Provider(recordings, mesh)
            with on_thread(provider, listener):
                replies = _send_all(recordings, mesh.url)
            exchanges = [
                Exchange(recording, provider.arrivals[recording["id"]], reply, mesh.record(reply.headers[REQUEST_ID]))
                for recording, reply in zip(recordings, replies, strict=True)
            ]
            balances = {name: mesh.balance(name) for name in SHARED_LIMITS}
            return Replay(exchanges, balances, tuple(_usage_records(mesh)))


def choose(recordings: Iterable[Recording], count: int) -> list[Recording]:
    """`count` of them, the same ones every time: as many as can be of every kind of exchange."""
    kinds: dict[tuple[Any, ...], list[Recording]] = defaultdict(list)
    for recording in recordings:
        kinds[_kind(recording)].append(recording)
    random = Random("exchanges to replay")
    for alike in kinds.values():
        random.shuffle(alike)
    chosen: list[Recording] = []
    while len(chosen) < count:
        chosen += [alike.pop() for alike in kinds.values() if alike][: count - len(chosen)]
    return chosen


def _kind(recording: Recording) -> tuple[Any, ...]:
    # Some notes have numbers after a colon or a blank.
    shapes = {note.partition(":")[0].partition(" ")[0] for note in recording["shape_notes"]}
    return (
        recording["vendor"],
        recording["framing"],
        recording["status"],
        recording["expected_usage"] is None,
        usage_is_added(recording),
        tuple(sorted(shapes)),
    )


def request_of(recording: Recording) -> Mapping[str, Any]:
    request: Mapping[str, Any] = msgspec.json.decode(recording["request_body"])
    return request


def usage_is_added(recording: Recording) -> bool:
    """Whether policyd has to ask for usage on the client's behalf."""
    request = request_of(recording)
    if recording["wire"] != "openai-chat" or not request.get("stream"):
        return False
    asked = (request.get("stream_options") or {}).get("include_usage")
    return not asked and recording["vendor"] not in REPORT_UNASKED


def gives_length(recording: Recording) -> bool:
    """Whether the provider sends the reply with a content-length."""
    if not recording["response_body"] and not PASSES_EMPTY_REPLIES:
        return True
    return zlib.crc32(recording["id"].encode()) % 2 == 0


# --- the client's side ---


def provider_name(recording: Recording) -> str:
    """The upstream of the exchange."""
    if recording["wire"] == "anthropic-messages":
        return "anthropic"
    vendor: str = recording["vendor"]
    return PROVIDERS.get(vendor, vendor)


def target_at_provider(recording: Recording) -> str:
    """Path and query, without what gateways of their own put before the endpoint: an upstream's URL would have it."""
    tail = "/messages" if recording["wire"] == "anthropic-messages" else "/chat/completions"
    base = recording["path"].removesuffix(tail)
    path = base + tail if base in (*COMMON_BASES, *vendor_named(provider_name(recording)).bases) else tail
    return f"{path}?{recording['query']}" if recording["query"] else path


def _target(recording: Recording) -> str:
    """OpenAI and Anthropic at their own paths, as their SDKs send them; everybody else below their names."""
    target, name = target_at_provider(recording), provider_name(recording)
    return target if name in ("openai", "anthropic") and target.startswith("/v1/") else f"/{name}{target}"


def _send_all(recordings: Sequence[Recording], url: str) -> list[httpx.Response]:
    with httpx.Client(base_url=url, timeout=ANSWER_SECONDS_MAX) as client, ThreadPoolExecutor(CLIENTS) as pool:

        def send(recording: Recording) -> httpx.Response:
            headers = {"content-type": "application/json", REPLAY_ID: recording["id"], PROJECT: recording["id"]}
            return client.post(_target(recording), content=recording["request_body"].encode(), headers=headers)

        return list(pool.map(send, recordings))


def _usage_records(mesh: Mesh) -> Iterator[UsageRecord]:
    with grpc.insecure_channel(mesh.grpc) as channel:
        stub, token = PolicyServiceStub(channel), ""
        while True:
            page = stub.ListUsage(ListUsageRequest(page_token=token), timeout=ANSWER_SECONDS_MAX)
            yield from page.usage_records
            token = page.next_page_token
            if not token:
                return


# --- the provider's side ---


class _Provider:
    """An ASGI app that answers each request with the reply that was recorded for it."""

    def __init__(self, recordings: Iterable[Recording], mesh: Mesh) -> None:
        self._recordings = {recording["id"]: recording for recording in recordings}
        self._mesh = mesh
        self.arrivals: dict[str, Arrival] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        recording = self._recordings[headers[REPLAY_ID]]
        target = b"?".join(part for part in (scope["raw_path"], scope["query_string"]) if part).decode()
        body = await _whole(receive)
        held = await asyncio.to_thread(self._mesh.balance, "each", project=recording["id"])
        self.arrivals[recording["id"]] = Arrival(target, headers, body, held)
        await _answer(recording, send)


async def _whole(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def _answer(recording: Recording, send: Send) -> None:
    body = recording["response_body"].encode()
    headers = [(b"content-type", content_type(recording).encode())]
    if gives_length(recording):
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": recording["status"], "headers": headers})
    for chunk in random_chunks(body, Random(recording["id"])):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        # Lets the chunk leave by itself.
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


def content_type(recording: Recording) -> str:
    """As recorded, or, where no headers were, as its framing has it."""
    headers = {name.lower(): value for name, value in recording["response_headers"].items()}
    return headers.get("content-type") or ("text/event-stream" if recording["framing"] == "sse" else "application/json")

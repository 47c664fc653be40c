"""Realtime sessions through real Envoy: real WebSocket clients, official SDKs, and a provider that speaks frames."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from google import genai
from google.genai import errors as genai_errors
from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from policyd.core.usage import Usage
from tests.builders import price_of
from tests.e2e.conftest import Start
from tests.e2e.mesh import Mesh

POLICY = """
version: 1
identity:
  project: [{header: x-policyd-project}]
limits:
  - {name: spend, per: [project], cost_usd: 0.60, window: lifetime}
  - {name: open, per: [project], concurrent_requests: 1}
"""

SECONDS_MAX = 20

USAGE = Usage(input=80, cached_input=20, output=10, audio_output=1_200)
COST = price_of("gpt-realtime").cost_nanos(USAGE)
LIVE_COST = price_of("gemini-live-2.5-flash", "google").cost_nanos(Usage(input=12, audio_output=30))

DONE = {
    "type": "response.done",
    "event_id": "event_3",
    "response": {
        "status": "completed",
        "usage": {
            "input_tokens": 100,
            "output_tokens": 1_210,
            "input_token_details": {
                "text_tokens": 100,
                "cached_tokens": 20,
                "cached_tokens_details": {"text_tokens": 20},
            },
            "output_token_details": {"text_tokens": 10, "audio_tokens": 1_200},
        },
    },
}
LIVE_USAGE = {
    "promptTokenCount": 12,
    "responseTokenCount": 30,
    "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 30}],
}


class Sessions:
    """A provider of OpenAI Realtime and of Gemini Live on a port of loopback."""

    def __init__(self) -> None:
        self.url = ""
        self.heard: Counter[str] = Counter()
        """What clients sent, by type."""
        self.extensions: list[str] = []
        self.close_codes: list[int | None] = []
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()

    @contextmanager
    def running(self) -> Iterator[Sessions]:
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(listening),))
        thread.start()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()
            self._loop.close()

    async def _serve(self, listening: socket.socket) -> None:
        async with serve(self._session, sock=listening):
            await self._stop.wait()

    async def _session(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.extensions += connection.request.headers.get_all("sec-websocket-extensions")
        live = connection.request.path.startswith("/ws/")
        try:
            if not live:
                await connection.send(json.dumps({"type": "session.created", "event_id": "event_1", "session": {}}))
            async for message in connection:
                await (self._live if live else self._openai)(connection, json.loads(message))
        except ConnectionClosed:
            pass
        await connection.wait_closed()
        self.close_codes.append(connection.close_code)

    async def _openai(self, connection: ServerConnection, event: dict[str, Any]) -> None:
        self.heard[event["type"]] += 1
        if event["type"] != "response.create":
            return
        await connection.send(json.dumps({"type": "response.created", "event_id": "event_2", "response": {}}))
        delta = {"type": "response.output_text.delta", "event_id": "event_4", "delta": "hello "}
        # In fragments, with a ping in between.
        await connection.send(piece for piece in (json.dumps(delta)[:20], json.dumps(delta)[20:]))
        await connection.ping()
        if event.get("response", {}).get("instructions") != "hang":
            await connection.send(json.dumps(DONE))

    async def _live(self, connection: ServerConnection, event: dict[str, Any]) -> None:
        self.heard[next(iter(event), "")] += 1
        if "setup" in event:
            await connection.send(json.dumps({"setupComplete": {}}).encode())
            return
        said = {"serverContent": {"outputTranscription": {"text": "Hello."}}}
        ended = {"serverContent": {"turnComplete": True}, "usageMetadata": LIVE_USAGE}
        await connection.send(json.dumps(said).encode())
        await connection.send(json.dumps(ended).encode())


@pytest.fixture(scope="module")
def sessions() -> Iterator[Sessions]:
    with Sessions().running() as running:
        yield running


@pytest.fixture(scope="module")
def mesh(start: Start, sessions: Sessions) -> Mesh:
    return start(POLICY, upstreams={"openai": sessions.url, "google": sessions.url})


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture(autouse=True)
async def in_time() -> AsyncIterator[None]:
    async with asyncio.timeout(SECONDS_MAX):
        yield


def dial(mesh: Mesh, project: str, path: str = "/v1/realtime?model=gpt-realtime") -> connect:
    return connect(f"ws://{mesh.listen}{path}", additional_headers={"x-policyd-project": project})


async def respond(connection: ClientConnection) -> list[str]:
    """Asks for a response; the types of what came, up to its end."""
    await connection.send(json.dumps({"type": "response.create"}))
    types: list[str] = []
    while not types or types[-1] != "response.done":
        types.append(json.loads(await connection.recv())["type"])
    return types


async def closing(connection: ClientConnection) -> AsyncIterator[str | bytes]:
    """What comes until the connection is closed."""
    try:
        while True:
            yield await connection.recv()
    except ConnectionClosed:
        pass


async def settled(mesh: Mesh, project: str, *, count: int) -> list[dict[str, Any]]:
    """The log lines of a session, the last of which is its own."""
    return await asyncio.to_thread(mesh.records_of, project, count=count)


@pytest.mark.parametrize("path", ["/v1/realtime", "/openai/v1/realtime"])
async def test_each_response_is_charged(mesh: Mesh, sessions: Sessions, project: str, path: str) -> None:
    async with dial(mesh, project, f"{path}?model=gpt-realtime") as connection:
        assert connection.response is not None
        request_id = connection.response.headers["x-policyd-request-id"]
        assert json.loads(await connection.recv())["type"] == "session.created"
        for _ in range(2):
            assert await respond(connection) == ["response.created", "response.output_text.delta", "response.done"]
        pong = await connection.ping()
        await pong
    lines = await settled(mesh, project, count=4)
    assert [(line["request_id"].removeprefix(request_id), line["outcome"]) for line in lines] == [
        ("-1", "served"),
        ("-2", "served"),
        ("-3", "released"),
        ("", "served"),
    ]
    assert mesh.balance("spend", project=project).spent == 2 * COST
    assert mesh.balance("spend", project=project).reserved == 0
    assert mesh.balance("open", project=project).reserved == 0
    assert sessions.extensions == []


async def test_a_session_is_cut_at_its_limit(mesh: Mesh, sessions: Sessions, project: str) -> None:
    async with dial(mesh, project) as connection:
        for _ in range(3):
            await respond(connection)
        await connection.wait_closed()
    assert connection.close_code == 1008
    lines = await settled(mesh, project, count=5)
    assert sorted(line["outcome"] for line in lines) == ["cut", "denied", "served", "served", "served"]
    assert mesh.balance("spend", project=project).spent == 3 * COST
    with pytest.raises(InvalidStatus) as refused:
        await dial(mesh, project)
    assert refused.value.response.status_code == 402


async def test_a_client_is_told_why_its_session_ends(mesh: Mesh, project: str) -> None:
    events = []
    async with dial(mesh, project) as connection:
        await connection.recv()
        for _ in range(2):
            await respond(connection)
        await connection.send(json.dumps({"type": "response.create"}))
        events = [json.loads(message) async for message in closing(connection)]
    assert [event["type"] for event in events[-2:]] == ["response.done", "error"]
    assert events[-1]["error"]["policyd"]["limits"][0]["name"] == "spend"


async def test_a_second_session_has_no_place(mesh: Mesh, project: str) -> None:
    async with dial(mesh, project) as connection:
        await connection.recv()
        with pytest.raises(InvalidStatus) as refused:
            await dial(mesh, project)
    body = json.loads(refused.value.response.body or b"")
    assert body["error"]["policyd"]["reason"] == "concurrency_limit_exceeded"


async def test_a_hang_up_is_settled(mesh: Mesh, project: str) -> None:
    async with dial(mesh, project) as connection:
        await connection.recv()
        await connection.send(json.dumps({"type": "response.create", "response": {"instructions": "hang"}}))
        await connection.recv()
        await connection.recv()
        connection.transport.abort()
    lines = await settled(mesh, project, count=2)
    assert [(line["outcome"], line["usage_source"]) for line in lines] == [
        ("disconnected", "counted"),
        ("disconnected", "none"),
    ]
    assert mesh.balance("spend", project=project).spent > 0
    assert mesh.balance("spend", project=project).reserved == 0


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/models", "/openai/v1/realtime/sessions", "/google/v1beta/models"]
)
async def test_no_other_path_takes_a_websocket(mesh: Mesh, project: str, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await dial(mesh, project, path)
    assert refused.value.response.status_code == 403


async def test_openais_sdk(mesh: Mesh, project: str) -> None:
    client = AsyncOpenAI(
        api_key="sk-test", base_url=f"{mesh.url}/v1", default_headers={"x-policyd-project": project}, max_retries=0
    )
    async with client.realtime.connect(
        model="gpt-realtime", extra_headers={"x-policyd-project": project}
    ) as connection:
        await connection.response.create()
        async for event in connection:
            if event.type == "response.done":
                break
    await settled(mesh, project, count=3)
    assert mesh.balance("spend", project=project).spent == COST


def live_client(mesh: Mesh, project: str) -> genai.Client:
    """Google's SDK goes to an address that is given whole as it stands, and would then insist on TLS."""
    path = "/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent"
    client = genai.Client(
        vertexai=True,
        http_options=genai.types.HttpOptions(
            base_url=f"ws://{mesh.listen}{path}", headers={"x-policyd-project": project}
        ),
    )
    client._api_client._websocket_ssl_ctx = {}
    return client


async def test_googles_sdk(mesh: Mesh, sessions: Sessions, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    client = live_client(mesh, project)
    async with client.aio.live.connect(model="gemini-live-2.5-flash", config={}) as session:
        for _ in range(2):
            await session.send_client_content(
                turns=genai.types.Content(role="user", parts=[genai.types.Part(text="Hello?")]), turn_complete=True
            )
            async for message in session.receive():
                last = message
            assert last.usage_metadata is not None
    lines = await settled(mesh, project, count=4)
    assert {line["model"] for line in lines} == {"gemini-live-2.5-flash"}
    assert mesh.balance("spend", project=project).spent == 2 * LIVE_COST


async def test_googles_sdk_is_told_why_its_session_ends(mesh: Mesh, project: str) -> None:
    # What another session holds leaves no room for this one's place.
    async with dial(mesh, project) as connection:
        await connection.recv()
        with pytest.raises(genai_errors.APIError) as refused:
            async with live_client(mesh, project).aio.live.connect(model="gemini-live-2.5-flash", config={}):
                pass
    assert refused.value.code == 1008
    assert "open" in str(refused.value)
    assert mesh.balance("spend", project=project).spent == 0

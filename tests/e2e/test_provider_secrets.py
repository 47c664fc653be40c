"""The providers' keys from policyd's own secret file, on real Envoy: with official SDKs, over WebSockets, on Redis."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from policyd.demo.provider import SimulatedProvider
from tests.e2e.conftest import written
from tests.e2e.mesh import Mesh, policyd_up
from tests.stores.redis_server import running as running_redis

POLICY = """
version: 1
api_keys: required
identity:
  project: [{api_key: project}]
limits:
  - {name: spend, per: [project], cost_usd: 5.00, window: lifetime}
"""

SECONDS_MAX = 30
MESSAGES: Any = [{"role": "user", "content": "Say hello."}]
MASTER_KEY = b64encode(secrets.token_bytes(32)).decode()
OPENAI_KEY, ACME_KEY, ANTHROPIC_KEY = (f"sk-canary-{name}-0123456789" for name in ("openai", "acme", "anthropic"))

USAGE = {"input_tokens": 10, "output_tokens": 5, "output_token_details": {"text_tokens": 5}}


@dataclass
class Site:
    """A mesh, its files, and the keys that its clients have."""

    folder: Path
    store: str
    mesh: Mesh
    keys: dict[str, str] = field(default_factory=dict)
    """By project."""

    @property
    def secret_file(self) -> Path:
        return self.folder / "secrets"

    @property
    def stderr(self) -> bytes:
        return (self.folder / "stderr").read_bytes()

    async def chat(self, project: str) -> None:
        url = f"{self.mesh.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=self.keys[project], timeout=SECONDS_MAX) as client:
            await client.chat.completions.create(model="gpt-4o", max_tokens=20, messages=MESSAGES)

    async def message(self, project: str) -> None:
        async with anthropic.AsyncAnthropic(base_url=self.mesh.url, api_key=self.keys[project]) as client:
            await client.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=MESSAGES)


def environ(folder: Path) -> dict[str, str]:
    return {"POLICYD_SECRETS": str(folder / "secrets"), "POLICYD_SECRETS_KEY": MASTER_KEY}


def command(folder: Path, *arguments: str, typed: str = "") -> str:
    """What a command says on standard output."""
    ran = subprocess.run(
        [sys.executable, "-m", "policyd", *arguments],
        env={**os.environ, **environ(folder)},
        input=typed,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@contextmanager
def site(folder: Path, upstreams: dict[str, str], *, store: str = "", policy: str = POLICY) -> Iterator[Site]:
    for arguments, key in (
        (("openai",), OPENAI_KEY),
        (("openai", "--project", "acme"), ACME_KEY),
        (("anthropic",), ANTHROPIC_KEY),
    ):
        command(folder, "secrets", "set", *arguments, typed=key)
    store = store or f"sqlite:///{folder}/policyd.db"
    path = written(policy, folder=folder)
    with (
        (folder / "stderr").open("wb") as stderr,
        policyd_up(upstreams=upstreams, store=store, policy=path, environ=environ(folder), stderr=stderr) as mesh,
    ):
        it = Site(folder, store, mesh)
        for project in ("acme", "other"):
            it.keys[project] = command(folder, "keys", "create", project, f"project={project}", "--store", store)
        yield it


@pytest.fixture
def simulated(provider: SimulatedProvider) -> dict[str, str]:
    provider.reset()
    return {"openai": provider.url, "anthropic": provider.url}


def arrived(provider: SimulatedProvider) -> dict[str, str]:
    """The headers of the last request."""
    last = provider.served.last_request
    assert last is not None
    return dict(last.headers)


async def test_each_project_goes_upstream_with_its_key(
    provider: SimulatedProvider, simulated: dict[str, str], tmp_path: Path
) -> None:
    with site(tmp_path, simulated) as it:
        await it.chat("acme")
        assert arrived(provider)["authorization"] == f"Bearer {ACME_KEY}"
        await it.chat("other")
        assert arrived(provider)["authorization"] == f"Bearer {OPENAI_KEY}"
        await it.message("acme")
        assert ANTHROPIC_KEY in arrived(provider).get("x-api-key", "") + arrived(provider).get("authorization", "")
        async with httpx.AsyncClient(timeout=SECONDS_MAX) as client:
            body = {"model": "claude-haiku-4-5", "max_tokens": 20, "messages": MESSAGES}
            headers = {"x-api-key": it.keys["other"]}
            assert (await client.post(f"{it.mesh.url}/v1/messages", json=body, headers=headers)).status_code == 200
        assert arrived(provider)["x-api-key"] == ANTHROPIC_KEY
        assert "authorization" not in arrived(provider)


async def test_a_new_key_is_in_force_without_a_restart(
    provider: SimulatedProvider, simulated: dict[str, str], tmp_path: Path
) -> None:
    with site(tmp_path, simulated) as it:
        await it.chat("acme")
        command(tmp_path, "secrets", "set", "openai", "--project", "acme", typed="sk-the-next-one")
        # It would be read within a second; told so it is read at once.
        it.mesh.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(SECONDS_MAX):
            while arrived(provider)["authorization"] != "Bearer sk-the-next-one":
                await it.chat("acme")


async def test_a_missing_key_is_told_by_the_providers_name(
    provider: SimulatedProvider, simulated: dict[str, str], tmp_path: Path
) -> None:
    with site(tmp_path, simulated) as it:
        command(tmp_path, "secrets", "delete", "anthropic")
        it.mesh.process.send_signal(signal.SIGHUP)
        refused = await until_refused(it)
        assert "no key for the provider anthropic" in refused.message
        before = provider.served.requests_received
        with pytest.raises(anthropic.InternalServerError):
            await it.message("acme")
        assert provider.served.requests_received == before
        await it.chat("acme")


async def until_refused(it: Site) -> anthropic.InternalServerError:
    """Asks Anthropic until it is known that there is no key any more."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            try:
                await it.message("acme")
            except anthropic.InternalServerError as error:
                return error


async def test_all_requests_can_get_the_providers_key(
    provider: SimulatedProvider, simulated: dict[str, str], tmp_path: Path
) -> None:
    everybody = POLICY.replace("api_keys: required", "provider_keys: all").replace("api_key: project", "default: acme")
    with site(tmp_path, simulated, policy=everybody) as it:
        async with httpx.AsyncClient(timeout=SECONDS_MAX) as client:
            own = {"authorization": "Bearer sk-own", "x-api-key": "sk-own", "api-key": "sk-own"}
            body = {"model": "gpt-4o", "max_tokens": 20, "messages": MESSAGES}
            url = f"{it.mesh.url}/v1/chat/completions?access_token=sk-own"
            assert (await client.post(url, json=body, headers=own)).status_code == 200
    last = provider.served.last_request
    assert last is not None
    assert dict(last.headers)["authorization"] == f"Bearer {ACME_KEY}"
    assert "sk-own" not in str(last)


async def test_no_secret_is_anywhere(simulated: dict[str, str], tmp_path: Path) -> None:
    """Neither a provider's key nor one of policyd's nor the master key."""
    with site(tmp_path, simulated) as it:
        for project in ("acme", "other"):
            await it.chat(project)
            await it.message(project)
        command(tmp_path, "secrets", "delete", "anthropic")
        it.mesh.process.send_signal(signal.SIGHUP)
        said = [str((await until_refused(it)).body)]
        it.keys["mistyped"] = it.keys["acme"][:-1] + "?"
        with pytest.raises(openai.AuthenticationError) as refused:
            await it.chat("mistyped")
        said += [str(refused.value.body), it.mesh.get("/metrics")[1], command(tmp_path, "secrets", "list", "--json")]
        processes = [it.mesh.process.pid, *children(it.mesh.process.pid)]
        assert len(processes) == 2
        # Envoy has no use for policyd's settings.
        told = [f"/proc/{processes[1]}/environ", *(f"/proc/{pid}/cmdline" for pid in processes)]
        seen = contents(map(Path, told))
        assert it.mesh.stop() == 0
        logged = json.dumps(it.mesh.drain_log())
    everything = seen + contents(files(tmp_path)) + f"{said}{logged}".encode()
    for secret in (*it.keys.values(), OPENAI_KEY, ACME_KEY, ANTHROPIC_KEY, MASTER_KEY):
        assert secret.encode() not in everything
        assert secret.removeprefix("pd_")[:40].encode() not in everything


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def contents(paths: Iterable[Path]) -> bytes:
    return b"".join(path.read_bytes() for path in paths if path.is_file())


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class Realtime:
    """A provider of OpenAI Realtime."""

    url: str
    handshakes: list[dict[str, str]] = field(default_factory=list)

    async def session(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.handshakes.append({name.lower(): value for name, value in connection.request.headers.raw_items()})
        async for message in connection:
            if json.loads(message)["type"] == "response.create":
                await connection.send(json.dumps({"type": "response.created", "response": {}}))
                done = {"status": "completed", "usage": USAGE}
                await connection.send(json.dumps({"type": "response.done", "response": done}))


def chosen(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("realtime") if "realtime" in offered else None


@asynccontextmanager
async def realtime() -> AsyncIterator[Realtime]:
    listening = socket.create_server(("127.0.0.1", 0))
    it = Realtime(f"http://127.0.0.1:{listening.getsockname()[1]}")
    async with serve(it.session, sock=listening, select_subprotocol=chosen):
        yield it


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/policyd.db"
        return
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield f"redis://{server.address}/0?timeout=20s"


async def test_realtime_sessions(store: str, tmp_path: Path) -> None:
    async with realtime() as openais, asyncio.timeout(2 * SECONDS_MAX):
        entering = site(tmp_path, {"openai": openais.url}, store=store)
        it = await asyncio.to_thread(entering.__enter__)
        try:
            await as_browsers_do(it, openais)
            await as_the_sdk_does(it, openais)
            await without_a_key(it, openais)
        finally:
            await asyncio.to_thread(entering.__exit__, None, None, None)


async def as_browsers_do(it: Site, openais: Realtime) -> None:
    offered = ["realtime", f"openai-insecure-api-key.{it.keys['acme']}", "openai-beta.realtime-v1"]
    url = f"ws://{it.mesh.listen}/v1/realtime?model=gpt-realtime"
    async with connect(url, subprotocols=[Subprotocol(each) for each in offered]) as connection:
        assert connection.subprotocol == "realtime"
        await connection.send(json.dumps({"type": "response.create"}))
        while json.loads(await connection.recv())["type"] != "response.done":
            pass
    handshake = openais.handshakes[-1]
    assert handshake["authorization"] == f"Bearer {ACME_KEY}"
    assert handshake["sec-websocket-protocol"] == "realtime, openai-beta.realtime-v1"
    assert it.keys["acme"] not in str(handshake)
    await asyncio.to_thread(it.mesh.records_of, "acme", count=3)
    assert (await asyncio.to_thread(it.mesh.balance, "spend", project="acme")).spent > 0


async def as_the_sdk_does(it: Site, openais: Realtime) -> None:
    client = openai.AsyncOpenAI(api_key=it.keys["other"], base_url=f"{it.mesh.url}/v1", max_retries=0)
    async with client, client.realtime.connect(model="gpt-realtime") as connection:
        await connection.response.create()
        async for event in connection:
            if event.type == "response.done":
                break
    assert openais.handshakes[-1]["authorization"] == f"Bearer {OPENAI_KEY}"


async def without_a_key(it: Site, openais: Realtime) -> None:
    count = len(openais.handshakes)
    await asyncio.to_thread(command, it.folder, "keys", "revoke", "acme", "--store", it.store)
    url = f"ws://{it.mesh.listen}/v1/realtime?model=gpt-realtime"
    for key in (it.keys["acme"], "sk-a-providers-own"):
        offered = ["realtime", f"openai-insecure-api-key.{key}"]
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, subprotocols=[Subprotocol(each) for each in offered])
        assert refused.value.response.status_code == 401
    assert len(openais.handshakes) == count

"""API keys of policyd's own, on real Envoy, with the official SDKs and two servers that share a store."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from policyd.config import HostPort, Settings, open_policy, parse_address
from policyd.demo.provider import SimulatedProvider
from policyd.envoy_config import EnvoySettings, build_bootstrap, parse_upstreams
from policyd.envoy_config.typed import Json, typed
from policyd.server import Server
from policyd.up import EnvoyProcess, find_envoy
from tests.e2e.conftest import written

ANY_PORT = HostPort("127.0.0.1", 0)
REPLY_SECONDS_MAX = 20
COMMAND_SECONDS_MAX = 30

REAL_KEY = "sk-the-operators-own-0123456789"
MESSAGES: Any = [{"role": "user", "content": "Say hello."}]

POLICY = """
version: 1
api_keys: {mode}
identity:
  org: [{{api_key: org}}]
  user: [{{api_key: user}}, {{default: nobody}}]
  key: [{{api_key: name}}]
limits:
  - {{name: org-spend, per: [org], cost_usd: 1.00, window: lifetime}}
"""


@dataclass
class Site:
    """A store and a policy, and two servers with an Envoy each that live by them."""

    folder: Path
    addresses: list[HostPort]
    log: io.BytesIO

    def policyd(self, *arguments: str) -> str:
        """What a command says on standard output."""
        command = [sys.executable, "-m", "policyd", *arguments, "--store", self.store]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    async def command(self, *arguments: str) -> str:
        return await asyncio.to_thread(self.policyd, *arguments)

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder}/policyd.db"

    @property
    def attributes(self) -> list[dict[str, str]]:
        """Of each exchange that the first server has metered, once it has ended."""
        lines = map(json.loads, self.log.getvalue().splitlines())
        return [line["attributes"] for line in lines if line.get("outcome") == "served"]

    async def chat(self, key: str, *, replica: int = 0, model: str = "gpt-4o") -> None:
        """Asks OpenAI, as its SDK does."""
        url = f"http://{self.addresses[replica]}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=2, timeout=REPLY_SECONDS_MAX) as client:
            await client.chat.completions.create(model=model, max_tokens=20, messages=MESSAGES)

    async def models(self, key: str, *, replica: int = 0) -> None:
        """Asks for what is not metered."""
        url = f"http://{self.addresses[replica]}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=2, timeout=REPLY_SECONDS_MAX) as client:
            await client.models.list()

    async def message(self, key: str, *, replica: int = 0) -> None:
        """Asks Anthropic, as its SDK does."""
        url = f"http://{self.addresses[replica]}"
        async with anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=2) as client:
            await client.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=MESSAGES)


@asynccontextmanager
async def site(folder: Path, provider: SimulatedProvider, *, mode: str, replicas: int = 1) -> AsyncIterator[Site]:
    policy_path = written(POLICY.format(mode=mode), folder=folder)
    it = Site(folder, [], io.BytesIO())
    settings = Settings(
        policy_path=policy_path,
        store_url=it.store,
        grpc_address=ANY_PORT,
        ext_proc_address=ANY_PORT,
        http_address=ANY_PORT,
    )
    envoy = EnvoySettings(
        listen_address=ANY_PORT,
        admin_address=ANY_PORT,
        upstreams=parse_upstreams([f"openai={provider.url}", f"anthropic={provider.url}"]),
        policy=open_policy(policy_path),
    )
    if not replicas:
        yield it
        return
    async with Server(settings, log_stream=it.log) as server:
        bootstrap = build_bootstrap(envoy, policyd_addresses=[parse_address(server.ext_proc_address)])
        inject(bootstrap, "openai", header="authorization", prefix="Bearer ", overwrite=mode == "required")
        inject(bootstrap, "anthropic", header="x-api-key", prefix="", overwrite=mode == "required")
        rest_of_it = site(folder, provider, mode=mode, replicas=replicas - 1)
        async with EnvoyProcess(bootstrap, binary=find_envoy()) as process, rest_of_it as rest:
            it.addresses += [process.listen_address, *rest.addresses]
            yield it


def inject(bootstrap: Json, cluster: str, *, header: str, prefix: str, overwrite: bool) -> None:
    """Has Envoy add the provider's real key, as envoy/README.md shows."""
    name = f"{cluster}-key"
    # The prefix stands before the key, as every version of Envoy takes it: `header_value_prefix` is of 1.37.
    secret = {"name": name, "generic_secret": {"secret": {"inline_string": f"{prefix}{REAL_KEY}"}}}
    bootstrap["static_resources"].setdefault("secrets", []).append(secret)
    generic = typed(
        "envoy.extensions.http.injected_credentials.generic.v3.Generic",
        header=header,
        credential={"name": name},
    )
    injector = typed(
        "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
        overwrite=overwrite,
        credential={"name": "envoy.http.injected_credentials.generic", "typed_config": generic},
    )
    codec = typed("envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec")
    (reached,) = [each for each in bootstrap["static_resources"]["clusters"] if each["name"] == cluster]
    (options,) = reached["typed_extension_protocol_options"].values()
    options["http_filters"] = [
        {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
        {"name": "envoy.filters.http.upstream_codec", "typed_config": codec},
    ]


def files_in(folder: Path) -> bytes:
    """All that stands in them."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


def last_headers(provider: SimulatedProvider) -> dict[str, str]:
    last = provider.served.last_request
    assert last is not None
    return dict(last.headers)


async def test_a_key_works_at_once_and_ends_at_once_on_every_replica(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with site(tmp_path, provider, mode="required", replicas=2) as it:
        key = await it.command("keys", "create", "bot", "org=acme,user=ann")
        for replica in (0, 1):
            await it.chat(key, replica=replica)
            assert last_headers(provider)["authorization"] == f"Bearer {REAL_KEY}"
            await it.message(key, replica=replica)
            assert last_headers(provider)["x-api-key"] == REAL_KEY
            await it.models(key, replica=replica)
        provider.reset()
        await it.command("keys", "revoke", "bot")
        for replica in (0, 1):
            for ask, error in (
                (it.chat, openai.AuthenticationError),
                (it.models, openai.AuthenticationError),
                (it.message, anthropic.AuthenticationError),
            ):
                with pytest.raises(error):
                    await ask(key, replica=replica)
        assert provider.served.requests_received == {}
    assert it.attributes == [{"org": "acme", "user": "ann", "key": "bot"}] * 2


async def test_a_successor_and_the_key_before_it(provider: SimulatedProvider, tmp_path: Path) -> None:
    async with site(tmp_path, provider, mode="required") as it:
        first = await it.command("keys", "create", "bot", "org=acme")
        second = await it.command("keys", "rotate", "bot")
        for key in (first, second):
            await it.chat(key)
        third = json.loads(await it.command("keys", "rotate", "bot", "--overlap", "0", "--json"))["key"]
        await it.chat(third)
        for key in (first, second):
            with pytest.raises(openai.AuthenticationError):
                await it.chat(key)


async def test_what_a_key_is_not_for_is_forbidden(provider: SimulatedProvider, tmp_path: Path) -> None:
    async with site(tmp_path, provider, mode="required") as it:
        key = await it.command(
            "keys", "create", "bot", "org=acme", "--model", "gpt-4o*", "--endpoint", "chat.*", "--for", "1h"
        )
        await it.chat(key, model="gpt-4o-mini")
        provider.reset()
        with pytest.raises(openai.PermissionDeniedError, match="not for the model o1"):
            await it.chat(key, model="o1")
        with pytest.raises(openai.PermissionDeniedError, match="not for models"):
            await it.models(key)
        with pytest.raises(anthropic.PermissionDeniedError, match="not for messages"):
            await it.message(key)
        assert provider.served.requests_received == {}


@pytest.mark.parametrize("key", ["", "sk-of-the-client", "pd_mistyped", "pd_" + "A" * 43 + "00000000"])
async def test_whoever_has_no_key_gets_nowhere(key: str, provider: SimulatedProvider, tmp_path: Path) -> None:
    provider.reset()
    async with site(tmp_path, provider, mode="required") as it, httpx.AsyncClient() as client:
        url = f"http://{it.addresses[0]}/v1"
        headers = {"authorization": f"Bearer {key}"} if key else {}
        body = {"model": "gpt-4o", "messages": MESSAGES}
        for reply in (
            await client.post(f"{url}/chat/completions", json=body, headers=headers),
            await client.get(f"{url}/models", headers=headers),
        ):
            assert reply.status_code == 401
            assert reply.json()["error"]["policyd"]["reason"] == "invalid_api_key"
    assert provider.served.requests_received == {}


@pytest.mark.parametrize(
    "header", ["authorization", "x-api-key", "x-goog-api-key", "api-key", "x-project-key", "?key="]
)
async def test_a_key_comes_where_clients_put_keys_and_goes_no_further(
    header: str, provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with site(tmp_path, provider, mode="optional") as it, httpx.AsyncClient() as client:
        key = await it.command("keys", "create", "bot", "org=acme,user=ann")
        query = f"?key={key}&alt=json" if header == "?key=" else ""
        headers = {} if query else {header: f"Bearer {key}" if header == "authorization" else key}
        url = f"http://{it.addresses[0]}/v1/chat/completions{query}"
        body = {"model": "gpt-4o", "max_tokens": 20, "messages": MESSAGES}
        assert (await client.post(url, json=body, headers=headers)).status_code == 200
        last = provider.served.last_request
        assert last is not None
        assert key not in str(last)
        assert last.target == ("/v1/chat/completions?alt=json" if query else "/v1/chat/completions")
        # The provider's own key passes, where keys are optional.
        own = {"authorization": "Bearer sk-of-the-client"}
        assert (await client.post(url.partition("?")[0], json=body, headers=own)).status_code == 200
        assert last_headers(provider)["authorization"] == "Bearer sk-of-the-client"
    assert it.attributes == [{"org": "acme", "user": "ann", "key": "bot"}, {"user": "nobody"}]


async def test_no_key_is_written_anywhere(
    provider: SimulatedProvider, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with site(tmp_path, provider, mode="required") as it:
        key = await it.command("keys", "create", "bot", "org=acme")
        mistyped = key[:-1] + ("0" if key[-1] != "0" else "1")
        await it.chat(key)
        for wrong in (mistyped, "sk-canary-of-the-client"):
            with pytest.raises(openai.AuthenticationError) as refused:
                await it.chat(wrong)
            assert wrong not in str(refused.value)
        listed = await it.command("keys", "list") + await it.command("keys", "list", "--json")
        assert "acme" in listed
        stored = files_in(tmp_path)
    out, err = capfd.readouterr()
    everything = it.log.getvalue() + stored + f"{listed}{out}{err}".encode()
    for secret in (key, key.removeprefix("pd_")[:40], "sk-canary-of-the-client", REAL_KEY):
        assert secret.encode() not in everything

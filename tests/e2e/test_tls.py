"""TLS and bearer tokens on all that policyd serves, with real Envoy, gRPC and HTTP clients."""

from __future__ import annotations

import asyncio
import datetime
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from policyd.config import HostPort, Settings, Transport, parse_address
from policyd.demo.provider import SimulatedProvider
from policyd.envoy_config import EnvoySettings, PolicydTls, build_bootstrap, parse_upstreams
from policyd.server import Server
from policyd.up import EnvoyProcess, find_envoy
from policyd.v1.policy_service_pb2 import GetBudgetRequest
from policyd.v1.policy_service_pb2_grpc import PolicyServiceStub
from policyd.workers import Supervisor
from tests.e2e.conftest import written
from tests.envoy.certificates import Certificates, make_certificates

ANY_PORT = HostPort("127.0.0.1", 0)
SECONDS_MAX = 20
TOKEN = "a-token-of-this-test-alone"
BODY = {"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "Say hello."}]}
POLICY = "version: 1\nlimits: []\n"


@pytest.fixture
def ours(tmp_path: Path) -> Certificates:
    """What policyd and Envoy trust."""
    return _made(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Certificates:
    """Of an authority that nobody trusts."""
    return _made(tmp_path / "theirs")


def _made(folder: Path, **lasting: datetime.timedelta) -> Certificates:
    folder.mkdir()
    return make_certificates(folder, **lasting)


def secured(certificates: Certificates, folder: Path, *, transport: Transport = Transport.H2RPC) -> Settings:
    """Settings of a server with its own certificate that asks its clients for theirs."""
    return Settings(
        policy_path=written(POLICY, folder=folder),
        store_url="memory://",
        grpc_address=ANY_PORT,
        ext_proc_address=ANY_PORT,
        http_address=ANY_PORT,
        transport=transport,
        tls_cert_path=certificates.server,
        tls_key_path=certificates.server,
        tls_client_ca_path=certificates.authority,
    )


def token_file(folder: Path) -> Path:
    file = folder / "tokens"
    file.write_text(TOKEN)
    return file


def envoys(certificates: Certificates) -> PolicydTls:
    """How Envoy reaches a policyd with these certificates."""
    return PolicydTls(certificates.authority, certificates.client, certificates.client)


async def ask(server: Server, provider: SimulatedProvider, tls: PolicydTls | None) -> int:
    """The status of a request through an Envoy that reaches policyd in that way."""
    envoy = EnvoySettings(
        listen_address=ANY_PORT,
        admin_address=ANY_PORT,
        upstreams=parse_upstreams([f"openai={provider.url}"]),
        policyd_tls=tls,
    )
    bootstrap = build_bootstrap(envoy, policyd_addresses=[parse_address(server.ext_proc_address)])
    async with (
        EnvoyProcess(bootstrap, binary=find_envoy()) as process,
        httpx.AsyncClient(timeout=SECONDS_MAX) as client,
    ):
        return (await client.post(f"http://{process.listen_address}/v1/chat/completions", json=BODY)).status_code


# --- Envoy ---


@pytest.mark.parametrize("transport", [*Transport], ids=str)
async def test_envoy_reaches_policyd_by_mutual_tls_and_otherwise_not_at_all(
    provider: SimulatedProvider, ours: Certificates, theirs: Certificates, tmp_path: Path, transport: Transport
) -> None:
    provider.reset()
    async with Server(secured(ours, tmp_path, transport=transport)) as server:
        assert await ask(server, provider, envoys(ours)) == 200
        served = dict(provider.served.requests_received)
        trusted = envoys(ours)
        for tls in (
            None,
            PolicydTls(ours.authority),
            PolicydTls(ours.authority, theirs.client, theirs.client),
            replace(trusted, ca=theirs.authority),
        ):
            assert await ask(server, provider, tls) == 500
        assert provider.served.requests_received == served


@pytest.mark.parametrize("transport", [*Transport], ids=str)
async def test_an_expired_certificate_is_not_served_by(
    provider: SimulatedProvider, tmp_path: Path, transport: Transport
) -> None:
    expired = _made(tmp_path / "expired", lasting=datetime.timedelta(minutes=-1))
    async with Server(secured(expired, tmp_path, transport=transport)) as server:
        assert await ask(server, provider, envoys(expired)) == 500


# --- other services ---


@asynccontextmanager
async def connected(address: str, tls: grpc.ChannelCredentials) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.secure_channel(address, tls) as channel:
        yield channel


def clients(authority: Certificates, own: Certificates | None) -> grpc.ChannelCredentials:
    """Of a client that trusts `authority` and shows the certificate of `own`."""
    pem = own.client.read_bytes() if own is not None else None
    return grpc.ssl_channel_credentials(authority.authority.read_bytes(), pem, pem)


async def budget(channel: grpc.aio.Channel, *, token: str | None = None) -> grpc.StatusCode:
    """How a call of PolicyService ends."""
    metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
    try:
        await PolicyServiceStub(channel).GetBudget(GetBudgetRequest(), timeout=SECONDS_MAX, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_services_need_a_certificate_and_a_token(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    settings = replace(secured(ours, tmp_path), access_tokens_path=token_file(tmp_path))
    async with Server(settings) as server:
        for own in (None, theirs):
            async with connected(server.grpc_address, clients(ours, own)) as channel:
                assert await budget(channel, token=TOKEN) is grpc.StatusCode.UNAVAILABLE
        async with connected(server.grpc_address, clients(ours, ours)) as channel:
            assert await budget(channel, token=TOKEN) is grpc.StatusCode.OK
            assert await budget(channel, token=f"{TOKEN}-not") is grpc.StatusCode.UNAUTHENTICATED
            assert await budget(channel) is grpc.StatusCode.UNAUTHENTICATED
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS_MAX)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_certificates_and_tokens_are_replaced_while_it_runs(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    tokens = token_file(tmp_path)
    async with Server(replace(secured(ours, tmp_path), access_tokens_path=tokens)) as server:

        async def outcome(authority: Certificates, token: str) -> grpc.StatusCode:
            async with connected(server.grpc_address, clients(authority, authority)) as channel:
                return await budget(channel, token=token)

        assert await outcome(ours, TOKEN) is grpc.StatusCode.OK
        shutil.copy(theirs.authority, ours.authority)
        shutil.copy(theirs.server, ours.server)
        tokens.write_text("another-token-of-this-test")
        async with asyncio.timeout(SECONDS_MAX):
            while await outcome(theirs, "another-token-of-this-test") is not grpc.StatusCode.OK:  # noqa: ASYNC110 - a file is polled
                await asyncio.sleep(0.1)
        assert await outcome(theirs, TOKEN) is grpc.StatusCode.UNAUTHENTICATED


# --- metrics and health ---


def browser(authority: Certificates, own: Certificates | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.authority))
    if own is not None:
        context.load_cert_chain(own.client)
    return context


async def test_metrics_need_both_and_health_neither(ours: Certificates, theirs: Certificates, tmp_path: Path) -> None:
    settings = replace(secured(ours, tmp_path), access_tokens_path=token_file(tmp_path))
    bearer = {"authorization": f"Bearer {TOKEN}"}
    async with Server(settings) as server:
        url = f"https://{server.http_address}"
        async with httpx.AsyncClient(verify=browser(ours, ours)) as known:
            page = await known.get(f"{url}/metrics", headers=bearer)
            assert page.status_code == 200
            assert "policyd_tls_certificate_expires_seconds" in page.text
            assert (await known.get(f"{url}/metrics")).status_code == 401
        async with httpx.AsyncClient(verify=browser(ours, None)) as probe:
            assert (await probe.get(f"{url}/metrics", headers=bearer)).status_code == 403
            assert (await probe.get(f"{url}/healthz")).status_code == 200
            assert (await probe.get(f"{url}/readyz")).status_code == 200
        async with httpx.AsyncClient(verify=browser(ours, theirs)) as stranger:
            with pytest.raises(httpx.TransportError):
                await stranger.get(f"{url}/healthz")
        async with httpx.AsyncClient() as in_clear:
            with pytest.raises(httpx.TransportError):
                await in_clear.get(f"http://{server.http_address}/healthz")


async def test_workers_are_guarded_like_one_process(ours: Certificates, tmp_path: Path) -> None:
    tokens = token_file(tmp_path)
    told = {
        "POLICYD_CONFIG": str(written(POLICY, folder=tmp_path)),
        "POLICYD_STORE": f"sqlite:///{tmp_path}/policyd.db",
        "POLICYD_TLS_CERT": str(ours.server),
        "POLICYD_TLS_KEY": str(ours.server),
        "POLICYD_TLS_CLIENT_CA": str(ours.authority),
        "POLICYD_ACCESS_TOKENS": str(tokens),
        "POLICYD_WORKERS": "2",
        **{f"POLICYD_{name}": str(ANY_PORT) for name in ("GRPC", "EXT_PROC", "HTTP")},
    }
    settings = Settings.from_environment(told)
    async with Supervisor(settings, {**os.environ, **told}) as server:
        async with connected(server.grpc_address, clients(ours, ours)) as channel:
            assert await budget(channel, token=TOKEN) is grpc.StatusCode.OK
            assert await budget(channel) is grpc.StatusCode.UNAUTHENTICATED
        async with httpx.AsyncClient(verify=browser(ours, ours)) as known:
            page = await known.get(
                f"https://{server.http_address}/metrics", headers={"authorization": f"Bearer {TOKEN}"}
            )
            assert 'worker="1"' in page.text
            assert (await known.get(f"https://{server.http_address}/metrics")).status_code == 401

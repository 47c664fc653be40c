"""Where identity comes from, on real Envoy: what it has verified, and what clients say of themselves."""

from __future__ import annotations

import io
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyd.config import HostPort, Settings, open_policy, parse_address
from policyd.demo.provider import SimulatedProvider
from policyd.envoy_config import EnvoySettings, build_bootstrap, parse_upstreams
from policyd.envoy_config.typed import Json, typed
from policyd.server import Server
from policyd.up import EnvoyProcess, find_envoy
from tests.e2e.conftest import written
from tests.envoy.certificates import CLIENT_URI, Certificates, Issuer, make_certificates

ANY_PORT = HostPort("127.0.0.1", 0)
REPLY_SECONDS_MAX = 20
BODY = {"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "Say hello."}]}


class Gateway:
    """Envoy and policyd under a policy, and what policyd has logged once both have ended."""

    def __init__(self, address: HostPort, log: io.BytesIO) -> None:
        self.address = address
        self._log = log

    @property
    def attributes(self) -> list[dict[str, str]]:
        """Of each exchange that was attributed to anyone."""
        lines = map(json.loads, self._log.getvalue().splitlines())
        return [line["attributes"] for line in lines if line.get("attributes")]

    async def ask(
        self, *, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None, **members: Any
    ) -> httpx.Response:
        scheme = "https" if tls is not None else "http"
        async with httpx.AsyncClient(verify=tls or False, timeout=REPLY_SECONDS_MAX) as client:
            url = f"{scheme}://{self.address}/v1/chat/completions"
            raw = {name.encode(): value.encode() for name, value in (headers or {}).items()}
            return await client.post(url, json={**BODY, **members}, headers=raw)


@asynccontextmanager
async def gateway(
    identity: str, folder: Path, *, provider: str, change: Callable[[Json], None] = lambda _: None
) -> AsyncIterator[Gateway]:
    """`change` is what an operator does to the generated listener."""
    policy_path = written(f"version: 1\nidentity: {identity}\nlimits: []\n", folder=folder)
    settings = Settings(
        policy_path=policy_path,
        store_url="memory://",
        grpc_address=ANY_PORT,
        ext_proc_address=ANY_PORT,
        http_address=ANY_PORT,
    )
    envoy = EnvoySettings(
        listen_address=ANY_PORT,
        admin_address=ANY_PORT,
        upstreams=parse_upstreams([f"openai={provider}"]),
        policy=open_policy(policy_path),
    )
    log = io.BytesIO()
    async with Server(settings, log_stream=log) as server:
        bootstrap = build_bootstrap(envoy, policyd_addresses=[parse_address(server.ext_proc_address)])
        change(bootstrap["static_resources"]["listeners"][0])
        async with EnvoyProcess(bootstrap, binary=find_envoy()) as process:
            yield Gateway(process.listen_address, log)


def connection_manager(listener: Json) -> Json:
    manager: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


# --- what clients say of themselves ---


async def test_cookies_and_body_fields(provider: SimulatedProvider, tmp_path: Path) -> None:
    identity = "{session: [{cookie: sid}], user: [{body: metadata.user_id}, {body: safety_identifier}]}"
    async with gateway(identity, tmp_path, provider=provider.url) as envoy:
        await envoy.ask(headers={"cookie": "theme=dark; sid=s-1; lang=de"}, safety_identifier="ann")
        assert dict(_last(provider))["cookie"] == "theme=dark; lang=de"
        await envoy.ask(headers={"cookie": "sid=s-2"}, metadata={"user_id": "bob"})
        assert "cookie" not in dict(_last(provider))
    assert envoy.attributes == [{"session": "s-1", "user": "ann"}, {"session": "s-2", "user": "bob"}]


async def test_a_value_that_the_policy_does_not_allow_is_refused(provider: SimulatedProvider, tmp_path: Path) -> None:
    identity = '{user: [{header: x-user, pattern: "[a-z0-9-]+", max_length: 8}, {default: nobody}]}'
    provider.reset()
    async with gateway(identity, tmp_path, provider=provider.url) as envoy:
        for value in ("Ann", "ann smith", "ann-ann-ann", "ann\u202e"):
            refused = await envoy.ask(headers={"x-user": value})
            assert refused.status_code == 400
            assert refused.json()["error"]["policyd"]["reason"] == "attribute_invalid"
        assert provider.served.requests_received == {}
        assert (await envoy.ask(headers={"x-user": "ann"})).status_code == 200
        assert (await envoy.ask()).status_code == 200
    assert envoy.attributes[-2:] == [{"user": "ann"}, {"user": "nobody"}]


# --- what Envoy has found out ---


def with_tokens(issuer: Issuer) -> Callable[[Json], None]:
    def change(listener: Json) -> None:
        provider = {
            "issuer": issuer.name,
            "local_jwks": {"inline_string": issuer.jwks},
            "from_headers": [{"name": "x-token"}],
            "payload_in_metadata": "token",
        }
        message = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
        rules = [{"match": {"prefix": "/"}, "requires": {"provider_name": "corporate"}}]
        config = typed(message, providers={"corporate": provider}, rules=rules)
        connection_manager(listener)["http_filters"].insert(
            0, {"name": "envoy.filters.http.jwt_authn", "typed_config": config}
        )

    return change


async def test_claims_of_a_token_that_envoy_has_verified(provider: SimulatedProvider, tmp_path: Path) -> None:
    issuer = Issuer("https://login.example")
    identity = """
      user: [{claim: sub}]
      org: [{claim: "https://example.com/org"}]
      team: [{claim: realm.team}]
      level: [{claim: level}]
      groups: [{claim: groups}, {default: none}]
"""
    claims = {"sub": "ann", "https://example.com/org": "acme", "realm": {"team": "red"}, "level": 3, "groups": ["a"]}
    async with gateway(identity, tmp_path, provider=provider.url, change=with_tokens(issuer)) as envoy:
        assert (await envoy.ask(headers={"x-token": issuer.token(**claims)})).status_code == 200
        # The same name, another's signature; and none at all.
        forged = Issuer(issuer.name).token(**claims)
        assert (await envoy.ask(headers={"x-token": forged})).status_code == 401
        assert (await envoy.ask()).status_code == 401
        assert "x-token" not in dict(_last(provider))
    assert envoy.attributes == [{"user": "ann", "org": "acme", "team": "red", "level": "3", "groups": "none"}]


def with_client_certificates(certificates: Certificates) -> Callable[[Json], None]:
    def change(listener: Json) -> None:
        server = {"filename": str(certificates.server)}
        listener["filter_chains"][0]["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                require_client_certificate=True,
                common_tls_context={
                    "tls_certificates": [{"certificate_chain": server, "private_key": server}],
                    "validation_context": {"trusted_ca": {"filename": str(certificates.authority)}},
                },
            ),
        }

    return change


async def test_the_peer_of_mutual_tls(provider: SimulatedProvider, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    identity = "{team: [{peer: uri}], service: [{peer: dns}], name: [{peer: subject}], print: [{peer: sha256}]}"
    tls = ssl.create_default_context(cafile=str(certificates.authority))
    change = with_client_certificates(certificates)
    async with gateway(identity, tmp_path, provider=provider.url, change=change) as envoy:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await envoy.ask(tls=tls)
        tls.load_cert_chain(certificates.client)
        # What a client says of certificates is not what one is.
        claimed = {"x-forwarded-client-cert": "URI=spiffe://mesh.example/team/other"}
        assert (await envoy.ask(tls=tls, headers=claimed)).status_code == 200
    ((attributes),) = envoy.attributes
    assert len(attributes.pop("print")) == 64
    assert attributes == {"team": CLIENT_URI, "service": "research.mesh.example", "name": "CN=client"}


@pytest.mark.parametrize(("trusted_hops", "address"), [(0, "127.0.0.1"), (1, "203.0.113.9")])
async def test_the_clients_address_is_as_envoy_computes_it(
    provider: SimulatedProvider, tmp_path: Path, trusted_hops: int, address: str
) -> None:
    def change(listener: Json) -> None:
        connection_manager(listener)["xff_num_trusted_hops"] = trusted_hops

    identity = "{client: [{address: client}]}"
    async with gateway(identity, tmp_path, provider=provider.url, change=change) as envoy:
        await envoy.ask(headers={"x-forwarded-for": "198.51.100.7, 203.0.113.9"})
        assert "x-forwarded-for" not in dict(_last(provider))
    assert envoy.attributes == [{"client": address}]


async def test_the_metadata_of_a_route(provider: SimulatedProvider, tmp_path: Path) -> None:
    def change(listener: Json) -> None:
        for route in connection_manager(listener)["route_config"]["virtual_hosts"][0]["routes"]:
            route["metadata"] = {"filter_metadata": {"policyd": {"team": "batch"}}}

    identity = "{team: [{route: team}], other: [{route: other}, {default: none}]}"
    async with gateway(identity, tmp_path, provider=provider.url, change=change) as envoy:
        await envoy.ask(headers={"team": "forged"})
    assert envoy.attributes == [{"team": "batch", "other": "none"}]


def _last(provider: SimulatedProvider) -> tuple[tuple[str, str], ...]:
    last = provider.served.last_request
    assert last is not None
    return last.headers

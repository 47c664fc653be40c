"""What passes through the generated Envoy, and what does not: headers, bodies, TLS, and a policyd that is not there."""

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from policyd.envoy_config import build_bootstrap
from policyd.envoy_config.listener import CREDENTIAL_HEADERS
from policyd.up import EnvoyProcess, find_envoy
from tests.e2e.envoy_version import PREFIXES_CREDENTIALS
from tests.e2e.providers import signature
from tests.e2e.providers.simulated import Arrival
from tests.envoy.rig import CA, NOBODY, envoy, ext_proc, loopback, readme_examples, request, upstream

CREDENTIALS = {name: f"secret-{name}" for name in CREDENTIAL_HEADERS if name != "set-cookie"}

NEEDED_BY_POLICYD = {
    "content-type": "application/json",
    "content-encoding": "gzip",
    "accept-encoding": "gzip",
    "x-policyd-project": "apollo",
    "x-team": "research",
    "openai-organization": "org-1",
}


async def test_credentials_reach_the_provider_and_never_policyd() -> None:
    async with (
        upstream() as openai,
        ext_proc() as policyd,
        envoy(loopback(f"openai={openai.url}"), policyd_address=policyd.address) as process,
    ):
        headers = {name.title(): value for name, value in {**CREDENTIALS, **NEEDED_BY_POLICYD}.items()}
        reply = await request(
            process.listen_address, "/v1/chat/completions", method="POST", headers=headers, body=b"{}"
        )
    assert reply.status == 200
    (seen,), (exchange,) = openai.seen, policyd.exchanges
    assert seen.headers.items() >= {**CREDENTIALS, **NEEDED_BY_POLICYD}.items()
    assert "secret" not in str(exchange)
    assert exchange.request_headers.items() >= NEEDED_BY_POLICYD.items()
    assert (
        exchange.request_headers.items()
        >= {
            ":method": "POST",
            ":path": "/v1/chat/completions",
            ":authority": "localhost",
            "content-length": "2",
        }.items()
    )
    # The reply's too.
    assert reply.headers["set-cookie"] == "session=secret"
    assert exchange.response_headers[":status"] == "200"


@PREFIXES_CREDENTIALS
async def test_a_key_from_a_file_reaches_the_provider_and_never_policyd(tmp_path: Path) -> None:
    *_, injection, secrets, _, _ = readme_examples()
    key_file = tmp_path / "openai-key"
    key_file.write_text("sk-from-a-file")
    secrets["secrets"][0]["generic_secret"]["secret"]["filename"] = str(key_file)
    async with upstream() as openai, ext_proc() as policyd:
        bootstrap = build_bootstrap(loopback(f"openai={openai.url}"), policyd_addresses=[policyd.address])
        bootstrap["static_resources"] |= secrets
        (options,) = bootstrap["static_resources"]["clusters"][1]["typed_extension_protocol_options"].values()
        options |= injection
        async with EnvoyProcess(bootstrap, binary=find_envoy()) as process:
            headers = {"authorization": "Bearer sk-of-the-client"}
            assert (await request(process.listen_address, "/v1/models", headers=headers)).status == 200
    assert openai.seen[0].headers["authorization"] == "Bearer sk-from-a-file"
    assert "sk-" not in str(policyd.exchanges)


@pytest.mark.parametrize("model", ["amazon.nova-lite-v1%3A0", "arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ap%2Fnova"])
async def test_envoy_signs_what_policyd_lets_pass(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up-secret")
    *_, signing = readme_examples()
    async with upstream() as bedrock, ext_proc() as policyd:
        bootstrap = build_bootstrap(loopback(f"aws={bedrock.url}"), policyd_addresses=[policyd.address])
        (options,) = bootstrap["static_resources"]["clusters"][1]["typed_extension_protocol_options"].values()
        options |= signing
        async with EnvoyProcess(bootstrap, binary=find_envoy()) as process:
            path = f"/aws/model/{model}/converse"
            reply = await request(process.listen_address, path, method="POST", body=b'{"messages":[]}')
    assert reply.status == 200
    (seen,) = bedrock.seen
    assert seen.path == f"/model/{model}/converse"
    assert signature.holds(Arrival(seen.method, seen.path, seen.headers, seen.body), secret_key="made-up-secret")
    assert "authorization" not in policyd.exchanges[0].request_headers


async def test_a_large_prompt_reaches_policyd_whole_before_the_provider() -> None:
    body = bytes(range(250)) * 16_000
    async with (
        upstream() as openai,
        ext_proc() as policyd,
        envoy(loopback(f"openai={openai.url}"), policyd_address=policyd.address) as process,
    ):
        reply = await request(process.listen_address, "/v1/chat/completions", method="POST", body=body)
    assert reply.status == 200
    assert policyd.exchanges[0].request_body == body
    assert openai.seen[0].body == body


async def test_a_body_over_the_buffer_is_refused() -> None:
    async with (
        upstream() as openai,
        ext_proc() as policyd,
        envoy(
            replace(loopback(f"openai={openai.url}"), buffer_bytes_max=65_536), policyd_address=policyd.address
        ) as process,
    ):
        reply = await request(process.listen_address, "/v1/chat/completions", method="POST", body=bytes(200_000))
    assert reply.status == 413
    assert openai.seen == []


async def test_without_policyd_nothing_reaches_the_provider() -> None:
    async with upstream() as openai, envoy(loopback(f"openai={openai.url}"), policyd_address=NOBODY) as process:
        reply = await request(process.listen_address, "/v1/chat/completions", method="POST", body=b"{}")
    assert reply.status == 500
    assert openai.seen == []


async def test_the_access_log_has_no_query_string(capfd: pytest.CaptureFixture[str]) -> None:
    async with (
        upstream() as openai,
        ext_proc() as policyd,
        envoy(loopback(f"openai={openai.url}", access_log=True), policyd_address=policyd.address) as process,
    ):
        await request(process.listen_address, "/openai/v1/models?key=secret")
    out = capfd.readouterr().out
    assert "secret" not in out
    line = json.loads(out)
    assert (line["event"], line["method"], line["path"], line["route"]) == ("access", "GET", "/v1/models", "openai")
    assert line["status"] == 200


async def test_there_is_no_access_log_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    async with (
        upstream() as openai,
        ext_proc() as policyd,
        envoy(loopback(f"openai={openai.url}"), policyd_address=policyd.address) as process,
    ):
        await request(process.listen_address, "/openai/v1/models")
    assert capfd.readouterr() == ("", "")


async def test_a_provider_is_asked_for_by_name_and_has_to_prove_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CA))
    async with (
        upstream(certificate="localhost") as openai,
        ext_proc() as policyd,
        envoy(loopback(f"openai={openai.url}"), policyd_address=policyd.address) as process,
    ):
        reply = await request(process.listen_address, "/v1/models")
    assert reply.status == 200
    assert openai.server_names == ["localhost"]
    assert openai.seen[0].headers["host"] == openai.url.removeprefix("https://")


async def test_a_provider_with_a_certificate_for_another_name_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CA))
    async with (
        upstream(certificate="elsewhere") as impostor,
        ext_proc() as policyd,
        envoy(loopback(f"openai={impostor.url}"), policyd_address=policyd.address) as process,
    ):
        reply = await request(process.listen_address, "/v1/models")
    assert reply.status == 503
    assert impostor.seen == []


async def test_a_name_server_that_does_not_answer_delays_no_start() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        bootstrap = build_bootstrap(loopback("openai=http://provider.example"), policyd_addresses=[NOBODY])
        provider = bootstrap["static_resources"]["clusters"][1]
        provider["typed_dns_resolver_config"] = {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [
                    {"socket_address": {"address": "127.0.0.1", "port_value": silent.getsockname()[1]}},
                ],
            },
        }
        async with asyncio.timeout(5), EnvoyProcess(bootstrap, binary=find_envoy()):
            pass

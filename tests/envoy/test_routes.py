"""Which path reaches which provider, on a real Envoy: what the client asks for, what policyd is told, what the provider
gets."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_asyncio

from policyd.envoy_config.routes import PROVIDER_METADATA
from policyd.ext_proc import servicer
from policyd.up import EnvoyProcess
from tests.envoy.rig import ExtProc, Reply, Upstream, envoy, ext_proc, loopback, request, upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANTHROPIC_SDK = {"anthropic-version": "2023-06-01"}
GOOGLE_KEY = {"x-goog-api-key": "made-up"}

ARN = "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.amazon.nova-lite-v1%3A0"


@dataclass(frozen=True, slots=True)
class Rig:
    """An Envoy in front of upstreams, and an ext_proc server beside it."""

    envoy: EnvoyProcess
    ext_proc: ExtProc
    upstreams: Mapping[str, Upstream]

    async def ask(self, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> Reply:
        self.ext_proc.exchanges.clear()
        for one in self.upstreams.values():
            one.seen.clear()
        return await request(self.envoy.listen_address, path, headers=headers, method=method)

    @property
    def reached(self) -> list[tuple[str, str]]:
        """Which upstream, and the path there."""
        return [(name, seen.path) for name, one in self.upstreams.items() for seen in one.seen]

    @property
    def told(self) -> list[tuple[list[str], str]]:
        """What policyd knows of the provider and of the path, for each request that it was shown."""
        return [
            (list(exchange.metadata.get(PROVIDER_METADATA, [])), exchange.request_headers[":path"])
            for exchange in self.ext_proc.exchanges
            if exchange.request_headers
        ]


@asynccontextmanager
async def rig(*names: str, base_path: str = "") -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        upstreams = {name: await stack.enter_async_context(upstream()) for name in names}
        policyd = await stack.enter_async_context(ext_proc())
        settings = loopback(*(f"{name}={one.url}{base_path}" for name, one in upstreams.items()))
        process = await stack.enter_async_context(envoy(settings, policyd_address=policyd.address))
        yield Rig(process, policyd, upstreams)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def everything() -> AsyncIterator[Rig]:
    async with rig("openai", "anthropic", "google", "mistral", "aws") as it:
        yield it


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def openai_alone() -> AsyncIterator[Rig]:
    async with rig("openai", base_path="/base/path") as it:
        yield it


@pytest.mark.parametrize(
    ("path", "headers", "provider", "path_there"),
    [
        # By name, with the prefix taken off.
        ("/openai/v1/chat/completions?a=1", {}, "openai", "/v1/chat/completions?a=1"),
        ("/anthropic/v1/messages", {}, "anthropic", "/v1/messages"),
        ("/google/v1beta/models/m:generateContent", {}, "google", "/v1beta/models/m:generateContent"),
        ("/mistral/v1/chat/completions", {}, "mistral", "/v1/chat/completions"),
        ("/openai/v1/messages", ANTHROPIC_SDK, "openai", "/v1/messages"),
        ("/openai/", {}, "openai", "/"),
        # Bare.
        ("/v1/chat/completions", {}, "openai", "/v1/chat/completions"),
        ("/v1/completions", {}, "openai", "/v1/completions"),
        ("/v1/responses", {}, "openai", "/v1/responses"),
        ("/v1/embeddings", {}, "openai", "/v1/embeddings"),
        ("/v1/messages", {}, "anthropic", "/v1/messages"),
        ("/v1/messages?beta=true", ANTHROPIC_SDK, "anthropic", "/v1/messages?beta=true"),
        ("/v1/messages/count_tokens", {}, "anthropic", "/v1/messages/count_tokens"),
        ("/v1/complete", {}, "anthropic", "/v1/complete"),
        ("/v1/messages2", {}, "openai", "/v1/messages2"),
        ("/v1/complete2", {}, "openai", "/v1/complete2"),
        ("/v1beta/models/m:generateContent?alt=sse", {}, "google", "/v1beta/models/m:generateContent?alt=sse"),
        ("/v1/models/m:generateContent", {}, "google", "/v1/models/m:generateContent"),
        ("/v1/models/m:streamGenerateContent?alt=sse", {}, "google", "/v1/models/m:streamGenerateContent?alt=sse"),
        ("/v1/models/m:batchEmbedContents", {}, "google", "/v1/models/m:batchEmbedContents"),
        ("/v1/models/m:countTokens", {}, "google", "/v1/models/m:countTokens"),
        ("/v1/models/ft:gpt-4o:org::id", {}, "openai", "/v1/models/ft:gpt-4o:org::id"),
        ("/v1/tunedModels/m:generateContent", {}, "google", "/v1/tunedModels/m:generateContent"),
        ("/v1/interactions", {}, "google", "/v1/interactions"),
        ("/v1/projects/p/locations/l/publishers/google/models/m:predict", {}, "google", None),
        ("/v1/publishers/google/models/m:generateContent", {}, "google", None),
        ("/v1beta1/projects/p/locations/l/publishers/google/models/m:generateContent", {}, "google", None),
        ("/v1alpha/models/m:generateContent", {}, "google", "/v1alpha/models/m:generateContent"),
        ("/upload/v1beta/files", {}, "google", "/upload/v1beta/files"),
        ("/model/amazon.nova-lite-v1%3A0/converse", {}, "aws", "/model/amazon.nova-lite-v1%3A0/converse"),
        # Paths that several providers have.
        ("/v1/models", {}, "openai", "/v1/models"),
        ("/v1/models?limit=1", ANTHROPIC_SDK, "anthropic", "/v1/models?limit=1"),
        ("/v1/files", ANTHROPIC_SDK, "anthropic", "/v1/files"),
        ("/v1/models", GOOGLE_KEY, "google", "/v1/models"),
    ],
)
async def test_a_path_leads_to_its_provider(
    everything: Rig, path: str, headers: Mapping[str, str], provider: str, path_there: str | None
) -> None:
    """`path_there` is `None` where it is the same."""
    reply = await everything.ask(path, headers)
    assert reply.status == 200
    assert everything.reached == [(provider, path_there or path)]
    assert everything.told == [([provider], path)]


@pytest.mark.parametrize(
    ("path", "provider", "path_told", "path_there"),
    [
        ("/openai/../anthropic/v1/messages", "anthropic", "/anthropic/v1/messages", "/v1/messages"),
        ("/anthropic/./../openai/v1/models", "openai", "/openai/v1/models", "/v1/models"),
        ("/openai/%2e%2e/anthropic/v1/messages", "anthropic", "/anthropic/v1/messages", "/v1/messages"),
        ("/openai/v1/x/../../../anthropic/v1", "anthropic", "/anthropic/v1", "/v1"),
        ("/../v1/messages", "anthropic", "/v1/messages", "/v1/messages"),
        ("/v1/messages/../chat/completions", "openai", "/v1/chat/completions", "/v1/chat/completions"),
        ("//v1/messages", "anthropic", "/v1/messages", "/v1/messages"),
        ("//openai//v1///models", "openai", "/openai/v1/models", "/v1/models"),
        ("/v1/%6dessages", "anthropic", "/v1/messages", "/v1/messages"),
        ("/v1\\messages", "anthropic", "/v1/messages", "/v1/messages"),
        ("http://elsewhere.example/anthropic/v1/messages", "anthropic", "/anthropic/v1/messages", "/v1/messages"),
        # Decoded once and not twice: these stay as they are, for policyd and for the provider alike.
        ("/openai/%252e%252e/anthropic", "openai", "/openai/%252e%252e/anthropic", "/%252e%252e/anthropic"),
        ("/v1/messages%3f", "openai", "/v1/messages%3f", "/v1/messages%3f"),
        # Nor is an escaped slash a slash to any of them.
        (
            "/openai/..%2fanthropic/v1/messages",
            "openai",
            "/openai/..%2fanthropic/v1/messages",
            "/..%2fanthropic/v1/messages",
        ),
        ("/v1/chat%2Fcompletions", "openai", "/v1/chat%2Fcompletions", "/v1/chat%2Fcompletions"),
        ("/v1/chat%5ccompletions", "openai", "/v1/chat%5ccompletions", "/v1/chat%5ccompletions"),
        ("/v1/messages;v=1", "openai", "/v1/messages;v=1", "/v1/messages;v=1"),
        (f"/model/{ARN}/converse", "aws", f"/model/{ARN}/converse", f"/model/{ARN}/converse"),
        (f"/aws/model/{ARN}/converse", "aws", f"/aws/model/{ARN}/converse", f"/model/{ARN}/converse"),
        ("/model/a%2F..%2Fb/converse", "aws", "/model/a%2F..%2Fb/converse", "/model/a%2F..%2Fb/converse"),
        ("/model/x/../a%3a0/converse", "aws", "/model/a%3a0/converse", "/model/a%3a0/converse"),
    ],
)
async def test_a_path_trick_means_the_same_to_the_route_policyd_and_the_provider(
    everything: Rig, path: str, provider: str, path_told: str, path_there: str
) -> None:
    reply = await everything.ask(path)
    assert reply.status == 200
    assert everything.reached == [(provider, path_there)]
    assert everything.told == [([provider], path_told)]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages%00",
        "/v1/messages#/../models",
    ],
)
async def test_a_path_that_could_mean_two_things_is_refused(everything: Rig, path: str) -> None:
    reply = await everything.ask(path)
    assert reply.status == 400
    assert everything.reached == []
    assert everything.told == []


@pytest.mark.parametrize(
    "path",
    ["/", "/openai", "/OpenAI/v1/models", "/nobody/v1/models", "/v1", "/v2/x", "/V1/models", "/openai%2fv1/models"],
)
async def test_a_path_of_nobody_is_not_found_in_a_form_that_sdks_read(everything: Rig, path: str) -> None:
    reply = await everything.ask(path)
    assert reply.status == 404
    assert reply.headers["content-type"] == "application/json"
    body = json.loads(reply.body)
    assert body["type"] == "error"
    assert body["error"]["type"] == "not_found_error"
    assert body["error"]["message"] == "no upstream serves this path"
    assert everything.reached == []
    assert everything.ext_proc.exchanges == []


@pytest.mark.parametrize(
    ("path", "headers", "provider"),
    [
        ("/v1/messages", {}, "anthropic"),
        ("/v1/complete", {}, "anthropic"),
        ("/v1/models", ANTHROPIC_SDK, "anthropic"),
        ("/v1/models", GOOGLE_KEY, "google"),
        ("/v1/models/m:generateContent", {}, "google"),
        ("/v1beta/models/m:generateContent", {}, "google"),
        ("/model/m/converse", {}, "aws"),
    ],
)
async def test_a_request_for_a_provider_that_is_not_configured_goes_nowhere(
    openai_alone: Rig, path: str, headers: Mapping[str, str], provider: str
) -> None:
    reply = await openai_alone.ask(path, headers)
    assert reply.status == 404
    assert f"upstream {provider}, which is not configured" in json.loads(reply.body)["error"]["message"]
    assert openai_alone.reached == []
    assert openai_alone.ext_proc.exchanges == []


@pytest.mark.parametrize(
    ("path", "path_there"),
    [
        ("/openai/v1/models?a=1", "/base/path/v1/models?a=1"),
        ("/v1/models", "/base/path/v1/models"),
        ("/openai/../v1/models", "/base/path/v1/models"),
    ],
)
async def test_an_upstreams_own_path_comes_before_every_path(openai_alone: Rig, path: str, path_there: str) -> None:
    await openai_alone.ask(path)
    assert openai_alone.reached == [("openai", path_there)]


async def test_policyd_looks_for_the_provider_where_the_routes_put_it() -> None:
    assert servicer.PROVIDER_METADATA == PROVIDER_METADATA


async def test_a_client_cannot_forge_its_provider(everything: Rig) -> None:
    await everything.ask("/openai/v1/models", {PROVIDER_METADATA: "google"})
    assert everything.told == [(["openai"], "/openai/v1/models")]


@pytest.mark.parametrize("address", [{}, {"x-forwarded-for": "10.0.0.1"}])
async def test_a_client_cannot_ask_for_retries(everything: Rig, address: Mapping[str, str]) -> None:
    openai = everything.upstreams["openai"]
    openai.status = 503
    try:
        reply = await everything.ask("/v1/models", {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "3", **address})
    finally:
        openai.status = 200
    assert reply.status == 503
    assert everything.reached == [("openai", "/v1/models")]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/openai/v1/chat/completions",
        "/v1/realtime/sessions",
        "/v1/chat/completions?x=/v1/realtime",
        "/anthropic/v1/realtime",
        "/ws/google.ai.generativelanguage.v1beta.GenerativeService.Other",
    ],
)
async def test_an_upgrade_is_refused_but_for_sessions(everything: Rig, path: str, method: str) -> None:
    reply = await everything.ask(path, {"upgrade": "websocket", "connection": "upgrade"}, method=method)
    assert reply.status == 403
    assert everything.reached == []


async def test_the_provider_gets_its_own_host_and_learns_nothing_of_the_network(everything: Rig) -> None:
    openai = everything.upstreams["openai"]
    await everything.ask("/v1/models", {"x-forwarded-for": "10.1.2.3", "x-mine": "kept"})
    (seen,) = openai.seen
    assert seen.headers["host"] == openai.url.removeprefix("http://")
    assert set(seen.headers) == {"host", "content-length", "x-mine", "x-request-id"}

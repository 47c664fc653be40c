"""Which vendor and wire format a request is for; what cannot be told is never guessed."""

from __future__ import annotations

import pytest

from policyd.prices.table import read_table
from policyd.providers.base import Api
from policyd.providers.endpoint import Endpoint, UnknownEndpoint
from policyd.providers.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, request_endpoint, resolve
from policyd.providers.vendors import VENDORS, VENDORS_BY_HOST

GATEWAY = "gateway.internal:10000"


def where(
    path: str, *, provider: str | None = None, host: str = GATEWAY, method: str = "POST"
) -> tuple[str, str, str | None] | None:
    """Vendor, endpoint and what meters it, in short. `unknown` is the endpoint that no wire format knows."""
    found = resolve(provider=provider, host=host, method=method, path=path)
    if isinstance(found, Endpoint):
        metered = found.wire or found.realtime
        return found.vendor.id, found.name, metered.name if metered else None
    if isinstance(found, UnknownEndpoint):
        return found.vendor.id, "unknown", None
    return None


def chat(vendor: str) -> tuple[str, str, str]:
    return vendor, "chat.completions", "mistral-chat" if vendor == "mistral" else "openai-chat"


def messages(vendor: str) -> tuple[str, str, str]:
    return vendor, "messages", "anthropic-messages"


@pytest.mark.parametrize(
    ("provider", "path", "expected"),
    [
        ("openai", "/v1/chat/completions", chat("openai")),
        ("openai", "/openai/v1/chat/completions", chat("openai")),
        ("openai", "/v1/chat/completions?api-version=1&x=/../", chat("openai")),
        ("anthropic", "/v1/messages", messages("anthropic")),
        ("anthropic", "/anthropic/v1/messages", messages("anthropic")),
        ("anthropic", "/v1/chat/completions", chat("anthropic")),
        ("groq", "/groq/openai/v1/chat/completions", chat("groq")),
        ("groq", "/openai/v1/chat/completions", chat("groq")),
        ("groq", "/chat/completions", chat("groq")),
        ("openrouter", "/api/v1/chat/completions", chat("openrouter")),
        ("openrouter", "/openrouter/api/v1/messages", messages("openrouter")),
        ("deepseek", "/deepseek/beta/chat/completions", chat("deepseek")),
        ("deepseek", "/anthropic/v1/messages", messages("deepseek")),
        ("zai", "/api/coding/paas/v4/chat/completions", chat("zai")),
        ("fireworks", "/inference/v1/chat/completions", chat("fireworks")),
        ("house-llm", "/house-llm/v1/chat/completions", chat("house-llm")),
        ("house-llm", "/v1/chat/completions", chat("house-llm")),
        # The hint outweighs a path that names another vendor.
        ("groq", "/openai/chat/completions", ("groq", "unknown", None)),
    ],
)
def test_by_the_route(provider: str, path: str, expected: tuple[str, str, str | None]) -> None:
    assert where(path, provider=provider, host="api.anthropic.com") == expected


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        ("api.openai.com", "/v1/chat/completions", chat("openai")),
        ("API.OpenAI.com:443", "/v1/chat/completions", chat("openai")),
        ("api.openai.com.", "/v1/chat/completions", chat("openai")),
        ("api.anthropic.com", "/v1/messages", messages("anthropic")),
        ("api.anthropic.com", "/v1/messages?beta=true", messages("anthropic")),
        ("api.deepseek.com", "/chat/completions", chat("deepseek")),
        ("api.x.ai", "/v1/chat/completions", chat("x-ai")),
        ("api.mistral.ai", "/v1/chat/completions", chat("mistral")),
        ("api.openai.com.evil.example", "/v2/chat/completions", None),
    ],
)
def test_by_the_host(host: str, path: str, expected: tuple[str, str, str] | None) -> None:
    assert where(path, host=host) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/groq/openai/v1/chat/completions", chat("groq")),
        ("/openai/v1/chat/completions", chat("openai")),
        ("/mistral/v1/chat/completions", chat("mistral")),
        ("/v1/chat/completions", chat("openai")),
        ("/v1/messages", messages("anthropic")),
        ("/", None),
        ("/healthz", None),
        ("/chat/completions", None),
        ("/unheard-of/v1/chat/completions", None),
        ("/v2/models/gemini-2.5-pro:generateContent", None),
    ],
)
def test_by_the_path(path: str, expected: tuple[str, str, str] | None) -> None:
    assert where(path) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/models", ("openai", "models", None)),
        ("GET", "/v1/models/gpt-4o", ("openai", "models", None)),
        ("GET", "/v1/models/ft:gpt-4o:acme::abc", ("openai", "models", None)),
        ("POST", "/v1/moderations", ("openai", "moderations", None)),
        ("POST", "/v1/messages/count_tokens", ("anthropic", "messages.count_tokens", None)),
        ("POST", "/anthropic/v1/messages/count_tokens", ("anthropic", "messages.count_tokens", None)),
        ("GET", "/anthropic/v1/models", ("anthropic", "models", None)),
    ],
)
def test_free_endpoints(method: str, path: str, expected: tuple[str, str, None]) -> None:
    assert where(path, method=method) == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("PUT", "/v1/chat/completions"),
        ("post", "/v1/chat/completions"),
        ("POST", "/v1/models"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("POST", "/v1/threads"),
        ("POST", "/v1/realtime"),
        ("POST", "/v1/realtime/calls"),
        ("GET", "/v1/realtime/"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1//chat/completions"),
        ("POST", "/v1/./chat/completions"),
        ("POST", "/v1/x/../chat/completions"),
        ("POST", "/../v1/chat/completions"),
        ("POST", "/v1/chat%2Fcompletions"),
        ("POST", "/v1/chat/completion%73"),
        ("POST", "/v1/chat\\completions"),
        ("POST", "/v1/chat/completions;x"),
        ("POST", "/v1/chat/completions\n"),
        ("POST", "/v1/CHAT/completions"),
        ("POST", "/v1/v1/chat/completions"),
        ("POST", "/v1xchat/completions"),
        ("POST", "/v1/messages"),
        ("GET", "/v1/models/.."),
        ("GET", "/v1/models/a/b"),
        ("POST", ""),
    ],
)
def test_a_known_vendor_with_anything_else_is_unknown(method: str, path: str) -> None:
    assert where(path, provider="openai", method=method) == ("openai", "unknown", None)
    assert where(path, host="api.openai.com", method=method) == ("openai", "unknown", None)
    assert where(f"/openai{path}", method=method) == ("openai", "unknown", None)


@pytest.mark.parametrize("path", ["/v1/threads", "/v1/fine_tuning/jobs", "/v1", "/v1/../v1/chat/completions"])
def test_a_bare_path_under_v1_is_not_passed_by(path: str) -> None:
    assert where(path) == ("openai", "unknown", None)


@pytest.mark.parametrize(
    ("provider", "path", "wire"),
    [
        ("openai", "/v1/threads", OPENAI_CHAT),
        ("openai", "/v1/threads/t/messages", OPENAI_CHAT),
        ("anthropic", "/v1/complete/x", ANTHROPIC_MESSAGES),
        ("anthropic", "/v1/models", ANTHROPIC_MESSAGES),
        ("anthropic", "/v1/chat/completions", OPENAI_CHAT),
        ("openrouter", "/api/v1/messages/x", ANTHROPIC_MESSAGES),
        ("house-llm", "/v1/anything", OPENAI_CHAT),
    ],
)
def test_refusals_are_worded_as_the_client_expects_them(provider: str, path: str, wire: object) -> None:
    found = resolve(provider=provider, host="", method="GET" if "models" in path else "POST", path=path)
    assert found is not None
    assert found.error_wire is wire


def test_every_row_is_reached_by_its_name_and_its_hosts() -> None:
    for name, vendor in VENDORS.items():
        chats = {Api.OPENAI, Api.MISTRAL}.intersection(vendor.apis)
        expected = chat(vendor.id) if chats else (vendor.id, "unknown", None)
        assert where(f"/{name}/v1/chat/completions") == expected
        assert where("/v1/chat/completions", provider=name) == expected
        for host in vendor.hosts:
            assert VENDORS_BY_HOST[host] is vendor, "a host of two vendors"
            assert where("/v1/chat/completions", host=host) == expected
        for base in vendor.bases:
            assert where(f"{base}/chat/completions", provider=vendor.id) == expected
        if Api.ANTHROPIC in vendor.apis:
            assert where("/v1/messages", provider=vendor.id) == messages(vendor.id)
        else:
            assert where("/v1/messages", provider=vendor.id) == (vendor.id, "unknown", None)


def test_a_base_path_can_have_a_name_of_its_own_for_each_customer() -> None:
    path = "/client/v4/accounts/0a1b/ai/v1/chat/completions"
    assert where(path, host="api.cloudflare.com") == chat("cloudflare")
    assert where(path.replace("0a1b", "0a/1b"), host="api.cloudflare.com") == ("cloudflare", "unknown", None)


def test_every_provider_with_prices_and_an_api_in_one_of_the_formats_has_a_row() -> None:
    # ElevenLabs is spoken with over WebSocket alone; of OpenAI's decisions no wire format is known.
    others = {"elevenlabs", "openai-decisions"}
    assert {provider.id for provider in read_table().providers} - others <= VENDORS.keys()


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "chat.completions"),
        ("house-llm", "chat.completions"),
        ("anthropic", "messages"),
        ("cohere", "chat"),
        ("mistral", "chat.completions"),
        ("ollama", "chat"),
        ("google", None),
        ("bedrock", None),
    ],
)
def test_where_a_request_goes_that_names_no_path(provider: str, name: str | None) -> None:
    endpoint = request_endpoint(provider=provider, path="")
    assert (endpoint.name if endpoint is not None else None) == name
    assert request_endpoint(provider=provider, path="/nowhere") is None

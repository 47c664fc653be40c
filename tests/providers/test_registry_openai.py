"""Where requests on OpenAI's endpoints beyond chat completions go, at OpenAI, at Azure and at compatible vendors."""

from __future__ import annotations

import pytest

from policyd.providers.endpoint import Endpoint, UnknownEndpoint
from policyd.providers.registry import OPENAI_RESPONSES, resolve

GATEWAY = "gateway.internal"
AZURE_HOSTS = ["house.openai.azure.com", "house.services.ai.azure.com", "house-2.cognitiveservices.azure.com"]


def where(
    path: str, *, method: str = "POST", host: str = GATEWAY, provider: str | None = None
) -> tuple[str, str, str | None] | None:
    """Vendor, endpoint and what meters it, in short. `unknown` is the endpoint that no wire format knows."""
    found = resolve(provider=provider, host=host, method=method, path=path)
    if isinstance(found, Endpoint):
        metered = found.wire or found.realtime
        return found.vendor.id, found.name, metered.name if metered else None
    return (found.vendor.id, "unknown", None) if found is not None else None


METERED = [
    ("/responses", "responses", "openai-responses"),
    ("/responses/compact", "responses.compact", "openai-responses-compact"),
    ("/completions", "completions", "openai-completions"),
    ("/embeddings", "embeddings", "openai-embeddings"),
    ("/rerank", "rerank", "openai-rerank"),
    ("/images/generations", "images.generations", "openai-images-generations"),
    ("/images/edits", "images.edits", "openai-images-edits"),
    ("/images/variations", "images.variations", "openai-images-variations"),
    ("/audio/speech", "audio.speech", "openai-audio-speech"),
    ("/audio/transcriptions", "audio.transcriptions", "openai-audio-transcriptions"),
    ("/audio/translations", "audio.translations", "openai-audio-translations"),
]
DEPLOYED = [
    row for row in METERED if row[0] not in ("/responses", "/responses/compact", "/rerank", "/images/variations")
]


@pytest.mark.parametrize(("tail", "name", "wire"), METERED)
def test_metered_endpoints(tail: str, name: str, wire: str) -> None:
    assert where(f"/v1{tail}", host="api.openai.com") == ("openai", name, wire)
    assert where(f"/v1{tail}") == ("openai", name, wire)
    assert where(f"/openai/v1{tail}") == ("openai", name, wire)
    assert where(f"/groq/openai/v1{tail}") == ("groq", name, wire)
    assert where(tail, provider="house-llm") == ("house-llm", name, wire)
    for other in ("GET", "PUT", "post"):
        retrieved = other == "GET" and tail == "/responses/compact"
        assert retrieved or where(f"/v1{tail}", method=other) == ("openai", "unknown", None)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/v1/responses/input_tokens", "responses.input_tokens"),
        ("GET", "/v1/responses/resp_0aB-9", "responses.retrieve"),
        ("GET", "/v1/responses/resp_1?stream=true&starting_after=7", "responses.retrieve"),
        ("GET", "/v1/responses/resp_1/input_items", "responses.retrieve"),
        ("POST", "/v1/responses/resp_1/cancel", "responses.cancel"),
        ("DELETE", "/v1/responses/resp_1", "responses.delete"),
    ],
)
def test_what_is_done_with_a_response_later_is_free(method: str, path: str, name: str) -> None:
    assert where(path, method=method) == ("openai", name, None)
    found = resolve(provider="openai", host="", method=method, path=path)
    assert found is not None
    assert found.error_wire.name == "openai-chat"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel/more"),
        ("GET", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses"),
        ("DELETE", "/v1/responses"),
        ("GET", "/v1/responses/.."),
        ("GET", "/v1/responses/a%2Fb"),
        ("POST", "/v1/responses/"),
        ("POST", "/v1/images"),
        ("POST", "/v1/audio/speech/x"),
        ("POST", "/v1/deployments//embeddings"),
        ("POST", "/v1/deployments/../embeddings"),
    ],
)
def test_anything_else_is_unknown(method: str, path: str) -> None:
    assert where(path, method=method) == ("openai", "unknown", None)


@pytest.mark.parametrize("host", AZURE_HOSTS)
@pytest.mark.parametrize(
    ("tail", "name", "wire"), [("/chat/completions", "chat.completions", "openai-chat"), *DEPLOYED]
)
def test_deployments_of_azure(host: str, tail: str, name: str, wire: str) -> None:
    path = f"/openai/deployments/big-one_2.1{tail}?api-version=2024-10-21"
    assert where(path, host=host) == ("azure", name, wire)
    assert where(f"/azure{path}") == ("azure", name, wire)
    assert where(path, provider="azure") == ("azure", name, wire)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/openai/v1/responses", ("responses", "openai-responses")),
        ("POST", "/openai/responses?api-version=2025-03-01-preview", ("responses", "openai-responses")),
        ("GET", "/openai/v1/responses/resp_1", ("responses.retrieve", None)),
        ("POST", "/openai/v1/chat/completions", ("chat.completions", "openai-chat")),
        ("POST", "/models/chat/completions?api-version=2024-05-01-preview", ("chat.completions", "openai-chat")),
        ("GET", "/openai/models", ("models", None)),
        ("POST", "/anthropic/v1/messages", ("messages", "anthropic-messages")),
        ("POST", "/openai/deployments/a/b/chat/completions", ("unknown", None)),
        ("POST", "//openai/deployments/a/embeddings", ("unknown", None)),
        ("GET", "/openai/realtime?deployment=a", ("realtime", "openai-realtime")),
        ("POST", "/openai/realtime?deployment=a", ("unknown", None)),
    ],
)
def test_other_paths_of_azure(method: str, path: str, expected: tuple[str, str | None]) -> None:
    for host in AZURE_HOSTS:
        assert where(path, method=method, host=host) == ("azure", *expected)


@pytest.mark.parametrize(
    "host",
    [
        "openai.azure.com",
        "a.b.openai.azure.com",
        "house.openai.azure.com.example",
        "houseopenai.azure.com",
        ".openai.azure.com",
    ],
)
def test_hosts_that_are_not_azures(host: str) -> None:
    assert where("/openai/deployments/a/chat/completions", host=host) != ("azure", "chat.completions", "openai-chat")


def test_an_endpoint_words_its_own_refusals() -> None:
    found = resolve(provider=None, host="api.openai.com", method="POST", path="/v1/responses")
    assert not isinstance(found, UnknownEndpoint)
    assert found is not None
    assert found.error_wire is OPENAI_RESPONSES

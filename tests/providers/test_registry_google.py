"""Where requests to Google go: the Gemini API's paths, Vertex AI's, and what neither meters."""

from __future__ import annotations

import pytest

from policyd.providers.endpoint import Endpoint, UnknownEndpoint
from policyd.providers.registry import GEMINI_GENERATE, VERTEX_ANTHROPIC, resolve

GEMINI_HOST = "generativelanguage.googleapis.com"
VERTEX_HOST = "us-central1-aiplatform.googleapis.com"
VERTEX = "/v1/projects/house-ml/locations/us-central1"


def where(
    path: str, *, method: str = "POST", host: str = "gateway.internal", provider: str | None = None
) -> tuple[str, str, str | None] | None:
    """Vendor, endpoint and metered wire format, in short. `unknown` is the endpoint that no wire format knows."""
    found = resolve(provider=provider, host=host, method=method, path=path)
    if isinstance(found, Endpoint):
        return found.vendor.id, found.name, found.wire.name if found.wire else None
    return (found.vendor.id, "unknown", None) if found is not None else None


@pytest.mark.parametrize(
    ("path", "name", "wire"),
    [
        ("/v1beta/models/gemini-2.5-pro:generateContent", "generateContent", "gemini-generate"),
        ("/v1/models/gemini-2.5-pro:generateContent", "generateContent", "gemini-generate"),
        ("/v1alpha/models/gemini-2.5-pro:generateContent", "generateContent", "gemini-generate"),
        ("/v1beta/tunedModels/birds-7f:generateContent", "generateContent", "gemini-generate"),
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", "streamGenerateContent", "gemini-generate"),
        ("/v1beta/models/gemini-embedding-001:embedContent", "embedContent", "gemini-embeddings"),
        ("/v1beta/models/gemini-embedding-001:batchEmbedContents", "batchEmbedContents", "gemini-embeddings"),
        ("/v1beta/interactions", "interactions", "gemini-interactions"),
        ("/v1/interactions", "interactions", "gemini-interactions"),
        (f"{VERTEX}/publishers/google/models/gemini-2.5-pro:generateContent", "generateContent", "gemini-generate"),
        (
            "/v1beta1/projects/p/locations/global/publishers/google/models/gemini-2.5-pro:streamGenerateContent",
            "streamGenerateContent",
            "gemini-generate",
        ),
        ("/v1beta1/publishers/google/models/gemini-2.5-pro:generateContent", "generateContent", "gemini-generate"),
        (f"{VERTEX}/endpoints/8125:generateContent", "generateContent", "gemini-generate"),
        (f"{VERTEX}/publishers/google/models/text-embedding-005:predict", "predict", "gemini-embeddings"),
        (f"{VERTEX}/publishers/google/models/textembedding-gecko@003:predict", "predict", "gemini-embeddings"),
        (f"{VERTEX}/publishers/anthropic/models/claude-sonnet-4@20250514:rawPredict", "rawPredict", "vertex-anthropic"),
        (
            f"{VERTEX}/publishers/anthropic/models/claude-opus-4-6:streamRawPredict",
            "streamRawPredict",
            "vertex-anthropic",
        ),
    ],
)
def test_metered_endpoints(path: str, name: str, wire: str) -> None:
    expected = ("google", name, wire)
    assert where(path) == expected, "by the bare path"
    assert where(f"/google{path}") == expected
    assert where(path, provider="google") == expected
    assert where(path, host=GEMINI_HOST) == where(path, host=VERTEX_HOST) == expected


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/v1beta/models/gemini-2.5-pro:countTokens", "countTokens"),
        ("POST", f"{VERTEX}/publishers/google/models/gemini-2.5-pro:countTokens", "countTokens"),
        ("POST", f"{VERTEX}/publishers/google/models/gemini-2.5-pro:computeTokens", "countTokens"),
        ("POST", f"{VERTEX}/publishers/anthropic/models/count-tokens:rawPredict", "countTokens"),
        ("GET", "/v1beta/models", "models"),
        ("GET", "/v1beta/models/gemini-2.5-pro", "models"),
        ("GET", "/v1beta1/publishers/google/models", "models"),
        ("GET", "/v1beta/interactions/v1_abc", "resources"),
        ("DELETE", "/v1beta/interactions/v1_abc", "resources"),
        ("POST", "/v1beta/interactions/v1_abc/cancel", "resources"),
        ("GET", "/v1beta/cachedContents", "resources"),
        ("DELETE", "/v1beta/cachedContents/c1", "resources"),
        ("GET", "/v1beta/batches/b1", "resources"),
        ("POST", "/v1beta/batches/b1:cancel", "resources"),
        ("GET", "/v1beta/files/f1", "resources"),
        ("POST", "/upload/v1beta/files", "files"),
        ("POST", "/v1beta/files", "files"),
    ],
)
def test_free_endpoints(method: str, path: str, name: str) -> None:
    assert where(path, method=method, host=GEMINI_HOST) == ("google", name, None)
    assert where(path, method=method) == ("google", name, None)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        # Charged, and in units that no reader knows: by the hour, by the image, by the second, later.
        ("POST", "/v1beta/cachedContents"),
        ("PATCH", "/v1beta/cachedContents/c1"),
        ("POST", "/v1beta/models/gemini-2.5-pro:batchGenerateContent"),
        ("POST", "/v1beta/models/gemini-embedding-001:asyncBatchEmbedContent"),
        ("POST", "/v1beta/models/veo-3.0-generate:predictLongRunning"),
        ("POST", "/v1beta/models/imagen-4.0-generate-001:predict"),
        ("POST", f"{VERTEX}/publishers/google/models/imagen-4.0-generate-001:predict"),
        ("POST", f"{VERTEX}/publishers/google/models/multimodalembedding@001:predict"),
        ("POST", f"{VERTEX}/publishers/mistralai/models/mistral-medium:rawPredict"),
        ("POST", f"{VERTEX}/batchPredictionJobs"),
        ("POST", "/v1beta/openai/chat/completions"),
        ("GET", "/v1beta/models/gemini-2.5-pro:generateContent"),
        ("POST", "/v1beta/models/gemini-2.5-pro:generateContent/"),
        ("POST", "/v1beta/models/../models/gemini-2.5-pro:generateContent"),
        ("POST", "/v1beta/models/..:generateContent"),
        ("POST", "/v1beta/models/gemini%2D2.5-pro:generateContent"),
        ("POST", "/v1beta/models/a/b:generateContent"),
        ("POST", "/v1beta/models/:generateContent"),
        ("POST", "/v1beta/models/m:generateContent:generateContent"),
        ("POST", "/v1beta//models/m:generateContent"),
        ("POST", "/v1/projects/p/locations/../publishers/google/models/m:generateContent"),
    ],
)
def test_anything_else_is_unknown_and_refused_in_googles_words(method: str, path: str) -> None:
    assert where(path, method=method) == ("google", "unknown", None)
    found = resolve(provider=None, host=GEMINI_HOST, method=method, path=path)
    assert isinstance(found, UnknownEndpoint)
    assert found.error_wire is GEMINI_GENERATE


@pytest.mark.parametrize(
    "host",
    [
        GEMINI_HOST,
        "Generativelanguage.GoogleApis.com:443",
        "aiplatform.googleapis.com",
        "europe-west4-aiplatform.googleapis.com",
        "EUROPE-WEST4-aiplatform.googleapis.com.:443",
        "aiplatform.eu.rep.googleapis.com",
    ],
)
def test_hosts(host: str) -> None:
    assert where("/anything", host=host) == ("google", "unknown", None)


@pytest.mark.parametrize(
    "host",
    ["evil.example-aiplatform.googleapis.com", "x-aiplatform.googleapis.com.evil.example", "storage.googleapis.com"],
)
def test_hosts_of_others(host: str) -> None:
    assert where("/anything", host=host) is None


def test_bare_paths_of_others_stay_theirs() -> None:
    assert where("/v1/models/ft:gpt-4o:house::x1", method="GET") == ("openai", "models", None)
    assert where("/v1/models/gpt-4o", method="GET") == ("openai", "models", None)


def test_claude_at_vertex_refuses_as_anthropic_does() -> None:
    path = f"{VERTEX}/publishers/anthropic/models/claude-opus-4-6:rawPredict"
    found = resolve(provider=None, host=VERTEX_HOST, method="POST", path=path)
    assert found is not None
    assert found.error_wire is VERTEX_ANTHROPIC

"""How a request goes upstream when policyd adds the provider's key: in which header, whose, and what is taken out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policyd.core.api_keys import CREDENTIAL_HEADERS, format_key
from policyd.core.attributes import Identity, Place, Source
from policyd.core.errors import ProviderKeyMissing
from policyd.core.policy import ApiKeys, Policy, ProviderKeys
from policyd.core.provider_secrets import ProviderSecrets
from policyd.core.runtime import ApiKey
from policyd.ext_proc import messages as m
from policyd.ext_proc.request import RequestSide
from policyd.providers.vendors import VENDORS
from tests.builders import policy

PD_KEY = format_key(b"k" * 32)
KEPT = ApiKey("digest", "bot", {"project": "acme"}, 0, None)
IDENTITY = Identity({"project": (Source(Place.API_KEY, "project"),)})
SECRETS = ProviderSecrets(
    "1", {**{(vendor.id, None): "real" for vendor in VENDORS.values()}, ("openai", "acme"): "acmes-own"}
)


def keyed(**others: Any) -> Policy:
    return policy(**{"api_keys": ApiKeys.REQUIRED, "identity": IDENTITY, **others})


def side(headers: dict[str, str], under: Policy, *, path: str = "/v1/chat/completions") -> RequestSide:
    arrived = {":path": path, **headers}
    return RequestSide(m.RequestHeaders(arrived, end_of_stream=False), policy=under)


def upstream(
    provider: str,
    headers: dict[str, str],
    *,
    path: str = "/v1/chat/completions",
    under: Policy | None = None,
    key: ApiKey | None = KEPT,
    secrets: ProviderSecrets | None = SECRETS,
) -> m.HeadersReply:
    """What is done to the headers of a request."""
    under = keyed() if under is None else under
    request = side(headers, under, path=path)
    if key is not None:
        request.identify(key)
    request.use_provider_key(provider, secrets, under)
    return request.pass_headers()


@pytest.mark.parametrize(
    ("provider", "sent_in", "arrives_in", "value"),
    [
        ("openai", "authorization", "authorization", "Bearer acmes-own"),
        ("openai", "x-project-key", "authorization", "Bearer acmes-own"),
        ("openai", "x-api-key", "authorization", "Bearer acmes-own"),
        ("anthropic", "x-api-key", "x-api-key", "real"),
        # Its endpoints in OpenAI's form take a bearer token.
        ("anthropic", "authorization", "authorization", "Bearer real"),
        ("anthropic", "x-project-key", "x-api-key", "real"),
        ("google", "x-goog-api-key", "x-goog-api-key", "real"),
        ("google", "authorization", "x-goog-api-key", "real"),
        ("azure", "api-key", "api-key", "real"),
        ("azure", "authorization", "authorization", "Bearer real"),
        ("azure", "x-project-key", "api-key", "real"),
        ("deepseek", "x-api-key", "x-api-key", "real"),
        ("groq", "x-project-key", "authorization", "Bearer real"),
        ("aws", "x-project-key", "authorization", "Bearer real"),
    ],
)
def test_the_header_is_the_providers(provider: str, sent_in: str, arrives_in: str, value: str) -> None:
    reply = upstream(provider, {sent_in: f"Bearer {PD_KEY}" if sent_in == "authorization" else PD_KEY})
    assert reply.set_headers == {arrives_in: value}
    # Also those that Envoy did not show.
    assert set(reply.remove_headers) == set(CREDENTIAL_HEADERS) - {arrives_in}


def test_a_key_in_the_query_arrives_in_a_header() -> None:
    reply = upstream("google", {}, path=f"/v1beta/models/gemini-2.5-flash:generateContent?key={PD_KEY}&alt=sse")
    assert reply.set_headers["x-goog-api-key"] == "real"
    assert reply.set_headers[":path"] == "/v1beta/models/gemini-2.5-flash:generateContent?alt=sse"


@pytest.mark.parametrize(
    ("sources", "value"),
    [
        ((Source(Place.API_KEY, "project"),), "acmes-own"),
        ((Source(Place.HEADER, "x-project"), Source(Place.DEFAULT, "acme")), "acmes-own"),
        ((Source(Place.HEADER, "x-project"),), "real"),
        ((Source(Place.DEFAULT, "other"),), "real"),
        # It may be another one than the body will say.
        ((Source(Place.BODY, "project"), Source(Place.DEFAULT, "acme")), "real"),
        ((), "real"),
    ],
)
def test_a_project_has_its_own_key(sources: tuple[Source, ...], value: str) -> None:
    own = ProviderSecrets("1", {("openai", None): "real", ("openai", "acme"): "acmes-own"})
    identity = Identity({"project": sources} if sources else {})
    reply = upstream("openai", {"authorization": f"Bearer {PD_KEY}"}, under=keyed(identity=identity), secrets=own)
    assert reply.set_headers == {"authorization": f"Bearer {value}"}


def test_a_provider_without_a_key_is_named() -> None:
    none = ProviderSecrets("1", {("openai", "another"): "sk"})
    with pytest.raises(ProviderKeyMissing, match="no key for the provider openai") as caught:
        upstream("openai", {"authorization": f"Bearer {PD_KEY}"}, secrets=none)
    assert caught.value.status == 500


def test_without_a_secret_file_the_key_is_only_taken_out() -> None:
    reply = upstream("openai", {"authorization": f"Bearer {PD_KEY}"}, secrets=None)
    assert (reply.set_headers, reply.remove_headers) == ({}, ("authorization",))


def test_who_came_with_a_key_of_the_providers_keeps_it() -> None:
    optional = keyed(api_keys=ApiKeys.OPTIONAL)
    reply = upstream("openai", {"authorization": "Bearer sk-own"}, under=optional, key=None)
    assert (reply.set_headers, reply.remove_headers) == ({}, ())


@pytest.mark.parametrize("api_keys", ApiKeys)
def test_all_requests_can_get_the_providers_key(api_keys: ApiKeys) -> None:
    everybody = keyed(api_keys=api_keys, provider_keys=ProviderKeys.ALL)
    reply = upstream("openai", {"x-api-key": "sk-own"}, path="/v1/models?api-key=own", under=everybody, key=None)
    assert reply.set_headers == {"authorization": "Bearer real", ":path": "/v1/models"}
    assert "x-api-key" in reply.remove_headers
    with pytest.raises(ProviderKeyMissing):
        upstream("openai", {}, under=everybody, key=None, secrets=None)


def test_where_keys_are_off_one_in_a_header_means_nothing() -> None:
    everybody = keyed(api_keys=ApiKeys.OFF, provider_keys=ProviderKeys.ALL)
    assert side({"authorization": f"Bearer {PD_KEY}"}, everybody).key_digest() is None


# --- WebSockets ---

IN_PROTOCOLS = f"realtime, openai-insecure-api-key.{PD_KEY}, openai-beta.realtime-v1"


def test_a_key_among_websocket_protocols() -> None:
    handshake = {"sec-websocket-protocol": IN_PROTOCOLS}
    assert side(handshake, keyed()).key_digest() == side({"x-project-key": PD_KEY}, keyed()).key_digest()
    reply = upstream("openai", handshake, path="/v1/realtime")
    assert reply.set_headers["authorization"] == "Bearer acmes-own"
    assert reply.set_headers["sec-websocket-protocol"] == "realtime, openai-beta.realtime-v1"


@pytest.mark.parametrize(
    ("protocols", "api_keys", "left"),
    [
        (f"openai-insecure-api-key.{PD_KEY}", ApiKeys.REQUIRED, None),
        ("realtime,openai-insecure-api-key.sk-own", ApiKeys.REQUIRED, "realtime"),
        (f"realtime,openai-insecure-api-key.{PD_KEY}", ApiKeys.OPTIONAL, "realtime"),
        ("realtime, openai-insecure-api-key.sk-own", ApiKeys.OPTIONAL, "untouched"),
        ("realtime, openai-insecure-api-key.sk-own", ApiKeys.OFF, "untouched"),
        ("realtime", ApiKeys.REQUIRED, "untouched"),
    ],
)
def test_what_is_left_of_websocket_protocols(protocols: str, api_keys: ApiKeys, left: str | None) -> None:
    under = replace(keyed(), api_keys=api_keys)
    reply = side({"sec-websocket-protocol": protocols}, under, path="/v1/realtime").pass_headers()
    found = reply.set_headers.get("sec-websocket-protocol", "untouched")
    if left is None:
        assert reply.remove_headers == ("sec-websocket-protocol",)
    else:
        assert found == left
        assert reply.remove_headers == ()

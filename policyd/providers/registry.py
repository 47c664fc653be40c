"""Which vendor and which wire format a request is for.

The vendor is told by the route (`provider`, set by whoever configured Envoy), else by the host, else by the path: a
first segment that names a vendor (`/groq/v1/...`), or one of the bare paths of OpenAI and Anthropic. The endpoint is
told by method and path, which have to match exactly: a path with dot segments, doubled slashes or escapes matches
nothing, because the provider might read it otherwise than we do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from policyd.providers.anthropic_messages import AnthropicMessages
from policyd.providers.base import Api, Endpoint, UnknownEndpoint, Vendor, WireFormat
from policyd.providers.openai_chat import OpenAIChat
from policyd.providers.vendors import ANTHROPIC, COMMON_BASES, OPENAI, VENDORS, VENDORS_BY_HOST, vendor_named

OPENAI_CHAT = OpenAIChat()
ANTHROPIC_MESSAGES = AnthropicMessages()


ERROR_WIRES: Mapping[Api, WireFormat] = {Api.OPENAI: OPENAI_CHAT, Api.ANTHROPIC: ANTHROPIC_MESSAGES}
"""Who words the refusals of an API where no endpoint of its own does."""


@dataclass(frozen=True, slots=True)
class _Route:
    """One row of the endpoint table: `tail` follows one of the vendor's base paths. Without `wire` it is free."""

    api: Api
    method: str
    tail: re.Pattern[str]
    name: str
    wire: WireFormat | None


def _route(api: Api, method: str, tail: str, name: str, wire: WireFormat | None = None) -> _Route:
    return _Route(api, method, re.compile(tail), name, wire)


_MODELS = "/models(?:/[A-Za-z0-9_][A-Za-z0-9_.:@-]*)?"

_ROUTES = (
    _route(Api.OPENAI, "POST", "/chat/completions", "chat.completions", OPENAI_CHAT),
    _route(Api.OPENAI, "POST", "/moderations", "moderations"),
    _route(Api.OPENAI, "GET", _MODELS, "models"),
    _route(Api.ANTHROPIC, "POST", "/messages", "messages", ANTHROPIC_MESSAGES),
    _route(Api.ANTHROPIC, "POST", "/messages/count_tokens", "messages.count_tokens"),
    _route(Api.ANTHROPIC, "GET", _MODELS, "models"),
)

_BARE_ANTHROPIC = re.compile(r"/v1/(?:messages|complete)(?:/.*)?")
_BARE_OPENAI = re.compile(r"/v1(?:/.*)?")
"""Whatever else stands under `/v1`: what is not in the table may be priced all the same, so it is somebody's."""


def resolve(*, provider: str | None, host: str, method: str, path: str) -> Endpoint | UnknownEndpoint | None:
    """Where a request goes.

    `provider` is the route's word for it, a genai-prices id or the name of any vendor whose API is OpenAI's; `host` may
    have a port; `path` may have a query. `None`: nothing says that this is a request to a model provider.
    """
    path = path.partition("?")[0]
    found = _vendor(provider, host, path)
    if found is None:
        return None
    vendor, path = found
    for api in vendor.apis:
        for route in _ROUTES:
            if route.api is api and route.method == method and _follows_base(vendor, route, path):
                return Endpoint(vendor, route.name, path, route.wire, route.wire or ERROR_WIRES[api])
    return UnknownEndpoint(vendor, _nearest_error_wire(vendor, path))


def _vendor(provider: str | None, host: str, path: str) -> tuple[Vendor, str] | None:
    """The vendor, and the path without the segment that named it."""
    first, rest = _split_first(path)
    if provider:
        return vendor_named(provider), rest if first == provider else path
    by_host = VENDORS_BY_HOST.get(_host_name(host))
    if by_host is not None:
        return by_host, path
    if first in VENDORS:
        return VENDORS[first], rest
    if _BARE_ANTHROPIC.fullmatch(path):
        return ANTHROPIC, path
    if _BARE_OPENAI.fullmatch(path):
        return OPENAI, path
    return None


def _split_first(path: str) -> tuple[str, str]:
    first, slash, rest = path.removeprefix("/").partition("/")
    return first, slash + rest


def _host_name(host: str) -> str:
    return host.partition(":")[0].lower().removesuffix(".")


def _follows_base(vendor: Vendor, route: _Route, path: str) -> bool:
    return any(
        path.startswith(base) and route.tail.fullmatch(path, len(base)) for base in (*COMMON_BASES, *vendor.bases)
    )


def _nearest_error_wire(vendor: Vendor, path: str) -> WireFormat:
    """Who words the refusal of a path without a route: the API whose endpoint's name is in it, or the vendor's own."""
    segments = path.split("/")
    if "messages" in segments and Api.ANTHROPIC in vendor.apis:
        return ANTHROPIC_MESSAGES
    if "completions" in segments and Api.OPENAI in vendor.apis:
        return OPENAI_CHAT
    return ERROR_WIRES[vendor.apis[0]]

"""OpenAI chat completions, the wire format that most vendors adopted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import NO_USAGE, Usage
from policyd.providers.base import (
    OUTPUT_TOKENS_MAX,
    CacheWrite,
    ErrorInfo,
    RawRequest,
    RequestEdits,
    RequestFacts,
    Vendor,
)
from policyd.providers.framing.json_edit import remove_member, set_member
from policyd.providers.openai.errors import chunk_error_event, error_body
from policyd.providers.openai.model import requested_model, service_tier_terms
from policyd.providers.openai.prompt import read_prompt
from policyd.providers.openai.reply import OpenAIChatReplies
from policyd.providers.reply_values import term
from policyd.providers.request_body import (
    Json,
    cache_write_asked,
    decode_request,
    fields_at,
    optional_boolean,
    optional_integer,
    optional_object,
    required_objects,
)

CHOICES_MAX = 128
"""The most choices that OpenAI generates for one prompt."""

_MAXIMA = ("max_completion_tokens", "max_tokens")
"""The members that bound the output of a choice: today's and the older one, which some vendors have alone."""

_DECISIVE = (
    "model",
    "messages",
    "tools",
    "functions",
    "n",
    "stream",
    "stream_options",
    "service_tier",
    "web_search_options",
    "plugins",
    "response_format",
    *_MAXIMA,
)

_SEARCH_MODEL = re.compile(r"-search-(?:preview|api)\b|:online$")
"""Models that search the web for every request, asked to or not: OpenAI's, and any at OpenRouter by that suffix."""

_WEB_PLUGIN = "web"
_WEB_SEARCH_TOOL = "openrouter:web_search"
_TOOL_SEARCHES_MAX = 10
"""The most searches by OpenRouter's tool that are held for: the stated allowance. A recorded request made one."""

_TOOL_SEARCHES = Usage(web_searches=_TOOL_SEARCHES_MAX)


class OpenAIChat(OpenAIChatReplies):
    """The `WireFormat` of OpenAI chat completions."""

    name = "openai-chat"
    exact_vocabulary = True

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=_DECISIVE)
        try:
            return _facts(document, request, vendor=vendor, identity=identity_fields)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        if edits.max_output_tokens is not None:
            document = msgspec.json.decode(body)
            given = [name for name in _MAXIMA if document.get(name) is not None]
            for name in given or [vendor.output_maximum]:
                body = set_member(body, (name,), b"%d" % edits.max_output_tokens)
        if edits.request_usage:
            body = set_member(body, ("stream_options", "include_usage"), b"true")
        return body

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return chunk_error_event(error)


def _facts(document: Json, request: RawRequest, *, vendor: Vendor, identity: Sequence[str]) -> RequestFacts:
    model = requested_model(document, request)
    messages = required_objects(document, "messages")
    streamed = optional_boolean(document, "stream") or False
    stream_options = optional_object(document, "stream_options")
    usage_asked = optional_boolean(stream_options, "include_usage", inside="stream_options.")
    searches = _searches(document, model=model)
    return RequestFacts(
        model=model,
        streamed=streamed,
        prompt=read_prompt(document, messages, model=model, exact=vendor.exact_prompts),
        max_output_tokens=_output_maximum(document),
        choices=optional_integer(document, "n", minimum=1, maximum=CHOICES_MAX) or 1,
        usage_requested=not streamed or not vendor.stream_options or usage_asked is True,
        cache_write=_cache_write(messages),
        pieces_min=searches,
        pieces_max=searches + _tool_searches_max(document),
        terms=service_tier_terms(document) | _search_terms(document),
        fields=fields_at(document, identity),
    )


def _output_maximum(document: Json) -> int | None:
    """The larger one where both are given: which of them a vendor heeds is not known."""
    given = [optional_integer(document, name, minimum=1, maximum=OUTPUT_TOKENS_MAX) for name in _MAXIMA]
    return max((maximum for maximum in given if maximum is not None), default=None)


def _searches(document: Json, *, model: str) -> Usage:
    """The search that is made for the request in any case."""
    asked = document.get("web_search_options") is not None or _WEB_PLUGIN in _named(document, "plugins", by="id")
    return Usage(web_searches=1) if asked or _SEARCH_MODEL.search(model) else NO_USAGE


def _tool_searches_max(document: Json) -> Usage:
    return _TOOL_SEARCHES if _WEB_SEARCH_TOOL in _named(document, "tools", by="type") else NO_USAGE


def _named(document: Json, member: str, *, by: str) -> list[Any]:
    """What the objects in an array of the request are called."""
    items = document.get(member)
    return [item.get(by) for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _search_terms(document: Json) -> dict[str, str]:
    return term("search_context_size", optional_object(document, "web_search_options").get("search_context_size"))


def _cache_write(messages: list[Json]) -> CacheWrite:
    """Caching needs no asking here, and some models charge for it; for an hour it is kept only where asked for."""
    parts = [part for message in messages if isinstance(message.get("content"), list) for part in message["content"]]
    return CacheWrite.LONG if any(cache_write_asked(part) is CacheWrite.LONG for part in parts) else CacheWrite.SHORT

"""OpenAI chat completions, the wire format that most vendors adopted."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from policyd.core.errors import BodyUnreadable
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
from policyd.providers.openai.reply import OpenAIChatReply
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
    "response_format",
    *_MAXIMA,
)

_SEARCH_MODEL = re.compile(r"-search-(?:preview|api)\b")
"""OpenAI's models that search the web for every request, asked to or not."""


class OpenAIChat:
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

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> OpenAIChatReply:
        return OpenAIChatReply(facts, usage_added=usage_added)

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
    optional_object(document, "web_search_options")
    searches = document.get("web_search_options") is not None or _SEARCH_MODEL.search(model) is not None
    return RequestFacts(
        model=model,
        streamed=streamed,
        prompt=read_prompt(document, messages, model=model, exact=vendor.exact_prompts),
        max_output_tokens=_output_maximum(document),
        choices=optional_integer(document, "n", minimum=1, maximum=CHOICES_MAX) or 1,
        usage_requested=not streamed or not vendor.stream_options or usage_asked is True,
        cache_write=_cache_write(messages),
        web_searches_max=1 if searches else 0,
        terms=service_tier_terms(document),
        fields=fields_at(document, identity),
    )


def _output_maximum(document: Json) -> int | None:
    """The larger one where both are given: which of them a vendor heeds is not known."""
    given = [optional_integer(document, name, minimum=1, maximum=OUTPUT_TOKENS_MAX) for name in _MAXIMA]
    return max((maximum for maximum in given if maximum is not None), default=None)


def _cache_write(messages: list[Json]) -> CacheWrite:
    """Caching needs no asking here, and some models charge for it; for an hour it is kept only where asked for."""
    parts = [part for message in messages if isinstance(message.get("content"), list) for part in message["content"]]
    return CacheWrite.LONG if any(cache_write_asked(part) is CacheWrite.LONG for part in parts) else CacheWrite.SHORT

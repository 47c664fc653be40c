"""Gemini's `generateContent` and `streamGenerateContent`, at the Gemini API and at Vertex AI."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import OUTPUT_TOKEN_KINDS, Usage
from policyd.providers.base import OUTPUT_TOKENS_MAX, ErrorInfo, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.framing.json_edit import remove_member, set_member
from policyd.providers.gemini.errors import error_body
from policyd.providers.gemini.prompt import GeminiPrompt, add_tools
from policyd.providers.gemini.reply import GeminiReply, charges_by_prompt
from policyd.providers.gemini.request import (
    QUERIES_MAX,
    check_query,
    field,
    object_field,
    objects_field,
    service_tier,
    snake_case,
    spellings,
    split_path,
    whole_number_field,
)
from policyd.providers.request_body import Json, decode_request, fields_at, refuse_contradictions_inside

CANDIDATES_MAX = 8
"""The most candidates that Gemini generates for one prompt."""

_CONFIG = spellings(["generationConfig"])
_CONFIG_DECISIVE = spellings(["maxOutputTokens", "candidateCount"])
_DECISIVE = spellings(
    ["contents", "systemInstruction", "tools", "generationConfig", "cachedContent", "serviceTier"],
)
_SEARCH_TOOLS = spellings(["googleSearch", "googleSearchRetrieval", "enterpriseWebSearch"])
_MAP_TOOLS = spellings(["googleMaps"])


class GeminiGenerate:
    """The `WireFormat` of `generateContent` and `streamGenerateContent`. Its replies always carry usage."""

    name = "gemini-generate"
    exact_vocabulary = False

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        model, verb = split_path(request.path)
        check_query(request.query)
        document = decode_request(request.body, decisive=_DECISIVE)
        refuse_contradictions_inside(request.body, _CONFIG, decisive=_CONFIG_DECISIVE)
        try:
            return _facts(document, model=model, streamed=verb.startswith("stream"), identity=identity_fields)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        if edits.max_output_tokens is not None:
            maximum = _maximum_path(msgspec.json.decode(body))
            body = set_member(body, maximum, b"%d" % edits.max_output_tokens)
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> GeminiReply:
        return GeminiReply(facts)

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return b"data: " + error_body(error) + b"\n\n"


def _facts(document: Json, *, model: str, streamed: bool, identity: Sequence[str]) -> RequestFacts:
    config = object_field(document, "generationConfig")
    tools = objects_field(document, "tools")
    maximum = whole_number_field(
        config, "maxOutputTokens", minimum=0, maximum=OUTPUT_TOKENS_MAX, inside="generationConfig."
    )
    candidates = whole_number_field(
        config, "candidateCount", minimum=0, maximum=CANDIDATES_MAX, inside="generationConfig."
    )
    named = {name for tool in tools for name, value in tool.items() if value is not None}
    searches_max = 1 if charges_by_prompt(model) else QUERIES_MAX
    choices = candidates or 1
    prompt = _prompt(document, tools)
    return RequestFacts(
        model=model,
        streamed=streamed,
        prompt=prompt.prompt,
        # Zero is as good as nothing.
        max_output_tokens=maximum or None,
        choices=choices,
        input_kinds=prompt.input_kinds,
        output_kinds=OUTPUT_TOKEN_KINDS,
        pieces_max=Usage(
            web_searches=0 if named.isdisjoint(_SEARCH_TOOLS) else searches_max,
            map_searches=0 if named.isdisjoint(_MAP_TOOLS) else choices,
        ),
        terms=service_tier(document),
        fields=fields_at(document, identity),
    )


def _prompt(document: Json, tools: list[Json]) -> GeminiPrompt:
    prompt = GeminiPrompt()
    prompt.add_content(field(document, "systemInstruction"))
    for content in objects_field(document, "contents"):
        prompt.add_content(content)
    add_tools(prompt, tools)
    if field(document, "cachedContent") is not None:
        prompt.add_hidden()
    return prompt


def _maximum_path(document: Json) -> tuple[str, str]:
    """Where the output's maximum stands, in the spelling that the client uses."""
    outer = next((name for name in _CONFIG if document.get(name) is not None), _CONFIG[0])
    config = document.get(outer) or {}
    camel, snake = "maxOutputTokens", snake_case("maxOutputTokens")
    return outer, snake if config.get(snake) is not None else camel

"""Google's interactions: turns of a conversation that Google may keep, with a model or with an agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import OUTPUT_TOKEN_KINDS, Usage
from policyd.providers.base import OUTPUT_TOKENS_MAX, ErrorInfo, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.framing.json_edit import remove_member, set_member
from policyd.providers.gemini.interactions_reply import InteractionReply
from policyd.providers.gemini.prompt import GeminiPrompt
from policyd.providers.gemini.reply import charges_by_prompt
from policyd.providers.gemini.request import (
    QUERIES_MAX,
    check_query,
    field,
    object_field,
    service_tier,
    whole_number_field,
)
from policyd.providers.request_body import (
    Json,
    decode_request,
    fields_at,
    optional_boolean,
    optional_objects,
    optional_text,
    refuse_contradictions_inside,
    required_text,
)

_MAXIMUM = ("generation_config", "max_output_tokens")
_DECISIVE = (
    "model",
    "agent",
    "input",
    "stream",
    "system_instruction",
    "tools",
    "generation_config",
    "background",
    "previous_interaction_id",
    "service_tier",
)
_HIDDEN = ("previousInteractionId", "cachedContent", "continuationToken", "environment")
"""What brings in content that the request does not show."""


class GeminiInteractions:
    """The `WireFormat` of interactions. A reply carries usage when the interaction is over.

    What an agent costs cannot be told from its request: it is priced by its name, which the price book does not know.
    """

    name = "gemini-interactions"
    exact_vocabulary = False

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        check_query(request.query)
        document = decode_request(request.body, decisive=_DECISIVE)
        refuse_contradictions_inside(request.body, _MAXIMUM[:1], decisive=_MAXIMUM[1:])
        try:
            return _facts(document, identity=identity_fields)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        if edits.max_output_tokens is not None:
            body = set_member(body, _MAXIMUM, b"%d" % edits.max_output_tokens)
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> InteractionReply:
        return InteractionReply(facts)

    def error_body(self, error: ErrorInfo) -> bytes:
        return msgspec.json.encode({"error": _error_fields(error)})

    def error_event(self, error: ErrorInfo) -> bytes:
        # The SDK yields it as any other event.
        event = {"event_type": "error", "error": _error_fields(error)}
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _error_fields(error: ErrorInfo) -> Json:
    """Other than elsewhere at Google, its code is a word: the SDK takes no number for one."""
    return {"code": error.reason, "message": error.message, "policyd": error.policyd}


def _facts(document: Json, *, identity: Sequence[str]) -> RequestFacts:
    if optional_text(document, "agent") and document.get("model") is not None:
        raise BodyUnreadable("agent: given beside a model")
    model = optional_text(document, "agent") or required_text(document, "model")
    tools = optional_objects(document, "tools")
    config = object_field(document, _MAXIMUM[0])
    searches_max = 1 if charges_by_prompt(model) else QUERIES_MAX
    kinds = [tool.get("type") for tool in tools]
    prompt = _prompt(document, tools)
    return RequestFacts(
        model=model,
        streamed=optional_boolean(document, "stream") or False,
        prompt=prompt.prompt,
        max_output_tokens=whole_number_field(
            config, _MAXIMUM[1], minimum=0, maximum=OUTPUT_TOKENS_MAX, inside=f"{_MAXIMUM[0]}."
        )
        or None,
        input_kinds=prompt.input_kinds,
        output_kinds=OUTPUT_TOKEN_KINDS,
        outlives_client=optional_boolean(document, "background") or False,
        pieces_max=Usage(
            web_searches=searches_max if "google_search" in kinds else 0,
            map_searches=1 if "google_maps" in kinds else 0,
        ),
        terms=service_tier(document),
        fields=fields_at(document, identity),
    )


def _prompt(document: Json, tools: list[Json]) -> GeminiPrompt:
    prompt = GeminiPrompt()
    prompt.add_text(field(document, "systemInstruction"))
    _add_content(prompt, document.get("input"))
    for tool in tools:
        if tool.get("type") == "function":
            prompt.add_function({name: value for name, value in tool.items() if name != "type"})
        else:
            prompt.add_provider_tool()
    if any(field(document, name) is not None for name in _HIDDEN) or document.get("agent") is not None:
        prompt.add_hidden()
    return prompt


def _add_content(prompt: GeminiPrompt, content: Any) -> None:
    """Content in any of its forms: a text, one item, or a list of them, be they steps that hold content themselves."""
    for item in content if isinstance(content, list) else [content]:
        if isinstance(item, dict):
            _add_item(prompt, item)
        else:
            prompt.add_text(item)


def _add_item(prompt: GeminiPrompt, item: Json) -> None:
    prompt.add_signature(item.get("signature"))
    match item.get("type"):
        case "text":
            prompt.add_text(item.get("text"))
        case "image" | "audio" | "video" | "document" as kind:
            mime_type = item.get("mime_type") or f"{kind}/"
            prompt.add_media(mime_type, data=item.get("data"), address=item.get("uri"))
        case "function_call" | "mcp_server_tool_call":
            prompt.add_call(item.get("name"), item.get("arguments"))
        case "function_result" | "mcp_server_tool_result":
            _add_result(prompt, item)
        case "thought":
            _add_content(prompt, item.get("summary"))
        case "user_input" | "model_output" | None:
            _add_content(prompt, item.get("content"))
        case _:
            prompt.add_unknown(item)


def _add_result(prompt: GeminiPrompt, item: Json) -> None:
    """A function's result: any JSON, or a list of content."""
    result = item.get("result")
    if isinstance(result, list):
        prompt.add_result(item.get("name"), None)
        _add_content(prompt, result)
    else:
        prompt.add_result(item.get("name"), result)

"""Anthropic messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import Usage
from policyd.providers.anthropic.errors import error_body, error_event
from policyd.providers.anthropic.prompt import AnthropicPrompt
from policyd.providers.anthropic.reply import REPLY_LEAVES, AnthropicReply, leaf_events
from policyd.providers.base import OUTPUT_TOKENS_MAX, ErrorInfo, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.framing.frame import Frame
from policyd.providers.framing.json_edit import remove_member, set_member
from policyd.providers.reply_values import mapping, objects, text, word
from policyd.providers.request_body import (
    Json,
    decode_request,
    fields_at,
    optional_boolean,
    optional_integer,
    optional_objects,
    optional_text,
    required_objects,
    required_text,
)

DECISIVE = (
    "model",
    "max_tokens",
    "messages",
    "system",
    "tools",
    "stream",
    "speed",
    "inference_geo",
    "context_management",
)

LISTING_BETAS = ("compact", "advisor")
"""What the names of the betas begin with whose runs beside the answer stand in `usage.iterations`; so do the types of
the edits of the context and of the tools that ask for them."""

_SEARCHES_UNLIMITED = 10
"""The most searches that are held for where the request sets no `max_uses`: after so many rounds of its own tools
Anthropic pauses the turn."""


class MessagesWire:
    """What messages are wherever they are served. Their replies always carry usage."""

    exact_vocabulary = False

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        if edits.max_output_tokens is not None:
            body = set_member(body, ("max_tokens",), b"%d" % edits.max_output_tokens)
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> AnthropicReply:
        return AnthropicReply()

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return error_event(error)


class AnthropicMessages(MessagesWire):
    """The `WireFormat` of Anthropic messages, a `LeafFormat`."""

    name = "anthropic-messages"
    reply_leaves = REPLY_LEAVES

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=DECISIVE)
        streamed = optional_boolean(document, "stream") or False
        return message_facts(
            document, model=required_text(document, "model"), streamed=streamed, identity_fields=identity_fields
        )

    def leaf_events(self, found: Json, *, ended: bool) -> Iterator[Frame]:
        return leaf_events(found)


def message_facts(document: Json, *, model: str, streamed: bool, identity_fields: Sequence[str]) -> RequestFacts:
    """What a messages request says beside `model` and `streamed`, which some clouds have in the path instead.

    Raises `BodyUnreadable`.
    """
    tools = optional_objects(document, "tools")
    messages = required_objects(document, "messages")
    terms = {name: word(optional_text(document, name)) for name in ("speed", "inference_geo")}
    try:
        read = AnthropicPrompt(document, messages=messages, tools=tools)
    except RecursionError:
        raise BodyUnreadable("the body is nested too deeply") from None
    return RequestFacts(
        model=model,
        streamed=streamed,
        prompt=read.prompt,
        max_output_tokens=optional_integer(document, "max_tokens", minimum=0, maximum=OUTPUT_TOKENS_MAX),
        cache_write=read.cache_write,
        lists_usage=any(_type_of(asked).startswith(LISTING_BETAS) for asked in (*tools, *_context_edits(document))),
        pieces_max=Usage(
            web_searches=sum(_web_searches(tool, inside=f"tools[{index}].") for index, tool in enumerate(tools))
        ),
        terms={name: value for name, value in terms.items() if value},
        fields=fields_at(document, identity_fields),
    )


def _web_searches(tool: Json, *, inside: str) -> int:
    if not _type_of(tool).startswith("web_search"):
        return 0
    uses = optional_integer(tool, "max_uses", minimum=0, maximum=1_000_000, inside=inside)
    return _SEARCHES_UNLIMITED if uses is None else uses


def _context_edits(document: Json) -> list[Json]:
    return objects(mapping(document.get("context_management")).get("edits"))


def _type_of(asked: Json) -> str:
    return text(asked.get("type"))

"""Cohere's endpoints that write text: chat in its two versions, and generate."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import OUTPUT_TOKENS_MAX, ErrorInfo, RawRequest, RequestFacts, Vendor
from policyd.providers.cohere.format import CohereFormat, error_fields
from policyd.providers.cohere.prompt import read_prompt, read_prompt_v1
from policyd.providers.cohere.reply import CohereChatReply, CohereChatV1Reply
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import (
    Json,
    decode_request,
    fields_at,
    optional_boolean,
    optional_integer,
    optional_text,
    required_objects,
    required_text,
)

CHAT_V1_MODEL = "command-r-plus-08-2024"
"""What v1 chat runs where a request names no model."""
GENERATE_MODEL = "command"
"""What generate runs where a request names no model."""
GENERATIONS_MAX = 5

_PRESET_TOKENS_MAX = 4096
"""Allowed for the prompt of a preset, which Cohere keeps."""


class CohereChat(CohereFormat):
    """The `WireFormat` of v2 chat."""

    name = "cohere-chat-v2"

    _DECISIVE = ("model", "messages", "max_tokens", "stream", "tools", "documents", "response_format")

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=self._DECISIVE)
        try:
            prompt = read_prompt(document, required_objects(document, "messages"))
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None
        return RequestFacts(
            model=required_text(document, "model"),
            streamed=optional_boolean(document, "stream") or False,
            prompt=prompt,
            max_output_tokens=_output_maximum(document),
            fields=fields_at(document, identity_fields),
        )

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> CohereChatReply:
        return CohereChatReply()

    def error_event(self, error: ErrorInfo) -> bytes:
        # A stream that fails ends as any other; its last event tells that it failed, and why.
        delta = {"finish_reason": "ERROR", "error": error.message, "policyd": error.policyd}
        end = msgspec.json.encode({"type": "message-end", "delta": delta})
        return b"event: message-end\ndata: " + end + b"\n\ndata: [DONE]\n\n"


class CohereChatV1(CohereFormat):
    """The `WireFormat` of v1 chat, whose streams are JSON lines."""

    name = "cohere-chat"

    _DECISIVE = (
        "model",
        "message",
        "chat_history",
        "preamble",
        "conversation_id",
        "max_tokens",
        "stream",
        "tools",
        "tool_results",
        "documents",
        "response_format",
    )

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=self._DECISIVE)
        try:
            prompt = read_prompt_v1(document)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None
        return RequestFacts(
            model=optional_text(document, "model") or CHAT_V1_MODEL,
            streamed=optional_boolean(document, "stream") or False,
            prompt=prompt,
            max_output_tokens=_output_maximum(document),
            fields=fields_at(document, identity_fields),
        )

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> CohereChatV1Reply:
        return CohereChatV1Reply()

    def error_event(self, error: ErrorInfo) -> bytes:
        end = {"event_type": "stream-end", "is_finished": True, "finish_reason": "ERROR", "response": {}}
        return msgspec.json.encode(end | error_fields(error)) + b"\n"


class CohereGenerate(CohereFormat):
    """The `WireFormat` of generate."""

    name = "cohere-generate"

    _DECISIVE = ("model", "prompt", "preset", "num_generations", "max_tokens", "stream")

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=self._DECISIVE)
        builder = PromptBuilder(exact=False)
        builder.text(optional_text(document, "prompt"))
        if document.get("preset") is not None:
            builder.hidden(_PRESET_TOKENS_MAX)
        return RequestFacts(
            model=optional_text(document, "model") or GENERATE_MODEL,
            streamed=optional_boolean(document, "stream") or False,
            prompt=builder.prompt(),
            max_output_tokens=_output_maximum(document),
            choices=optional_integer(document, "num_generations", minimum=1, maximum=GENERATIONS_MAX) or 1,
            fields=fields_at(document, identity_fields),
        )

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> CohereChatV1Reply:
        return CohereChatV1Reply()

    def error_event(self, error: ErrorInfo) -> bytes:
        end = {"event_type": "stream-error", "is_finished": True, "finish_reason": "ERROR", "err": error.message}
        return msgspec.json.encode(end | {"policyd": error.policyd}) + b"\n"


def _output_maximum(document: Json) -> int | None:
    """Zero is taken for none: Cohere documents it for one case only, and then as no limit that is worth holding."""
    return optional_integer(document, "max_tokens", minimum=0, maximum=OUTPUT_TOKENS_MAX) or None

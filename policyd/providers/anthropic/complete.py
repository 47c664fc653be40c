"""Anthropic's text completions (`/v1/complete`), which older models answer. Their replies never carry usage."""

from __future__ import annotations

from collections.abc import Sequence

from policyd.providers.anthropic.errors import error_body, error_event
from policyd.providers.anthropic.reply import AnthropicReply
from policyd.providers.base import OUTPUT_TOKENS_MAX, ErrorInfo, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.framing.json_edit import remove_member, set_member
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import (
    decode_request,
    fields_at,
    optional_boolean,
    optional_integer,
    required_text,
)

_OUTPUT_MAXIMUM = "max_tokens_to_sample"
_DECISIVE = ("model", "prompt", "stream", _OUTPUT_MAXIMUM)

_PROMPT_TOKENS = 4
"""What stands around a prompt."""


class AnthropicComplete:
    """The `WireFormat` of Anthropic text completions."""

    name = "anthropic-complete"
    exact_vocabulary = False

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=_DECISIVE)
        builder = PromptBuilder(exact=False)
        builder.overhead_tokens = _PROMPT_TOKENS
        builder.text(required_text(document, "prompt"))
        return RequestFacts(
            model=required_text(document, "model"),
            streamed=optional_boolean(document, "stream") or False,
            prompt=builder.prompt(),
            max_output_tokens=optional_integer(document, _OUTPUT_MAXIMUM, minimum=0, maximum=OUTPUT_TOKENS_MAX),
            fields=fields_at(document, identity_fields),
        )

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        if edits.max_output_tokens is not None:
            body = set_member(body, (_OUTPUT_MAXIMUM,), b"%d" % edits.max_output_tokens)
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> AnthropicReply:
        return AnthropicReply()

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return error_event(error)

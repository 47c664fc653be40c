"""Mistral's endpoints that write text: chat completions in OpenAI's format, and the middle of a text (FIM)."""

from __future__ import annotations

from collections.abc import Sequence

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import Usage
from policyd.providers.base import OUTPUT_TOKENS_MAX, ErrorInfo, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.framing.json_edit import remove_member, set_member
from policyd.providers.mistral.errors import error_body, error_event
from policyd.providers.mistral.prompt import heard_ms_max, read_prompt
from policyd.providers.openai.chat import CHOICES_MAX
from policyd.providers.openai.model import service_tier_terms
from policyd.providers.openai.reply import OpenAIChatReplies
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

_FIM_TOKENS = 4
"""What marks the two texts that the model writes between."""


class _Mistral(OpenAIChatReplies):
    """What the formats below have in common. Their replies always carry usage."""

    exact_vocabulary = False

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        if edits.max_output_tokens is not None:
            body = set_member(body, ("max_tokens",), b"%d" % edits.max_output_tokens)
        return body

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return error_event(error)


class MistralChat(_Mistral):
    """The `WireFormat` of chat completions."""

    name = "mistral-chat"

    _DECISIVE = ("model", "messages", "tools", "tool_choice", "n", "stream", "max_tokens", "service_tier")

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=self._DECISIVE)
        messages = required_objects(document, "messages")
        try:
            prompt = read_prompt(document, messages)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None
        return RequestFacts(
            model=required_text(document, "model"),
            streamed=optional_boolean(document, "stream") or False,
            prompt=prompt,
            max_output_tokens=_output_maximum(document),
            choices=optional_integer(document, "n", minimum=1, maximum=CHOICES_MAX) or 1,
            pieces=Usage(audio_input_ms=heard_ms_max(messages)),
            terms=service_tier_terms(document),
            fields=fields_at(document, identity_fields),
        )


class MistralFim(_Mistral):
    """The `WireFormat` of FIM completions, whose replies are those of chat completions."""

    name = "mistral-fim"

    _DECISIVE = ("model", "prompt", "suffix", "stream", "max_tokens")

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=self._DECISIVE)
        builder = PromptBuilder(exact=False)
        builder.overhead_tokens = _FIM_TOKENS
        builder.text(optional_text(document, "prompt"))
        builder.text(optional_text(document, "suffix"))
        return RequestFacts(
            model=required_text(document, "model"),
            streamed=optional_boolean(document, "stream") or False,
            prompt=builder.prompt(),
            max_output_tokens=_output_maximum(document),
            fields=fields_at(document, identity_fields),
        )


def _output_maximum(document: Json) -> int | None:
    return optional_integer(document, "max_tokens", minimum=1, maximum=OUTPUT_TOKENS_MAX)

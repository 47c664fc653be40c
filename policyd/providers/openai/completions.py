"""OpenAI's legacy completions, which many vendors of open models still serve."""

from __future__ import annotations

from collections.abc import Sequence

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import (
    OUTPUT_TOKENS_MAX,
    ErrorInfo,
    RawRequest,
    RequestEdits,
    RequestFacts,
    Vendor,
)
from policyd.providers.framing.json_edit import set_member
from policyd.providers.openai.chat import CHOICES_MAX
from policyd.providers.openai.errors import chunk_error_event
from policyd.providers.openai.input import add_inputs
from policyd.providers.openai.model import requested_model, service_tier_terms
from policyd.providers.openai.reply import OpenAIChatReplies
from policyd.providers.openai.wire import OpenAIWire
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.request_body import (
    Json,
    decode_request,
    fields_at,
    optional_boolean,
    optional_integer,
    optional_object,
    optional_text,
)

_DECISIVE = ("model", "prompt", "suffix", "n", "best_of", "max_tokens", "stream", "stream_options", "service_tier")


class OpenAICompletions(OpenAIChatReplies, OpenAIWire):
    """The `WireFormat` of legacy completions."""

    name = "openai-completions"

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=_DECISIVE)
        builder = PromptBuilder(exact=vendor.exact_prompts)
        choices = _add_prompts(builder, document) * _choices_each(document)
        streamed = optional_boolean(document, "stream") or False
        stream_options = optional_object(document, "stream_options")
        usage_asked = optional_boolean(stream_options, "include_usage", inside="stream_options.")
        return RequestFacts(
            model=requested_model(document, request),
            streamed=streamed,
            prompt=builder.prompt(),
            max_output_tokens=_output_maximum(document, choices=choices, vendor=vendor),
            choices=choices,
            usage_requested=not streamed or not vendor.stream_options or usage_asked is True,
            terms=service_tier_terms(document),
            fields=fields_at(document, identity_fields),
        )

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        body = super().edit_request(body, edits, vendor=vendor)
        if edits.max_output_tokens is not None:
            body = set_member(body, ("max_tokens",), b"%d" % edits.max_output_tokens)
        if edits.request_usage:
            body = set_member(body, ("stream_options", "include_usage"), b"true")
        return body

    def error_event(self, error: ErrorInfo) -> bytes:
        return chunk_error_event(error)


def _add_prompts(builder: PromptBuilder, document: Json) -> int:
    """Returns how many prompts there are: each is completed by itself."""
    builder.text(optional_text(document, "suffix"))
    if document.get("prompt") is None:
        # The model is given the token that separates documents.
        builder.overhead_tokens += 1
        return 1
    return add_inputs(builder, document["prompt"], name="prompt")


def _choices_each(document: Json) -> int:
    """How many replies are generated, and charged, for each prompt: of `best_of` only the best `n` are returned."""
    asked = [optional_integer(document, name, minimum=1, maximum=CHOICES_MAX) for name in ("n", "best_of")]
    return max(choices or 1 for choices in asked)


def _output_maximum(document: Json, *, choices: int, vendor: Vendor) -> int | None:
    maximum = optional_integer(document, "max_tokens", minimum=0, maximum=OUTPUT_TOKENS_MAX)
    if maximum is not None and maximum * choices > OUTPUT_TOKENS_MAX:
        raise BodyUnreadable(f"max_tokens: expected at most {OUTPUT_TOKENS_MAX} for all {choices} replies together")
    return vendor.completion_maximum if maximum is None else maximum

"""Anthropic message batches: one request that creates many, which are served later and priced at the batch's terms.

What a batch used does not come back with the reply that creates it: that reply carries no usage, and so the batch is
charged the most that it can cost. The real numbers are in its results, whose retrieval is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import NO_USAGE
from policyd.providers.anthropic.errors import error_body, error_event
from policyd.providers.anthropic.messages import DECISIVE, message_facts
from policyd.providers.anthropic.reply import AnthropicReply
from policyd.providers.base import ErrorInfo, Prompt, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.framing.json_edit import remove_member, set_member
from policyd.providers.request_body import (
    dearest_cache_write,
    decode_request,
    fields_at,
    optional_object,
    required_objects,
    required_text,
)

OUTPUT_TOKENS_MAX = 10_000_000_000
"""More output than any batch is served: 100,000 requests, Anthropic's limit, of 100,000 tokens each."""


class _Batch(msgspec.Struct):
    requests: list[msgspec.Raw]


class _Request(msgspec.Struct):
    params: msgspec.Raw = msgspec.Raw(b"{}")


class AnthropicBatches:
    """The `WireFormat` of the creation of a message batch, whose requests all have to be for one model."""

    name = "anthropic-batches"
    exact_vocabulary = False

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=("requests",))
        if not required_objects(document, "requests"):
            raise BodyUnreadable("requests: expected at least one")
        requests = msgspec.json.decode(request.body, type=_Batch).requests
        messages = [_message(bytes(raw), index=index) for index, raw in enumerate(requests)]
        return _sum(messages, fields=fields_at(document, identity_fields))

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        if edits.max_output_tokens is not None:
            requests = msgspec.json.decode(body, type=_Batch).requests
            share = edits.max_output_tokens // len(requests)
            limited = b",".join(_limit(bytes(raw), output_tokens_max=share) for raw in requests)
            body = set_member(body, ("requests",), b"[" + limited + b"]")
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> AnthropicReply:
        return AnthropicReply()

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return error_event(error)


def _message(raw: bytes, *, index: int) -> RequestFacts:
    """What one request of a batch says. Raises `BodyUnreadable`."""
    try:
        optional_object(decode_request(raw, decisive=("params",)), "params")
        params = decode_request(bytes(msgspec.json.decode(raw, type=_Request).params), decisive=DECISIVE)
        return message_facts(params, model=required_text(params, "model"), streamed=False, identity_fields=())
    except BodyUnreadable as error:
        raise BodyUnreadable(f"requests[{index}]: {error}") from None


def _sum(messages: Sequence[RequestFacts], *, fields: dict[str, str]) -> RequestFacts:
    model = messages[0].model
    for index, message in enumerate(messages):
        if message.model != model:
            raise BodyUnreadable(f"requests[{index}].params.model: expected {model!r}, as in the first request")
    return RequestFacts(
        model=model,
        streamed=False,
        prompt=_joined(message.prompt for message in messages),
        max_output_tokens=_output_maximum(messages),
        cache_write=dearest_cache_write({message.cache_write for message in messages}),
        outlives_client=True,
        pieces_max=sum((message.pieces_max for message in messages), NO_USAGE),
        terms={"processing": "batch"},
        fields=fields,
    )


def _joined(prompts: Iterable[Prompt]) -> Prompt:
    prompts = tuple(prompts)
    return Prompt(
        texts=tuple(text for prompt in prompts for text in prompt.texts),
        overhead_tokens=sum(prompt.overhead_tokens for prompt in prompts),
        possible_tokens=sum(prompt.possible_tokens for prompt in prompts),
        images=tuple(image for prompt in prompts for image in prompt.images),
        unread_bytes=sum(prompt.unread_bytes for prompt in prompts),
        exact=False,
        hides_input=any(prompt.hides_input for prompt in prompts),
    )


def _output_maximum(messages: Sequence[RequestFacts]) -> int | None:
    maxima = [message.max_output_tokens for message in messages]
    given = [maximum for maximum in maxima if maximum is not None]
    if sum(given) > OUTPUT_TOKENS_MAX:
        raise BodyUnreadable(f"requests: expected a sum of max_tokens up to {OUTPUT_TOKENS_MAX}")
    return sum(given) if len(given) == len(maxima) else None


def _limit(raw: bytes, *, output_tokens_max: int) -> bytes:
    """One request of a batch, its own maximum lowered where it is larger."""
    own = msgspec.json.decode(raw)["params"].get("max_tokens")
    if own is not None and own <= output_tokens_max:
        return raw
    return set_member(raw, ("params", "max_tokens"), b"%d" % output_tokens_max)

"""OpenAI Responses: creating a response, and compacting a conversation.

Only creating is metered. A background request is answered before it runs, so its reply has no usage and it is charged
the maximum that was held for it; its stream reports usage as any other does. Retrieving, cancelling and deleting a
response are free, and so nothing is charged twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import (
    OUTPUT_TOKENS_MAX,
    CacheWrite,
    RawRequest,
    RequestEdits,
    RequestFacts,
    Vendor,
)
from policyd.providers.framing.json_edit import set_member
from policyd.providers.openai.model import requested_model, service_tier_terms
from policyd.providers.openai.responses_prompt import read_prompt
from policyd.providers.openai.responses_reply import OpenAIResponsesReply
from policyd.providers.openai.responses_tools import container_terms, tool_calls_max
from policyd.providers.openai.wire import OpenAIWire
from policyd.providers.request_body import (
    Json,
    decode_request,
    fields_at,
    optional_boolean,
    optional_integer,
    optional_object,
    optional_objects,
)

_DECISIVE = (
    "model",
    "input",
    "instructions",
    "tools",
    "stream",
    "background",
    "max_output_tokens",
    "max_tool_calls",
    "service_tier",
    "text",
    "reasoning",
    "previous_response_id",
    "conversation",
    "prompt",
)


class OpenAIResponses(OpenAIWire):
    """The `WireFormat` of OpenAI Responses. `compacts`: of the endpoint that compacts a conversation."""

    def __init__(self, *, compacts: bool = False) -> None:
        self.name = "openai-responses-compact" if compacts else "openai-responses"
        self._compacts = compacts

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=_DECISIVE)
        try:
            return self._facts(document, request, vendor=vendor, identity=identity_fields)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        body = super().edit_request(body, edits, vendor=vendor)
        # A compaction takes no maximum.
        if edits.max_output_tokens is not None and not self._compacts:
            body = set_member(body, ("max_output_tokens",), b"%d" % edits.max_output_tokens)
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> OpenAIResponsesReply:
        return OpenAIResponsesReply()

    def _facts(self, document: Json, request: RawRequest, *, vendor: Vendor, identity: Sequence[str]) -> RequestFacts:
        # A stored prompt may name the model; then only the reply tells which it was.
        stored = document.get("prompt") is not None
        model = requested_model(document, request, default="" if stored else None)
        optional_object(document, "reasoning")
        optional_object(document, "text")
        tools = optional_objects(document, "tools")
        return RequestFacts(
            model=model,
            streamed=optional_boolean(document, "stream") or False,
            prompt=read_prompt(document, model=model, exact=vendor.exact_prompts, compacts=self._compacts),
            max_output_tokens=optional_integer(document, "max_output_tokens", minimum=1, maximum=OUTPUT_TOKENS_MAX),
            # Caching needs no asking here, and some models charge for it.
            cache_write=CacheWrite.SHORT,
            outlives_client=optional_boolean(document, "background") or False,
            pieces_max=tool_calls_max(document, tools),
            terms=service_tier_terms(document) | container_terms(tools),
            fields=fields_at(document, identity),
        )

"""Bedrock Converse: one form of request and reply for the models of all makers, with the model in the path."""

from __future__ import annotations

from collections.abc import Sequence

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import OUTPUT_TOKENS_MAX, ErrorInfo, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.bedrock.converse_reply import ConverseReply
from policyd.providers.bedrock.errors import error_body, error_event
from policyd.providers.bedrock.model import model_in_path
from policyd.providers.bedrock.prompt import ConversePrompt
from policyd.providers.framing.json_edit import remove_member, set_member
from policyd.providers.request_body import (
    Json,
    decode_request,
    fields_at,
    optional_integer,
    optional_object,
    optional_objects,
    optional_text,
    refuse_contradictions_inside,
)

_DECISIVE = (
    "messages",
    "system",
    "inferenceConfig",
    "toolConfig",
    "promptVariables",
    "additionalModelRequestFields",
    "outputConfig",
    "serviceTier",
)


class BedrockConverse:
    """The `WireFormat` of Converse and ConverseStream. Replies always carry usage."""

    name = "bedrock-converse"
    exact_vocabulary = False

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=_DECISIVE)
        refuse_contradictions_inside(request.body, ("inferenceConfig",), decisive=("maxTokens",))
        try:
            return _facts(document, path=request.path, identity=identity_fields)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        if edits.max_output_tokens is not None:
            body = set_member(body, ("inferenceConfig", "maxTokens"), b"%d" % edits.max_output_tokens)
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> ConverseReply:
        return ConverseReply()

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return error_event(error)


def _facts(document: Json, *, path: str, identity: Sequence[str]) -> RequestFacts:
    config = optional_object(document, "inferenceConfig")
    tier = optional_text(optional_object(document, "serviceTier"), "type")
    model = model_in_path(path)
    read = ConversePrompt(
        document,
        messages=optional_objects(document, "messages"),
        tool_config=optional_object(document, "toolConfig"),
        model=model,
    )
    return RequestFacts(
        model=model,
        streamed=path.endswith("/converse-stream"),
        prompt=read.prompt,
        max_output_tokens=optional_integer(
            config, "maxTokens", minimum=1, maximum=OUTPUT_TOKENS_MAX, inside="inferenceConfig."
        ),
        cache_write=read.cache_write,
        terms={"service_tier": tier} if tier else {},
        fields=fields_at(document, identity),
    )

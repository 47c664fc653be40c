"""Bedrock InvokeModel: the model in the path, the body in the form of the model's maker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import NO_USAGE
from policyd.providers.anthropic.messages import DECISIVE as ANTHROPIC_DECISIVE
from policyd.providers.anthropic.messages import message_facts
from policyd.providers.base import OUTPUT_TOKENS_MAX, ErrorInfo, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.bedrock.errors import error_body, error_event
from policyd.providers.bedrock.invoke_reply import InvokeReply
from policyd.providers.bedrock.maker_prompt import GENERATIONS_MAX, MAKER_MEMBERS, has_bare_parts, read_maker_prompt
from policyd.providers.bedrock.model import model_in_path, names_model
from policyd.providers.cohere.prompt import rerank_prompt
from policyd.providers.framing.json_edit import remove_member, set_member
from policyd.providers.ranking import rerank_pieces
from policyd.providers.request_body import (
    Json,
    decode_request,
    fields_at,
    optional_integer,
    optional_object,
    refuse_contradictions_inside,
)

_CONFIGS = ("inferenceConfig", "textGenerationConfig")
"""Objects in which Nova and Titan have what others have at the top."""

_MAXIMA = (
    "max_tokens",
    "max_completion_tokens",
    "max_tokens_to_sample",
    "max_gen_len",
    "max_new_tokens",
    "maxTokens",
    "maxTokenCount",
)
"""What the makers call the maximum of the output. No model heeds two of them."""

_CHOICES = ("n", "num_generations", "numResults")
"""What they call the number of replies to one prompt."""

_DECISIVE = tuple(dict.fromkeys((*ANTHROPIC_DECISIVE, *MAKER_MEMBERS, *_CONFIGS, *_MAXIMA, *_CHOICES)))

_RANKS = "rerank"
_NO_OUTPUT = ("embed", _RANKS)
"""What is in the names of models that generate nothing."""


class BedrockInvoke:
    """The `WireFormat` of InvokeModel and InvokeModelWithResponseStream."""

    name = "bedrock-invoke"
    exact_vocabulary = False

    def __init__(self, *, prompt_maximum: str = "max_tokens") -> None:
        """`prompt_maximum`: by which member policy bounds the output of a body with a `prompt`."""
        self._prompt_maximum = prompt_maximum

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        model = model_in_path(request.path)
        streamed = request.path.endswith("-stream")
        document = decode_request(request.body, decisive=_DECISIVE)
        refuse_contradictions_inside(request.body, _CONFIGS, decisive=_MAXIMA)
        if _is_anthropic(document):
            return message_facts(document, model=model, streamed=streamed, identity_fields=identity_fields)
        try:
            prompt, cache_write = read_maker_prompt(document, model=model)
            ranked = rerank_prompt(document).texts if _RANKS in model else ()
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None
        pieces = rerank_pieces(ranked) if ranked else (NO_USAGE, NO_USAGE)
        return RequestFacts(
            model=model,
            streamed=streamed,
            prompt=prompt,
            max_output_tokens=_output_maximum(document, model=model),
            pieces=pieces[0],
            pieces_max=pieces[1],
            choices=_choices(document),
            cache_write=cache_write,
            fields=fields_at(document, identity_fields),
        )

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for field in edits.strip_fields:
            body = remove_member(body, field.split("."))
        if edits.max_output_tokens is not None:
            for path in self._maximum_paths(msgspec.json.decode(body)):
                body = set_member(body, path, b"%d" % edits.max_output_tokens)
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> InvokeReply:
        return InvokeReply(facts)

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return error_event(error)

    def _maximum_paths(self, document: Json) -> list[tuple[str, ...]]:
        """Where a body has the maximum of its output, or would have it."""
        if _is_anthropic(document):
            return [("max_tokens",)]
        if given := [path for path, _ in _maxima(document)]:
            return given
        if "inputText" in document:
            return [("textGenerationConfig", "maxTokenCount")]
        if has_bare_parts(document):
            return [("inferenceConfig", "maxTokens")]
        return [(self._prompt_maximum if "prompt" in document else "max_tokens",)]


def _is_anthropic(document: Json) -> bool:
    """Whether the body is one of Anthropic messages. Those to its older models have a prompt, like others' do."""
    return "anthropic_version" in document and "messages" in document


def _output_maximum(document: Json, *, model: str) -> int | None:
    """The largest one where several are given: which of them the model heeds is not known."""
    if names_model(model) and any(part in model for part in _NO_OUTPUT):
        return 0
    return max((maximum for _, maximum in _maxima(document)), default=None)


def _maxima(document: Json) -> Iterator[tuple[tuple[str, ...], int]]:
    """Where maxima of the output are given, and which. Raises `BodyUnreadable`."""
    for name in _MAXIMA:
        if (maximum := optional_integer(document, name, minimum=0, maximum=OUTPUT_TOKENS_MAX)) is not None:
            yield (name,), maximum
    for config in _CONFIGS:
        inside = optional_object(document, config)
        for name in _MAXIMA:
            maximum = optional_integer(inside, name, minimum=0, maximum=OUTPUT_TOKENS_MAX, inside=f"{config}.")
            if maximum is not None:
                yield (config, name), maximum


def _choices(document: Json) -> int:
    given = [optional_integer(document, name, minimum=1, maximum=GENERATIONS_MAX) for name in _CHOICES]
    return max(choices or 1 for choices in given)

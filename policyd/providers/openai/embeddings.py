"""Embeddings and reranking: endpoints that read a text and generate none, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import Usage
from policyd.providers.base import RawRequest, RequestFacts, Vendor
from policyd.providers.framing.frame import Frame
from policyd.providers.leaves import ReplyLeaves, beneath
from policyd.providers.openai.errors import error_code
from policyd.providers.openai.input import add_inputs
from policyd.providers.openai.model import requested_model
from policyd.providers.openai.wire import OpenAIWire
from policyd.providers.prompt_builder import PromptBuilder
from policyd.providers.reply_reading import ReplyReading
from policyd.providers.reply_values import Json, count, decode, first_count, mapping, text
from policyd.providers.request_body import decode_request, fields_at

_INPUT_COUNTS = ("prompt_tokens", "input_tokens", "total_tokens")
"""Where the number of tokens stands; some vendors give the total alone."""

_USAGE_LEAVES = (*_INPUT_COUNTS, "completion_tokens")


class _InputWire(OpenAIWire):
    """What the two formats have in common; each is a `LeafFormat`."""

    reply_leaves = ReplyLeaves(
        document=("model", "object", "code", "error.type", "error.code", *beneath("usage", _USAGE_LEAVES))
    )

    def leaf_events(self, found: Json, *, ended: bool) -> Iterator[Frame]:
        yield from ()

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> OpenAIInputReply:
        return OpenAIInputReply()


class OpenAIEmbeddings(_InputWire):
    """The `WireFormat` of embeddings."""

    name = "openai-embeddings"

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=("model", "input"))
        builder = PromptBuilder(exact=vendor.exact_prompts)
        try:
            add_inputs(builder, document.get("input"), name="input")
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None
        return _facts(document, request, builder, identity=identity_fields)


class OpenAIRerank(_InputWire):
    """The `WireFormat` of reranking documents for a query, as many vendors serve it beside OpenAI's endpoints."""

    name = "openai-rerank"

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=("model", "query", "documents"))
        query, documents = document.get("query"), document.get("documents")
        if not isinstance(documents, list):
            raise BodyUnreadable("documents: expected an array of texts or objects")
        builder = PromptBuilder(exact=False)
        try:
            add_inputs(builder, query, name="query")
            pairs = add_inputs(builder, documents, name="documents")
            # The query is read with every document anew.
            builder.allow(len(msgspec.json.encode(query)) * (pairs - 1))
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None
        return _facts(document, request, builder, identity=identity_fields)


def _facts(document: Json, request: RawRequest, builder: PromptBuilder, *, identity: Sequence[str]) -> RequestFacts:
    return RequestFacts(
        model=requested_model(document, request),
        streamed=False,
        prompt=builder.prompt(),
        max_output_tokens=0,
        input_kinds=("input", "image_input"),
        fields=fields_at(document, identity),
    )


class OpenAIInputReply(ReplyReading):
    """A `ReplyReader` for replies whose usage is of input alone."""

    document_members = ("model", "usage", "error", "object", "code")

    __slots__ = ()

    @property
    def usage_complete(self) -> bool:
        return self._usage is not None

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._model = text(document.get("model")) or self._model
        if document.get("error") is not None:
            self._error = error_code(document["error"])
        elif document.get("object") == "error":
            # Mistral's errors are not wrapped.
            self._error = error_code(document)
        reported = mapping(document.get("usage"))
        counts = [reported.get(name) for name in _INPUT_COUNTS]
        if any(count(value) is not None for value in counts):
            self._usage = Usage(input=first_count(*counts), output=first_count(reported.get("completion_tokens")))

    def read_frame(self, frame: Frame) -> bool:
        self.read_document(mapping(decode(frame.data)))
        return True

"""Google's embeddings: `embedContent` and `batchEmbedContents`, and `predict` of Vertex AI's embedding models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import Usage
from policyd.providers.base import ErrorInfo, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.framing.frame import Frame
from policyd.providers.framing.json_edit import remove_member
from policyd.providers.gemini.errors import error_body
from policyd.providers.gemini.prompt import GeminiPrompt
from policyd.providers.gemini.reply import error_code
from policyd.providers.gemini.request import check_query, objects_field, spellings, split_path
from policyd.providers.gemini.usage import Counts, read_metadata
from policyd.providers.reply_reading import ReplyReading
from policyd.providers.reply_values import Json, count, decode, first_count, mapping, objects
from policyd.providers.request_body import decode_request, fields_at

_DECISIVE = spellings(["content", "title", "requests", "instances"])
_EMBEDDINGS = ("embedding", "embeddings", "predictions")
"""Under which names replies have them."""


class GeminiEmbeddings:
    """The `WireFormat` of embeddings. What they cost is their input; the older models do not report it."""

    name = "gemini-embeddings"
    exact_vocabulary = False

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        model, _ = split_path(request.path)
        check_query(request.query)
        document = decode_request(request.body, decisive=_DECISIVE)
        try:
            prompt = _prompt(document)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None
        # The models that are sold by the character do not charge for spaces: this is the most.
        characters = Usage(characters=sum(map(len, prompt.prompt.texts)))
        return RequestFacts(
            model=model,
            streamed=False,
            prompt=prompt.prompt,
            max_output_tokens=0,
            input_kinds=prompt.input_kinds,
            pieces=characters,
            fields=fields_at(document, identity_fields),
        )

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> EmbeddingsReply:
        return EmbeddingsReply()

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return b"data: " + error_body(error) + b"\n\n"


def _prompt(document: Json) -> GeminiPrompt:
    prompt = GeminiPrompt()
    for request in (document, *objects_field(document, "requests")):
        prompt.add_content(request.get("content"))
        prompt.add_text(request.get("title"))
    for instance in objects_field(document, "instances"):
        prompt.add_text(instance.get("content"))
        prompt.add_text(instance.get("title"))
    return prompt


class EmbeddingsReply(ReplyReading):
    """A `ReplyReader` for embeddings.

    Of a reply that has them and no usage it is known that there is no output: `usage` is all zeros then, and stays
    incomplete, so that the input is counted.
    """

    document_members = ("usageMetadata", "predictions", "metadata", "error")

    __slots__ = ("_is_complete",)

    def __init__(self) -> None:
        super().__init__()
        self._is_complete = False

    @property
    def usage_complete(self) -> bool:
        return self._is_complete

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        if document.get("error") is not None:
            self._error = error_code(document["error"])
        counts = read_metadata(mapping(document.get("usageMetadata"))) or _read_predictions(document)
        if counts is not None:
            billed = first_count(mapping(document.get("metadata")).get("billableCharacterCount"))
            self._usage = counts.usage(pieces=Usage(characters=billed))
            self._is_complete = True
        elif any(document.get(name) for name in _EMBEDDINGS):
            self._usage = Usage()

    def read_frame(self, frame: Frame) -> bool:
        self.read_document(mapping(decode(frame.data)))
        return True


def _read_predictions(document: Json) -> Counts | None:
    """The counts of each embedding in a `predict` reply; `None` where one is missing."""
    statistics = [
        mapping(mapping(prediction.get("embeddings")).get("statistics"))
        for prediction in objects(document.get("predictions"))
    ]
    tokens = [number for each in statistics if (number := count(each.get("token_count"))) is not None]
    if not tokens or len(tokens) < len(statistics):
        return None
    return Counts(prompt=sum(tokens), tool_use=0, cached=0, output=0, thoughts=0)

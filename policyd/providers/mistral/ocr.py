"""Mistral's OCR, which reads a document and is sold by the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import ErrorInfo, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.framing.frame import Frame
from policyd.providers.framing.json_edit import remove_member
from policyd.providers.mistral.errors import error_body, error_event
from policyd.providers.mistral.prompt import ocr_prompt
from policyd.providers.openai.errors import error_code
from policyd.providers.reply_reading import ReplyReading
from policyd.providers.reply_values import decode, mapping, text
from policyd.providers.request_body import decode_request, fields_at, optional_text

OCR_MODEL = "mistral-ocr-latest"
"""What reads a document where a request names no model."""


class MistralOcr:
    """The `WireFormat` of OCR."""

    name = "mistral-ocr"
    exact_vocabulary = False

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=("model", "document", "pages"))
        try:
            prompt = ocr_prompt(document)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None
        return RequestFacts(
            model=optional_text(document, "model") or OCR_MODEL,
            streamed=False,
            prompt=prompt,
            max_output_tokens=0,
            fields=fields_at(document, identity_fields),
        )

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> MistralOcrReply:
        return MistralOcrReply()

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return error_event(error)


class MistralOcrReply(ReplyReading):
    """A `ReplyReader` for OCR. The pages that it reports have no kind of usage: what was held is charged."""

    document_members = ("model", "object", "type", "code")

    __slots__ = ()

    @property
    def usage_complete(self) -> bool:
        return False

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._model = text(document.get("model")) or self._model
        if document.get("object") == "error":
            self._error = error_code(document)

    def read_frame(self, frame: Frame) -> bool:
        self.read_document(mapping(decode(frame.data)))
        return True

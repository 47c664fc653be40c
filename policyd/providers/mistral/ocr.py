"""Mistral's OCR, which reads a document and is sold by the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policyd.core.errors import BodyUnreadable
from policyd.core.usage import Usage
from policyd.providers.base import ErrorInfo, RawRequest, RequestEdits, RequestFacts, Vendor
from policyd.providers.framing.frame import Frame
from policyd.providers.framing.json_edit import remove_member
from policyd.providers.mistral.errors import error_body, error_event
from policyd.providers.mistral.prompt import ocr_prompt
from policyd.providers.openai.errors import error_code
from policyd.providers.reply_reading import ReplyReading
from policyd.providers.reply_values import Json, count, decode, mapping, text
from policyd.providers.request_body import decode_request, fields_at, optional_text

OCR_MODEL = "mistral-ocr-latest"
"""What reads a document where a request names no model."""

PAGES_MAX = 1_000
"""The most pages of a document that Mistral reads."""

HIDDEN_PAGES = 10
"""How many pages a document by its address is expected to have."""

_ANNOTATIONS = ("bbox_annotation_format", "document_annotation_format")
"""Members that ask for annotations: pages cost more then."""

_PAGE_BYTES = 20_000
"""How large a page of a document is taken to be."""
_PAGE_BYTES_MIN = 256
"""No page is expected to be smaller: one of plain text takes a thousand bytes and more."""


class MistralOcr:
    """The `WireFormat` of OCR."""

    name = "mistral-ocr"
    exact_vocabulary = False

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        document = decode_request(request.body, decisive=("model", "document", "pages", *_ANNOTATIONS))
        try:
            prompt = ocr_prompt(document)
            pieces = _pieces(document)
        except RecursionError:
            raise BodyUnreadable("the body is nested too deeply") from None
        return RequestFacts(
            model=optional_text(document, "model") or OCR_MODEL,
            streamed=False,
            prompt=prompt,
            max_output_tokens=0,
            pieces=pieces[0],
            pieces_max=pieces[1],
            fields=fields_at(document, identity_fields),
        )

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        return body

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> MistralOcrReply:
        return MistralOcrReply(annotated=facts.pieces.annotated_pages > 0)

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return error_event(error)


def _pieces(document: Json) -> tuple[Usage, Usage]:
    """The pages that are expected to be read, and the most."""
    annotated = any(document.get(name) is not None for name in _ANNOTATIONS)
    expected, most = _pages(document)
    kind = "annotated_pages" if annotated else "pages"
    return Usage(**{kind: expected}), Usage(**{kind: most})


def _pages(document: Json) -> tuple[int, int]:
    given = mapping(document.get("document"))
    if given.get("type") == "image_url":
        return 1, 1
    chosen = document.get("pages")
    if isinstance(chosen, list) and chosen:
        return min(len(chosen), PAGES_MAX), min(len(chosen), PAGES_MAX)
    encoded = text(given.get("document_url"))
    if not encoded.startswith("data:"):
        return HIDDEN_PAGES, PAGES_MAX
    file_bytes = len(encoded) * 3 // 4
    return max(1, min(PAGES_MAX, file_bytes // _PAGE_BYTES)), 1 + min(PAGES_MAX - 1, file_bytes // _PAGE_BYTES_MIN)


class MistralOcrReply(ReplyReading):
    """A `ReplyReader` for OCR, whose usage are the pages that were read."""

    document_members = ("model", "usage_info", "object", "type", "code")

    __slots__ = ("_kind",)

    def __init__(self, *, annotated: bool) -> None:
        super().__init__()
        self._kind = "annotated_pages" if annotated else "pages"

    @property
    def usage_complete(self) -> bool:
        return self._usage is not None

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        self._model = text(document.get("model")) or self._model
        pages = count(mapping(document.get("usage_info")).get("pages_processed"))
        if pages is not None:
            self._usage = Usage(**{self._kind: pages})
        if document.get("object") == "error":
            self._error = error_code(document)

    def read_frame(self, frame: Frame) -> bool:
        self.read_document(mapping(decode(frame.data)))
        return True

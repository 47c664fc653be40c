"""What most of OpenAI's wire formats have in common."""

from __future__ import annotations

from policyd.providers.base import ErrorInfo, RequestEdits, Vendor
from policyd.providers.framing.json_edit import remove_member
from policyd.providers.multipart import remove_fields
from policyd.providers.openai.errors import error_body, typed_error_event


class OpenAIWire:
    """The part of a `WireFormat` of an endpoint whose streams are typed events and whose output needs no bound."""

    exact_vocabulary = True

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        if body.startswith(b"--"):
            # No JSON begins like that: it is a form.
            return remove_fields(body, edits.strip_fields)
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        return body

    def error_body(self, error: ErrorInfo) -> bytes:
        return error_body(error)

    def error_event(self, error: ErrorInfo) -> bytes:
        return typed_error_event(error)

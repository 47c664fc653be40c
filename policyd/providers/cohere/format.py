"""What Cohere's wire formats have in common: how a request is edited, and how a refusal is worded."""

from __future__ import annotations

from typing import Any

import msgspec

from policyd.providers.base import ErrorInfo, RequestEdits, Vendor
from policyd.providers.framing.json_edit import remove_member, set_member


class CohereFormat:
    """The part of a `WireFormat` that is alike in all of them. Their replies always carry usage."""

    exact_vocabulary = False

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        for path in edits.strip_fields:
            body = remove_member(body, path.split("."))
        if edits.max_output_tokens is not None:
            body = set_member(body, ("max_tokens",), b"%d" % edits.max_output_tokens)
        return body

    def error_body(self, error: ErrorInfo) -> bytes:
        return msgspec.json.encode(error_fields(error))

    def error_event(self, error: ErrorInfo) -> bytes:
        return self.error_body(error)


def error_fields(error: ErrorInfo) -> dict[str, Any]:
    """A refusal's fields, JSON-ready: Cohere tells errors apart by their status alone."""
    return {"message": error.message, "policyd": error.policyd}

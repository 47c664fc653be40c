"""How Mistral words an error, on every endpoint: the document is the error, with no object around it."""

from __future__ import annotations

import msgspec

from policyd.providers.base import ErrorInfo
from policyd.providers.openai.errors import error_body as wrapped_error_body

_TYPES = {402: "payment_required", 429: "rate_limited"}


def error_body(error: ErrorInfo) -> bytes:
    """The JSON body of a refusal."""
    kind = _TYPES.get(error.status) or ("internal_error" if error.status >= 500 else "invalid_request_error")
    fields = {"object": "error", "message": error.message, "type": kind, "param": None, "code": error.reason}
    return msgspec.json.encode(fields | {"policyd": error.policyd})


def error_event(error: ErrorInfo) -> bytes:
    """Bytes that end a stream of chunks with an error.

    Mistral's own SDK raises at any event that is no chunk. Most who call Mistral do so with OpenAI's, which raises at
    an event that has an `error` and takes any other for a chunk.
    """
    return b"data: " + wrapped_error_body(error) + b"\n\ndata: [DONE]\n\n"

"""Anthropic's error shape, which all its wire formats share."""

from __future__ import annotations

import msgspec

from policyd.providers.base import ErrorInfo


def error_body(error: ErrorInfo) -> bytes:
    """The JSON body of a refusal."""
    kind = _ERROR_TYPES.get(error.status) or ("api_error" if error.status >= 500 else "invalid_request_error")
    fields = {"type": kind, "message": error.message, "policyd": error.policyd}
    return msgspec.json.encode({"type": "error", "error": fields})


def error_event(error: ErrorInfo) -> bytes:
    """An event that ends a stream with the error."""
    return b"event: error\ndata: " + error_body(error) + b"\n\n"


_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

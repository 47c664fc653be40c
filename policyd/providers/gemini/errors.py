"""Refusals in the error shape of Google's APIs (Google Cloud, "Errors", section "HTTP mapping")."""

from __future__ import annotations

import msgspec

from policyd.providers.base import ErrorInfo


def error_body(error: ErrorInfo) -> bytes:
    # The SDKs take a stream's event for an error only where `error` is its first member.
    return msgspec.json.encode(
        {
            "error": {
                "code": error.status,
                "message": error.message,
                "status": _STATUSES.get(error.status) or ("INTERNAL" if error.status >= 500 else "FAILED_PRECONDITION"),
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": error.reason.upper(),
                        "domain": "policyd",
                    }
                ],
                "policyd": error.policyd,
            }
        }
    )


_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

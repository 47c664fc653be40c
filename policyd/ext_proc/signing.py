"""Requests that their client signed: AWS Signature Version 4, as Bedrock takes it.

The signature covers the method, the path, the whole query, the body and the headers that it lists. It stands in
`authorization`, which policyd is not shown; but whoever signs sends the time of signing in a header of its own, or the
signature itself in the query. Whatever policy would change in what is covered would make the provider turn the request
away, so such a request is refused here, with a word on what its client can do.

Identity headers are stripped all the same: which headers are covered stands in `authorization` too. One that was added
after signing is not; for one that was signed the policy can say `strip: false`.

Source: AWS, "Create a signed AWS API request".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from policyd.core.errors import RequestSigned
from policyd.providers.base import RequestEdits

_TIME_HEADER = "x-amz-date"
_SIGNATURE_PARAMETER = "x-amz-signature="


def is_signed(headers: Mapping[str, str], query: str) -> bool:
    """Whether a request carries a signature, by its headers' names in lower case and its raw query."""
    return _TIME_HEADER in headers or (
        query != "" and any(parameter.lower().startswith(_SIGNATURE_PARAMETER) for parameter in query.split("&"))
    )


def refuse_new_query() -> NoReturn:
    """Raises `RequestSigned` for a query in which identity came."""
    raise RequestSigned(
        "the request is signed (AWS SigV4), and its query carries identity that is not for the provider; "
        "send identity in headers"
    )


def refuse_edits(edits: RequestEdits) -> NoReturn:
    """Raises `RequestSigned` for a body that `edits` change."""
    needed = []
    if edits.max_output_tokens is not None:
        needed.append(f"give a maximum of at most {edits.max_output_tokens} output tokens")
    if edits.strip_fields:
        needed.append(f"leave out {', '.join(edits.strip_fields)}")
    if edits.request_usage:
        needed.append("ask for usage in the stream")
    raise RequestSigned(
        f"the request is signed (AWS SigV4), so that policy cannot change its body: {' and '.join(needed)}"
    )

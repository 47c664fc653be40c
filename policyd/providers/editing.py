"""Edits of a request that change what it asks for: each is proved by reading the request again.

Where a format has the model or the maximum of the output, and whether it has one at all, its own reader knows best. So
an edit is made where it usually belongs, and holds if the reader then finds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import RawRequest, RequestEdits, RequestFacts, Vendor, WireFormat
from policyd.providers.framing.json_edit import set_member


def edited(wire: WireFormat, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
    """`body`, which `wire` has read, with `edits`. Raises `BodyUnreadable` for a model in a body that is not JSON."""
    body = wire.edit_request(body, edits, vendor=vendor)
    if edits.model is None:
        return body
    if not body.lstrip().startswith(b"{"):
        raise BodyUnreadable("the model can only be changed in a JSON body")
    return set_member(body, ("model",), msgspec.json.encode(edits.model))


def reread(
    wire: WireFormat, request: RawRequest, edits: RequestEdits, *, vendor: Vendor, identity_fields: Sequence[str] = ()
) -> RequestFacts:
    """What `request` says with `edits`. Raises `BodyUnreadable` if it does not say what they mean it to."""
    changed = RawRequest(
        edited(wire, request.body, edits, vendor=vendor),
        path=request.path,
        query=request.query,
        content_type=request.content_type,
    )
    facts = wire.read_request(changed, vendor=vendor, identity_fields=identity_fields)
    if edits.model is not None and facts.model != edits.model:
        raise BodyUnreadable("the model is not in the body")
    wanted, found = edits.max_output_tokens, facts.max_output_tokens
    if wanted is not None and (found is None or found > wanted):
        raise BodyUnreadable("the endpoint takes no maximum for its output")
    return facts

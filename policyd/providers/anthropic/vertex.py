"""Anthropic messages at Vertex AI: the same bodies with an `anthropic_version` and no model, which is in the path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from policyd.providers.anthropic.messages import DECISIVE, MessagesWire, message_facts
from policyd.providers.base import RawRequest, RequestFacts, Vendor
from policyd.providers.gemini.request import check_query, split_path
from policyd.providers.request_body import decode_request, optional_boolean

_LOCATION = re.compile(r"/locations/([^/]+)/")


class VertexAnthropic(MessagesWire):
    """The `WireFormat` of `rawPredict` and `streamRawPredict` of Anthropic's models."""

    name = "vertex-anthropic"

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        model, verb = split_path(request.path)
        check_query(request.query)
        document = decode_request(request.body, decisive=DECISIVE)
        asked = optional_boolean(document, "stream") or False
        facts = message_facts(
            document, model=model, streamed=asked or verb.startswith("stream"), identity_fields=identity_fields
        )
        return replace(facts, terms={**facts.terms, **_endpoint_terms(request.path)})


def _endpoint_terms(path: str) -> dict[str, str]:
    """An endpoint of one region, or of several, can cost more than the global one."""
    location = _LOCATION.search(path)
    return {"endpoint": "regional"} if location is not None and location[1] != "global" else {}

"""What decides the price of a request in any of OpenAI's formats: which model it is for, and on which terms."""

from __future__ import annotations

import re

from policyd.providers.base import RawRequest
from policyd.providers.request_body import Json, optional_text, required_text

_DEPLOYMENT = re.compile(r"/deployments/([^/]+)/")


def requested_model(document: Json, request: RawRequest, *, default: str | None = None) -> str:
    """The model that is asked for; on Azure that is the deployment, under its operator's name for it.

    A deployment in the path outweighs the body: it is what Azure serves, whatever model the body names. Raises
    `BodyUnreadable` where neither names one and the endpoint has no `default`.
    """
    deployment = _DEPLOYMENT.search(request.path)
    if deployment is not None:
        return deployment[1]
    if default is not None and document.get("model") is None:
        return default
    return required_text(document, "model")


def service_tier_terms(document: Json) -> dict[str, str]:
    """The service tier that is asked for, as a term of the price.

    `auto` is none: it leaves the choice to the project's settings, and the reply tells which it was.
    """
    tier = optional_text(document, "service_tier")
    return {"service_tier": tier} if tier not in (None, "", "auto") else {}

"""The credentials that a request comes with, where the policy has API keys: which key it is, and what goes no further.

A key of policyd's own never goes upstream. Where keys are required no credential of the client's does: what the
provider gets is the operator's to add. Where they are optional, a request without one keeps what it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

from policyd.core.api_keys import (
    KEY_HEADERS,
    KEY_PARAMETER,
    OTHER_CREDENTIAL_HEADERS,
    digest_of,
    is_well_formed,
    key_in,
)
from policyd.core.errors import KeyInvalid
from policyd.core.policy import ApiKeys


@dataclass(frozen=True, slots=True)
class Credentials:
    key: str | None
    """policyd's, as it was sent."""
    required: bool
    headers: tuple[str, ...]
    """To be taken out of the request."""
    parameters: tuple[str, ...]
    """The same, of its query."""

    @classmethod
    def of(cls, headers: Mapping[str, str], query: str, policy: ApiKeys) -> Credentials:
        if policy is ApiKeys.OFF:
            return _NONE
        required = policy is ApiKeys.REQUIRED
        keys = {name: key for name in KEY_HEADERS if (key := key_in(headers.get(name, ""))) is not None}
        in_query = _key_in_query(query)
        return cls(
            key=next(filter(None, (*keys.values(), in_query)), None),
            required=required,
            headers=(*KEY_HEADERS, *OTHER_CREDENTIAL_HEADERS) if required else tuple(keys),
            parameters=(KEY_PARAMETER,) if required or in_query is not None else (),
        )

    def key_digest(self) -> str | None:
        """`None` where there is no key, and none is required. Raises `KeyInvalid`."""
        if self.key is None:
            if self.required:
                raise KeyInvalid("the request has no API key of policyd's (pd_...), and the policy requires one")
            return None
        if not is_well_formed(self.key):
            raise KeyInvalid("the API key is mistyped: its checksum is wrong")
        return digest_of(self.key)


_NONE = Credentials(key=None, required=False, headers=(), parameters=())


def _key_in_query(query: str) -> str | None:
    parts = (part.partition("=") for part in query.split("&"))
    values = (unquote_plus(value) for name, _, value in parts if unquote_plus(name) == KEY_PARAMETER)
    return next(filter(None, map(key_in, values)), None)

"""The credentials that a request comes with, where the policy looks at them: which key it is, and what goes no further.

A key of policyd's own never goes upstream. Where keys are required, or policyd adds the provider's to every request, no
credential of the client's does. Else a request without one keeps what it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

from policyd.core.api_keys import (
    CREDENTIAL_HEADERS,
    KEY_HEADERS,
    KEY_PARAMETER,
    OTHER_CREDENTIAL_PARAMETERS,
    PREFIX,
    PROTOCOL_HEADER,
    PROTOCOL_PREFIX,
    digest_of,
    is_well_formed,
    key_in,
)
from policyd.core.errors import KeyInvalid
from policyd.core.policy import ApiKeys, Policy, ProviderKeys
from policyd.providers.base import BEARER_HEADER, Vendor


@dataclass(frozen=True, slots=True)
class Credentials:
    key: str | None
    """policyd's, as it was sent."""
    sent_in: str | None
    """The header that it was sent in; `None` for any other place."""
    required: bool
    headers: tuple[str, ...]
    """To be taken out of the request."""
    parameters: tuple[str, ...]
    """The same, of its query."""
    protocols: str | None
    """What is left of the WebSocket protocols; `None` where they stay as they are."""

    @classmethod
    def of(cls, headers: Mapping[str, str], query: str, policy: Policy) -> Credentials:
        if not policy.reads_credentials:
            return _NONE
        accepted, required = policy.api_keys is not ApiKeys.OFF, policy.api_keys is ApiKeys.REQUIRED
        keys = {name: key for name in KEY_HEADERS if (key := key_in(headers.get(name, ""))) is not None}
        in_query, in_protocols = _key_in_query(query), _key_in_protocols(headers.get(PROTOCOL_HEADER, ""))
        all_removed = required or policy.provider_keys is ProviderKeys.ALL
        return cls(
            key=next(filter(None, (*keys.values(), in_query, in_protocols)), None) if accepted else None,
            sent_in=next(iter(keys), None),
            required=required,
            headers=CREDENTIAL_HEADERS if all_removed else tuple(keys),
            parameters=_removed_parameters(all_removed=all_removed, has_key=in_query is not None),
            protocols=_protocols_without_key(headers.get(PROTOCOL_HEADER, ""), any_key=all_removed),
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

    def replaced_by(self, secret: str, vendor: Vendor) -> dict[str, str]:
        """The header that carries the provider's key: the one that the client's SDK has chosen, if the vendor takes
        keys in it, else the vendor's own."""
        taken = vendor.key_headers
        header = self.sent_in if self.sent_in in taken else taken[0]
        return {header: f"Bearer {secret}" if header == BEARER_HEADER else secret}


_NONE = Credentials(key=None, sent_in=None, required=False, headers=(), parameters=(), protocols=None)


def _key_in_query(query: str) -> str | None:
    parts = (part.partition("=") for part in query.split("&"))
    values = (unquote_plus(value) for name, _, value in parts if unquote_plus(name) == KEY_PARAMETER)
    return next(filter(None, map(key_in, values)), None)


def _removed_parameters(*, all_removed: bool, has_key: bool) -> tuple[str, ...]:
    if all_removed:
        return (KEY_PARAMETER, *OTHER_CREDENTIAL_PARAMETERS)
    return (KEY_PARAMETER,) if has_key else ()


def _key_in_protocols(header: str) -> str | None:
    credentials = (item.removeprefix(PROTOCOL_PREFIX) for item in _items(header) if item.startswith(PROTOCOL_PREFIX))
    return next(filter(None, map(key_in, credentials)), None)


def _protocols_without_key(header: str, *, any_key: bool) -> str | None:
    """`None` where there is nothing to take out: policyd's own keys, or any."""
    removed = PROTOCOL_PREFIX if any_key else PROTOCOL_PREFIX + PREFIX
    items = _items(header)
    kept = [item for item in items if not item.startswith(removed)]
    return None if len(kept) == len(items) else ", ".join(kept)


def _items(header: str) -> list[str]:
    return [item.strip() for item in header.split(",")] if header else []

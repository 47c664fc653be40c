"""Attributes: what a request is attributed to, and where each one is taken from.

An identity source names a place in the request: a header, a query parameter, a field of the JSON body, or a fixed
default. For each attribute the first source that is present wins. What identity was taken from is stripped before the
request goes upstream, so that the provider never sees it: headers and query parameters always unless the source says
`strip: false`, body fields only where it says `strip: true`, because a provider's own field (OpenAI's `user`) is not
the policy's to remove.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote_plus

from policyd.core.errors import AttributeInvalid

IDENTITY_ATTRIBUTES = ("org", "project", "user", "session", "api_key", "tier", "route")
"""Attributes that identity sources set; operators add their own beside them."""

REQUEST_ATTRIBUTES = ("provider", "model", "endpoint")
"""Attributes that the request itself sets; no identity source can."""

ATTRIBUTE_LENGTH_MAX = 256
"""Longest attribute value, in characters: values become parts of account names."""

QUERY_PARAMETERS_MAX = 1000
"""More than any API takes."""


class Place(StrEnum):
    HEADER = "header"
    QUERY = "query"
    BODY = "body"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Source:
    """One place to take an attribute from. `name` is the header, parameter or field, or the default's value.

    A body field may be a dotted path (`metadata.user_id`).
    """

    place: Place
    name: str
    strip: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """What has to be taken out of the request before it goes upstream."""

    headers: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    body: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity sources of a policy, by attribute."""

    sources: Mapping[str, tuple[Source, ...]]

    @property
    def body_fields(self) -> tuple[str, ...]:
        """The body fields that any source reads, as dotted paths."""
        return self._names(Place.BODY, stripped_only=False)

    @property
    def strip(self) -> Strip:
        """What is stripped from every request.

        All places that any source names are stripped, taken or not: a second, unused header is still identity.
        """
        return Strip(
            headers=self._names(Place.HEADER, stripped_only=True),
            query=self._names(Place.QUERY, stripped_only=True),
            body=self._names(Place.BODY, stripped_only=True),
        )

    def attributes(
        self, *, headers: Mapping[str, str], query: Mapping[str, str], body: Mapping[str, str]
    ) -> dict[str, str]:
        """The attributes of one request. `headers` by lower-case name, `body` by dotted path.

        An empty value counts as absent. Raises `AttributeInvalid` for a value that is too long or has control
        characters: such a value would make an account that nobody can name.
        """
        places = {Place.HEADER: headers, Place.QUERY: query, Place.BODY: body}
        found: dict[str, str] = {}
        for attribute, sources in self.sources.items():
            for source in sources:
                value = source.name if source.place is Place.DEFAULT else places[source.place].get(source.name, "")
                if value:
                    found[attribute] = check_value(attribute, value)
                    break
        return found

    def _names(self, place: Place, *, stripped_only: bool) -> tuple[str, ...]:
        names = (
            source.name
            for sources in self.sources.values()
            for source in sources
            if source.place is place and (source.strip or not stripped_only)
        )
        return tuple(dict.fromkeys(names))


def check_value(attribute: str, value: str) -> str:
    """`value`, or `AttributeInvalid` if it cannot be part of an account's name."""
    if len(value) > ATTRIBUTE_LENGTH_MAX:
        raise AttributeInvalid(f"{attribute} is longer than {ATTRIBUTE_LENGTH_MAX} characters")
    if not value.isprintable():
        raise AttributeInvalid(f"{attribute} holds control characters")
    return value


def parse_query(query: str) -> Mapping[str, str]:
    """The parameters of a query string; of a repeated one the first, as the first source wins too.

    Raises `AttributeInvalid` for more than `QUERY_PARAMETERS_MAX`.
    """
    if not query:
        return _NOTHING
    if query.count("&") >= QUERY_PARAMETERS_MAX:
        raise AttributeInvalid(f"the query has more than {QUERY_PARAMETERS_MAX} parameters")
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        parameters.setdefault(name, value)
    return parameters


def strip_query(query: str, names: Sequence[str]) -> str:
    """`query` without the parameters `names`, the rest byte for byte as it was."""
    return "&".join(part for part in query.split("&") if unquote_plus(part.partition("=")[0]) not in names)


_NOTHING: Mapping[str, str] = MappingProxyType({})

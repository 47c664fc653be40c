"""Attributes: what a request is attributed to, and where each one is taken from.

An identity source names a place in the request (a header, a query parameter, a cookie, a field of the JSON body),
something that Envoy has found out about it (a claim of a verified token, the peer's certificate, the client's address,
what the route says), or a fixed default. For each attribute the first source that is present wins. What identity was
taken from is stripped before the request goes upstream, so that the provider never sees it: headers, query parameters
and cookies always unless the source says `strip: false`, body fields only where it says `strip: true`, because a
provider's own field (OpenAI's `user`) is not the policy's to remove.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from re import Pattern
from re import compile as compile_pattern
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


_NOTHING: Mapping[str, str] = MappingProxyType({})


class Place(StrEnum):
    HEADER = "header"
    QUERY = "query"
    COOKIE = "cookie"
    BODY = "body"
    CLAIM = "claim"
    """Of a JSON Web Token that Envoy has verified."""
    PEER = "peer"
    """The client's certificate, of mutual TLS."""
    ROUTE = "route"
    """The metadata of Envoy's route."""
    ADDRESS = "address"
    """The client's IP address, as Envoy computes it."""
    API_KEY = "api_key"
    """What an API key of policyd's own stands for."""
    DEFAULT = "default"


ENVOY_TELLS = (Place.PEER, Place.ROUTE, Place.ADDRESS)
"""The places whose names are Envoy's own attributes: Envoy tells what it is configured to (`request_attributes`)."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place to take an attribute from. `name` is the header, parameter or field, or the default's value.

    A body field and a claim may be a dotted path (`metadata.user_id`).
    """

    place: Place
    name: str
    strip: bool = False
    pattern: str | None = None
    """A regular expression that the whole value has to match."""
    max_length: int = ATTRIBUTE_LENGTH_MAX
    """In characters."""
    _test: Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_test", None if self.pattern is None else compile_pattern(self.pattern))

    def check(self, attribute: str, value: str) -> str:
        """`value`, or `AttributeInvalid` if the source does not allow it."""
        check_value(attribute, value, max_length=self.max_length)
        if self._test is not None and not self._test.fullmatch(value):
            raise AttributeInvalid(f"{attribute} is not of the form that the policy allows")
        return value


@dataclass(frozen=True, slots=True)
class Strip:
    """What has to be taken out of the request before it goes upstream."""

    headers: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    body: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity sources of a policy, by attribute."""

    sources: Mapping[str, tuple[Source, ...]]
    body_fields: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The body fields that any source reads, as dotted paths."""
    strip: Strip = field(init=False, repr=False, compare=False)
    """What is stripped from every request.

    All places that any source names are stripped, taken or not: a second, unused header is still identity.
    """

    def __post_init__(self) -> None:
        strip = Strip(
            headers=self._names(Place.HEADER, stripped_only=True),
            query=self._names(Place.QUERY, stripped_only=True),
            cookies=self._names(Place.COOKIE, stripped_only=True),
            body=self._names(Place.BODY, stripped_only=True),
        )
        object.__setattr__(self, "body_fields", self._names(Place.BODY, stripped_only=False))
        object.__setattr__(self, "strip", strip)

    @property
    def envoy_attributes(self) -> tuple[str, ...]:
        """Envoy's names of what it has to tell of each request."""
        names = (name for place in ENVOY_TELLS for name in self._names(place, stripped_only=False))
        return tuple(dict.fromkeys(names))

    def reads(self, place: Place) -> bool:
        return any(source.place is place for sources in self.sources.values() for source in sources)

    def attributes(
        self,
        *,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        body: Mapping[str, str],
        cookies: Mapping[str, str] = _NOTHING,
        claims: Mapping[str, str] = _NOTHING,
        envoy: Mapping[str, str] = _NOTHING,
        key: Mapping[str, str] = _NOTHING,
    ) -> dict[str, str]:
        """The attributes of one request. `headers` by lower-case name, `body` and `claims` by dotted path.

        `envoy` is what Envoy tells, by its own names; `key` what the API key stands for. An empty value counts as
        absent. Raises `AttributeInvalid` for a value that is too long, has control characters (it would make an account
        that nobody can name) or is not what its source allows; it does not fall to the next source, which could be a
        more generous one.
        """
        places = {
            Place.HEADER: headers,
            Place.QUERY: query,
            Place.COOKIE: cookies,
            Place.BODY: body,
            Place.CLAIM: claims,
            Place.API_KEY: key,
            **dict.fromkeys(ENVOY_TELLS, envoy),
        }
        found: dict[str, str] = {}
        for attribute, sources in self.sources.items():
            for source in sources:
                value = source.name if source.place is Place.DEFAULT else places[source.place].get(source.name, "")
                if value and source.place is Place.ADDRESS:
                    value = _without_port(value)
                if value:
                    found[attribute] = source.check(attribute, value)
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


def check_value(attribute: str, value: str, *, max_length: int = ATTRIBUTE_LENGTH_MAX) -> str:
    """`value`, or `AttributeInvalid` if it cannot be part of an account's name, or is too long."""
    if len(value) > max_length:
        raise AttributeInvalid(f"{attribute} is longer than {max_length} characters")
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


def parse_cookies(header: str) -> Mapping[str, str]:
    """The cookies of a `cookie` header; of a repeated one the first."""
    cookies: dict[str, str] = {}
    for part in header.split(";") if header else ():
        name, _, value = part.strip().partition("=")
        cookies.setdefault(name, value)
    return cookies


def strip_cookies(header: str, names: Sequence[str]) -> str:
    """A `cookie` header without the cookies `names`, the rest byte for byte as it was."""
    kept = (part for part in header.split(";") if part.strip().partition("=")[0] not in names)
    return ";".join(kept).lstrip()


def _without_port(address: str) -> str:
    """`10.1.2.3` of `10.1.2.3:4567`, `::1` of `[::1]:4567`."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")

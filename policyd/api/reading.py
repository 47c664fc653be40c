"""From the messages of `policyd.v1` to the enforcer's types.

A field with a value that it cannot have is a `FieldInvalid`, which names it and says what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from google.protobuf.timestamp_pb2 import Timestamp

from policyd.api.errors import FieldInvalid
from policyd.core.attributes import ATTRIBUTE_LENGTH_MAX, REQUEST_ATTRIBUTES, check_value
from policyd.core.money import divide_up
from policyd.core.policy import Policy
from policyd.core.pricing import units_priced
from policyd.core.usage import KINDS, Usage
from policyd.estimator import Ask
from policyd.providers.base import (
    OUTPUT_TOKENS_MAX,
    CacheWrite,
    Prompt,
    RawRequest,
    RequestEdits,
    RequestFacts,
    Vendor,
    WireFormat,
)
from policyd.providers.editing import reread as reread_request
from policyd.providers.registry import request_endpoint
from policyd.providers.vendors import vendor_named
from policyd.stores.base import UsageFilter
from policyd.v1 import model_request_pb2 as requests
from policyd.v1 import policy_service_pb2 as service

UNITS_MAX = OUTPUT_TOKENS_MAX
"""The most of any kind of usage: more than any request has, and little enough for an account to hold its cost."""

PIECES_MAX = 1_000_000
"""The same of what is sold by the thousand: one of them can cost dollars."""

CHOICES_MAX = 128
ID_LENGTH_MAX = 128
ATTRIBUTES_MAX = 64
TERMS_MAX = 16
TTL_SECONDS_MAX = 3600
PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000

_ATTRIBUTE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

_CACHE_WRITES: Mapping[requests.CacheWrite.ValueType, CacheWrite] = {
    requests.CACHE_WRITE_UNSPECIFIED: CacheWrite.NONE,
    requests.CACHE_WRITE_5M: CacheWrite.SHORT,
    requests.CACHE_WRITE_1H: CacheWrite.LONG,
}

_TIMESTAMP_SECONDS = range(-62_135_596_800, 253_402_300_800)
"""The years 1 to 9999."""


# Requests. -----------------------------------------------------------------------------------------------------------


def ask(request: requests.ModelRequest, policy: Policy, *, request_id: str = "") -> Ask:
    """A request that wants to run. Raises `FieldInvalid`, `BodyUnreadable`, `AttributeInvalid`."""
    provider = vendor_named(text(request.provider, "model_request.provider")).id
    input_tokens = None
    content = b""
    reread: Callable[[RequestEdits], RequestFacts]
    match request.WhichOneof("content"):
        case "body":
            found = _endpoint(request.body, provider=provider)
            provider, endpoint = found.vendor.id, found.name
            if request.endpoint:
                endpoint = text(request.endpoint, "model_request.endpoint")
            raw = _raw(request.body, found)
            facts = _facts_of_body(raw, found, policy)
            reread = partial(reread_request, found.wire, raw, vendor=found.vendor)
            content = raw.body
        case "counts":
            endpoint = text(request.endpoint, "model_request.endpoint")
            facts = _facts_of_counts(request.counts)
            reread = partial(_edited_counts, facts)
            input_tokens = request.counts.input_tokens
        case None:
            raise FieldInvalid("model_request", expected="a body or counts")
    return Ask(
        request_id=request_id,
        provider=provider,
        endpoint=endpoint,
        facts=facts,
        identity=identity(request.attributes, "model_request.attributes", policy, body_fields=facts.fields),
        policy=policy,
        content=content,
        input_tokens=input_tokens,
        reread=reread,
    )


def served_ask(request: service.RecordUsageRequest, policy: Policy) -> Ask:
    """A request that has run. Raises `FieldInvalid`, `AttributeInvalid`."""
    return Ask(
        request_id=identifier(request.request_id, "request_id"),
        provider=vendor_named(text(request.provider, "provider")).id,
        endpoint=text(request.endpoint, "endpoint"),
        facts=RequestFacts(
            model=text(request.model, "model"),
            streamed=False,
            prompt=Prompt(()),
            max_output_tokens=None,
            terms=terms(request.terms, "terms"),
        ),
        identity=identity(request.attributes, "attributes", policy),
        policy=policy,
    )


@dataclass(frozen=True, slots=True)
class _Charged:
    """An endpoint that is charged for."""

    vendor: Vendor
    name: str
    path: str
    wire: WireFormat


def _endpoint(body: requests.RequestBody, *, provider: str) -> _Charged:
    endpoint = request_endpoint(provider=provider, path=body.path)
    if endpoint is None or endpoint.wire is None:
        raise FieldInvalid("model_request.body.path", expected=f"where {provider} takes requests that are charged for")
    return _Charged(endpoint.vendor, endpoint.name, endpoint.path, endpoint.wire)


def _raw(body: requests.RequestBody, endpoint: _Charged) -> RawRequest:
    return RawRequest(
        body.content,
        path=endpoint.path,
        query=body.path.partition("?")[2],
        content_type=body.content_type or "application/json",
    )


def _facts_of_body(raw: RawRequest, endpoint: _Charged, policy: Policy) -> RequestFacts:
    facts = endpoint.wire.read_request(raw, vendor=endpoint.vendor, identity_fields=policy.identity.body_fields)
    check_value("model", facts.model)
    return facts


def _edited_counts(facts: RequestFacts, edits: RequestEdits) -> RequestFacts:
    """The caller makes the edits, in a request that only the caller sees."""
    maximum = facts.max_output_tokens if edits.max_output_tokens is None else edits.max_output_tokens
    return replace(facts, model=edits.model or facts.model, max_output_tokens=maximum)


def _facts_of_counts(counts: requests.TokenCounts) -> RequestFacts:
    field = "model_request.counts"
    if counts.cache_write not in _CACHE_WRITES:
        raise FieldInvalid(f"{field}.cache_write", expected="a value of CacheWrite")
    within(counts.input_tokens, f"{field}.input_tokens", 0, UNITS_MAX)
    maximum = None
    if counts.HasField("max_output_tokens"):
        maximum = within(counts.max_output_tokens, f"{field}.max_output_tokens", 0, UNITS_MAX)
    return RequestFacts(
        model=text(counts.model, f"{field}.model"),
        streamed=False,
        prompt=Prompt(()),
        max_output_tokens=maximum,
        choices=within(counts.choices, f"{field}.choices", 1, CHOICES_MAX) if counts.HasField("choices") else 1,
        cache_write=_CACHE_WRITES[counts.cache_write],
        terms=terms(counts.terms, f"{field}.terms"),
    )


def request_attributes(request: service.GetBudgetRequest) -> dict[str, str]:
    """The attributes that the request itself sets, as far as they are given."""
    present = ((field.name, value) for field, value in request.ListFields())
    return {name: text(value, name) for name, value in present if name in REQUEST_ATTRIBUTES}


def identity(
    given: Mapping[str, str], field: str, policy: Policy, *, body_fields: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The identity attributes of a call: those given, and for the rest what the policy's sources find in its body."""
    found = policy.identity.attributes(headers={}, query={}, body=body_fields or {})
    return {**found, **attributes(given, field)}


# Fields. -------------------------------------------------------------------------------------------------------------


def attributes(given: Mapping[str, str], field: str) -> dict[str, str]:
    """Identity attributes. An empty value counts as absent."""
    if len(given) > ATTRIBUTES_MAX:
        raise FieldInvalid(field, expected=f"at most {ATTRIBUTES_MAX} attributes")
    found: dict[str, str] = {}
    for name in given:  # a map's `items` costs more than asking it
        if not _ATTRIBUTE_NAME.fullmatch(name):
            raise FieldInvalid(field, expected="names of a lower-case letter and up to 63 of a-z, 0-9 and _")
        if name in REQUEST_ATTRIBUTES:
            raise FieldInvalid(field, expected=f"identity attributes; {name} has a field of its own")
        if value := given[name]:
            found[name] = check_value(name, value)
    return found


def terms(given: Mapping[str, str], field: str) -> dict[str, str]:
    if not given:
        return {}
    if len(given) > TERMS_MAX:
        raise FieldInvalid(field, expected=f"at most {TERMS_MAX} terms")
    return {text(name, field): text(value, field) for name, value in given.items()}


def text(value: str, field: str) -> str:
    return _printable(value, field, ATTRIBUTE_LENGTH_MAX)


def identifier(value: str, field: str) -> str:
    return _printable(value, field, ID_LENGTH_MAX)


def _printable(value: str, field: str, length_max: int) -> str:
    if not 1 <= len(value) <= length_max or not value.isprintable():
        raise FieldInvalid(field, expected=f"1 to {length_max} printable characters")
    return value


def within(value: int, field: str, least: int, most: int) -> int:
    if not least <= value <= most:
        raise FieldInvalid(field, expected=f"{least} to {most}")
    return value


def usage(request: service.SettleRequest | service.RecordUsageRequest) -> Usage:
    if not request.HasField("usage"):
        raise FieldInvalid("usage", expected="what the provider counted; one without any units is allowed")
    counted = {kind.name: units for kind, units in request.usage.ListFields()}
    for kind, units in counted.items():
        within(units, f"usage.{kind}", 0, _UNITS_MAX[kind])
    return Usage(**counted)


_UNITS_MAX = {kind: PIECES_MAX if units_priced(kind) == 1_000 else UNITS_MAX for kind in KINDS}


def http_status(request: service.SettleRequest | service.RecordUsageRequest) -> int | None:
    return within(request.status, "status", 100, 599) if request.HasField("status") else None


def ttl_seconds(request: service.ReserveRequest | service.ExtendRequest) -> int | None:
    """Whole seconds, a fraction counted as a whole one; `None` where the policy decides."""
    if not request.HasField("ttl"):
        return None
    nanos = request.ttl.seconds * 1_000_000_000 + request.ttl.nanos
    if not 1_000_000_000 <= nanos <= TTL_SECONDS_MAX * 1_000_000_000:
        raise FieldInvalid("ttl", expected="1 s to 1 h")
    return divide_up(nanos, 1_000_000_000)


def usage_filter(request: service.ListUsageRequest) -> UsageFilter:
    return UsageFilter(
        attributes=attributes(request.attributes, "attributes"),
        from_ms=_time_ms(request.from_time, "from_time") if request.HasField("from_time") else None,
        until_ms=_time_ms(request.until_time, "until_time") if request.HasField("until_time") else None,
    )


def _time_ms(time: Timestamp, field: str) -> int:
    """The first whole millisecond that is not before `time`: a bound between records, whose times are whole ones."""
    if time.seconds not in _TIMESTAMP_SECONDS or not 0 <= time.nanos < 1_000_000_000:
        raise FieldInvalid(field, expected="a time from the year 1 to 9999")
    return time.seconds * 1000 + divide_up(time.nanos, 1_000_000)


def page_size(asked: int) -> int:
    """How many records a page has at most. Zero is the default, and what is too much is taken as the most."""
    if asked < 0:
        raise FieldInvalid("page_size", expected=f"0 to {PAGE_SIZE_MAX}")
    return min(asked, PAGE_SIZE_MAX) or PAGE_SIZE_DEFAULT

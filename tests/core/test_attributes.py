"""Attributes: which source wins, what is stripped, and which values are refused."""

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.attributes import (
    ATTRIBUTE_LENGTH_MAX,
    QUERY_PARAMETERS_MAX,
    Identity,
    Place,
    Source,
    Strip,
    parse_cookies,
    parse_query,
    strip_cookies,
    strip_query,
)
from policyd.core.errors import AttributeInvalid

IDENTITY = Identity(
    {
        "project": (
            Source(Place.HEADER, "x-project", strip=True),
            Source(Place.QUERY, "project_id", strip=True),
            Source(Place.DEFAULT, "default"),
        ),
        "user": (Source(Place.HEADER, "x-user"), Source(Place.BODY, "user"), Source(Place.BODY, "metadata.user_id")),
        "tier": (Source(Place.BODY, "tier", strip=True), Source(Place.QUERY, "tier")),
    }
)


@pytest.mark.parametrize(
    ("headers", "query", "body", "attributes"),
    [
        ({}, {}, {}, {"project": "default"}),
        ({"x-project": "a"}, {"project_id": "b"}, {}, {"project": "a"}),
        ({}, {"project_id": "b"}, {}, {"project": "b"}),
        ({"x-project": ""}, {"project_id": "b"}, {}, {"project": "b"}),
        ({"x-project": ""}, {"project_id": ""}, {}, {"project": "default"}),
        ({"x-user": "ann"}, {}, {"user": "bob"}, {"project": "default", "user": "ann"}),
        ({}, {}, {"user": "bob", "metadata.user_id": "cid"}, {"project": "default", "user": "bob"}),
        ({}, {}, {"metadata.user_id": "cid"}, {"project": "default", "user": "cid"}),
        # A source reads its own place only.
        ({"user": "ann", "project_id": "a"}, {"x-user": "bob", "x-project": "b"}, {}, {"project": "default"}),
        ({}, {"tier": "free"}, {"tier": "paid"}, {"project": "default", "tier": "paid"}),
    ],
)
def test_the_first_source_that_is_present_wins(
    headers: dict[str, str], query: dict[str, str], body: dict[str, str], attributes: dict[str, str]
) -> None:
    assert IDENTITY.attributes(headers=headers, query=query, body=body) == attributes


def test_strip_names_every_place_that_says_so() -> None:
    assert IDENTITY.strip == Strip(headers=("x-project",), query=("project_id",), body=("tier",))


def test_body_fields_are_all_that_any_source_reads() -> None:
    assert IDENTITY.body_fields == ("user", "metadata.user_id", "tier")


def test_a_place_that_two_attributes_share_is_named_once() -> None:
    shared = (Source(Place.HEADER, "x-team", strip=True),)
    assert Identity({"org": shared, "project": shared}).strip == Strip(headers=("x-team",))


@pytest.mark.parametrize("value", ["a" * ATTRIBUTE_LENGTH_MAX, "Ann Müller", "名前", "a,b=c|d%"])
def test_values_that_are_taken(value: str) -> None:
    assert IDENTITY.attributes(headers={"x-user": value}, query={}, body={})["user"] == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a" * (ATTRIBUTE_LENGTH_MAX + 1), "user is longer than 256 characters"),
        ("ann\n", "user holds control characters"),
        ("\x00", "user holds control characters"),
        ("ann\u202e", "user holds control characters"),
        ("\udcff", "user holds control characters"),
    ],
)
def test_values_that_are_refused(value: str, message: str) -> None:
    with pytest.raises(AttributeInvalid) as caught:
        IDENTITY.attributes(headers={"x-user": value}, query={}, body={})
    assert str(caught.value) == message


RESTRICTED = Identity(
    {"user": (Source(Place.HEADER, "x-user", pattern="[a-z-]+", max_length=8), Source(Place.DEFAULT, "nobody"))}
)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ann-ann-ann", "user is longer than 8 characters"),
        ("Ann", "user is not of the form that the policy allows"),
        ("ann1", "user is not of the form that the policy allows"),
    ],
)
def test_a_source_restricts_its_values_and_no_other_source_takes_its_place(value: str, message: str) -> None:
    with pytest.raises(AttributeInvalid) as caught:
        RESTRICTED.attributes(headers={"x-user": value}, query={}, body={})
    assert str(caught.value) == message
    assert RESTRICTED.attributes(headers={"x-user": "ann-ann"}, query={}, body={}) == {"user": "ann-ann"}
    assert RESTRICTED.attributes(headers={}, query={}, body={}) == {"user": "nobody"}


TOLD = Identity(
    {
        "session": (Source(Place.COOKIE, "sid", strip=True),),
        "user": (Source(Place.CLAIM, "sub"), Source(Place.PEER, "peer")),
        "address": (Source(Place.ADDRESS, "source.address"), Source(Place.ROUTE, "route")),
    }
)


def test_what_envoy_tells() -> None:
    told = TOLD.attributes(
        headers={}, query={}, body={}, cookies={"sid": "1"}, claims={"sub": "ann"}, envoy={"peer": "p", "route": "r"}
    )
    assert told == {"session": "1", "user": "ann", "address": "r"}
    assert TOLD.attributes(headers={}, query={}, body={}, envoy={"peer": "p"}) == {"user": "p"}
    assert TOLD.envoy_attributes == ("peer", "route", "source.address")
    assert TOLD.strip == Strip(cookies=("sid",))
    assert [TOLD.reads(place) for place in (Place.COOKIE, Place.CLAIM, Place.HEADER)] == [True, True, False]


@pytest.mark.parametrize(
    ("address", "attributes"),
    [
        ("10.1.2.3:4567", {"address": "10.1.2.3"}),
        ("[2001:db8::1]:80", {"address": "2001:db8::1"}),
        ("/run/envoy.sock", {}),
    ],
)
def test_an_address_is_without_its_port(address: str, attributes: dict[str, str]) -> None:
    assert TOLD.attributes(headers={}, query={}, body={}, envoy={"source.address": address}) == attributes


@pytest.mark.parametrize(
    ("header", "cookies", "left"),
    [
        ("", {}, ""),
        ("sid=1", {"sid": "1"}, ""),
        ("a=b=c; sid=1;  x", {"a": "b=c", "sid": "1", "x": ""}, "a=b=c;  x"),
        ("sid=1; sid=2; xsid=3", {"sid": "1", "xsid": "3"}, "xsid=3"),
        ("a=1;b=2", {"a": "1", "b": "2"}, "a=1;b=2"),
    ],
)
def test_cookies(header: str, cookies: dict[str, str], left: str) -> None:
    assert parse_cookies(header) == cookies
    assert strip_cookies(header, ("sid",)) == left


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", {}),
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a=1&a=2", {"a": "1"}),
        ("a=&b", {"a": "", "b": ""}),
        ("project%5Fid=a%20b+c", {"project_id": "a b c"}),
        ("a=1&&b=2&", {"a": "1", "b": "2"}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_parse_query(query: str, parameters: dict[str, str]) -> None:
    assert parse_query(query) == parameters


def test_a_query_of_too_many_parameters_is_refused() -> None:
    many = "&".join(f"a{number}=1" for number in range(QUERY_PARAMETERS_MAX))
    assert len(parse_query(many)) == QUERY_PARAMETERS_MAX
    with pytest.raises(AttributeInvalid, match="more than 1000 parameters"):
        parse_query(many + "&b=2")


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("", ""),
        ("project_id=a", ""),
        ("project_id=a&beta=true", "beta=true"),
        ("beta=true&project_id=a", "beta=true"),
        ("project_id=a&project_id=b&beta=true", "beta=true"),
        ("beta=true&project_id", "beta=true"),
        # Another spelling of the name is the same parameter.
        ("project%5Fid=a&beta=true", "beta=true"),
        ("project+id=a", "project+id=a"),
        # What stays is byte for byte what it was.
        ("x=%7e%7E+%20&project_id=a&&y", "x=%7e%7E+%20&&y"),
        ("xproject_id=a&project_idx=b", "xproject_id=a&project_idx=b"),
    ],
)
def test_strip_query(query: str, left: str) -> None:
    assert strip_query(query, ("project_id", "session_id")) == left


@given(st.lists(st.tuples(st.sampled_from(["project_id", "Project_id", "a b", "é", "&"]), st.text(max_size=5))))
def test_no_stripped_parameter_gets_through_and_all_others_do(pairs: list[tuple[str, str]]) -> None:
    left = parse_qsl(strip_query(urlencode(pairs), ("project_id",)), keep_blank_values=True)
    assert left == [pair for pair in pairs if pair[0] != "project_id"]

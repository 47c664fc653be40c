from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.policy import Match
from policyd.core.scopes import exact_name, literal, parse_scope, pattern_name, scope_name, shown

VALUES = st.dictionaries(st.sampled_from(["org", "project", "user"]), st.text(max_size=6), min_size=1)


@given(VALUES)
def test_a_scope_is_read_back(values: dict[str, str]) -> None:
    assert parse_scope(scope_name(values)) == values
    assert parse_scope(pattern_name(values)) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("all", {}),
        ("project=acme,user=ann", {"project": "acme", "user": "ann"}),
        ("user=ann smith", {"user": "ann smith"}),
        ("user=a%2Cb%3Dc%25", {"user": "a,b=c%"}),
        ("user=a=b", {"user": "a=b"}),
        ("user=", {"user": ""}),
    ],
)
def test_a_scope_as_people_write_it(text: str, values: dict[str, str]) -> None:
    assert parse_scope(text) == values


@pytest.mark.parametrize("text", ["acme", "project=acme,", "=acme", "project=a,project=b", "user=%ff"])
def test_mistakes(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|twice|decode"):
        parse_scope(text)


def test_patterns_show_through_and_their_order_does_not_matter() -> None:
    assert pattern_name({"project": "acme", "model": "gpt-4o*"}) == "model=gpt-4o*,project=acme"
    assert pattern_name({"model": "gpt-4o*", "project": "acme"}) == "model=gpt-4o*,project=acme"


@pytest.mark.parametrize("value", ["ann", "*", "a*b", "?", "[", "[*]", "[[]", "[!a]", "a]b", "", "a,b=c%"])
def test_an_exact_scope_fits_its_value_alone(value: str) -> None:
    pattern = parse_scope(exact_name({"user": value}))["user"]
    assert literal(pattern) == value
    match = Match({"user": (pattern,)})
    assert match.fits({"user": value})
    assert not match.fits({"user": f"{value}x"})


@pytest.mark.parametrize("pattern", ["*", "a?", "[ab]", "[!a]", "[*]*"])
def test_a_pattern_that_can_fit_several_values_is_none(pattern: str) -> None:
    assert literal(pattern) is None


def test_the_scope_of_no_attribute_is_shown_by_a_word() -> None:
    assert (shown(""), shown("user=ann")) == ("all", "user=ann")

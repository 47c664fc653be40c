"""Money: exact in both directions, and hostile text ends in one kind of error."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policyd.core.money import NANOS_PER_USD, divide_up, format_usd, parse_decimal, parse_usd

NANOS = st.integers(min_value=-(10**36), max_value=10**36)


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("10", 10_000_000_000),
        ("10.", 10_000_000_000),
        ("10.00", 10_000_000_000),
        ("+10", 10_000_000_000),
        ("-0.5", -500_000_000),
        (".25", 250_000_000),
        ("0", 0),
        ("-0.0", 0),
        ("0e999999999", 0),
        ("1e-9", 1),
        ("1E3", 1_000_000_000_000),
        ("0.000000001", 1),
        ("1.0000000000", 1_000_000_000),
        ("9007199.254740991", 2**53 - 1),
    ],
)
def test_parses_what_people_write(text: str, nanos: int) -> None:
    assert parse_usd(text) == nanos


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=20))
def test_decimals_are_exact(amount: Decimal) -> None:
    assert parse_decimal(str(amount)) == amount


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a number"),
        ("ten", "is not a number"),
        ("$10", "is not a number"),
        ("10,00", "is not a number"),
        ("1_000", "is not a number"),
        (" 10", "is not a number"),
        ("10\n", "is not a number"),
        ("0x10", "is not a number"),
        ("1e", "is not a number"),
        (".", "is not a number"),
        ("--1", "is not a number"),
        ("٣", "is not a number"),
        ("\uff11\uff10", "is not a number"),
        ("nan", "is not a number"),
        ("sNaN", "is not a number"),
        ("inf", "is not a number"),
        ("-Infinity", "is not a number"),
        ("1e31", "is out of range"),
        ("1e-31", "is out of range"),
        ("1e999999999", "is out of range"),
        ("-1e-999999999", "is out of range"),
        ("1e" + "9" * 40, "is out of range"),
        ("0.0000000001", "is finer than a billionth of a dollar"),
        ("1e-10", "is finer than a billionth of a dollar"),
        ("1" * 65, "is too long for a number"),
        ("0." + "0" * 1_000_000 + "1", "is too long for a number"),
    ],
)
def test_refuses_the_rest_and_says_why(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        parse_usd(text)
    assert repr(text[:64]) in str(caught.value)
    assert len(str(caught.value)) < 200


@given(st.text(alphabet="0123456789.+-eE_ ٣nafi", max_size=80))
def test_any_text_is_an_exact_amount_or_a_value_error(text: str) -> None:
    try:
        nanos = parse_usd(text)
    except ValueError:
        return
    assert nanos == Fraction(Decimal(text)) * NANOS_PER_USD


@given(NANOS)
@example(0)
@example(-1)
@example(2**53 - 1)
def test_what_is_formatted_parses_to_the_same_amount(nanos: int) -> None:
    assert parse_usd(format_usd(nanos)) == nanos


@given(NANOS)
def test_what_is_formatted_is_a_json_number(nanos: int) -> None:
    assert json.loads(format_usd(nanos), parse_float=Fraction) == Fraction(nanos, NANOS_PER_USD)


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0.00"),
        (10_000_000_000, "10.00"),
        (500_000_000, "0.50"),
        (37_500, "0.0000375"),
        (1, "0.000000001"),
        (-1, "-0.000000001"),
        (-1_250_000_000, "-1.25"),
    ],
)
def test_formats_with_two_decimals_or_as_many_as_it_takes(nanos: int, text: str) -> None:
    assert format_usd(nanos) == text


@given(st.integers(), st.integers(min_value=1))
def test_divides_to_the_next_integer_up(numerator: int, denominator: int) -> None:
    quotient = divide_up(numerator, denominator)
    assert (quotient - 1) * denominator < numerator <= quotient * denominator

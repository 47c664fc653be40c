"""Rates as people read them: exact, in the units that they are published in."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.columns import aligned
from policyd.core.pricing import Rate, RateTier, exact_rate
from policyd.core.usage import KINDS
from policyd.pricelist import to_json
from policyd.pricelist.rates import rates_text, shown_rate, shown_tiers


@given(st.decimals(min_value=0, max_value=10**6, places=18), st.sampled_from(KINDS))
def test_a_rate_is_shown_as_it_was_published(usd: Decimal, kind: str) -> None:
    per = shown_rate(kind, Rate(0, 1)).per
    assert shown_rate(kind, exact_rate(usd, per=per)).usd == usd


@pytest.mark.parametrize(
    ("kind", "rate", "shown"),
    [
        ("input", Rate(2_500, 1), "2.50 a million"),
        ("output", Rate(10 * 10**9, 10**6), "10.00 a million"),
        ("reasoning", Rate(0, 1), "0.00 a million"),
        ("cached_input", Rate(1, 2_000_000), "0.0000000005 a million"),
        ("web_searches", Rate(10_000_000, 1), "10.00 a thousand"),
    ],
)
def test_units(kind: str, rate: Rate, shown: str) -> None:
    told = shown_rate(kind, rate)
    assert f"{told.text} {told.unit}" == shown


def test_an_endless_fraction_is_rounded_to_many_digits() -> None:
    assert str(shown_rate("input", Rate(1_000, 3)).usd).startswith("0.33333333333333333333333333333333")


def test_tiers_on_one_line() -> None:
    tiers = (RateTier(0, {"output": Rate(2_000, 1), "input": Rate(1_000, 1)}), RateTier(9, {"input": Rate(3_000, 1)}))
    assert rates_text(shown_tiers(tiers)) == "input 1.00, output 2.00; above 9 input 3.00"
    assert rates_text(()) == "no price"


@pytest.mark.parametrize("rate", [Rate(1, 3), Rate(2_500, 1), Rate(1, 3_200_000_000), Rate(10**24 + 1, 1)])
def test_money_in_json_is_exact(rate: Rate) -> None:
    told = shown_rate("input", rate)
    assert json.loads(to_json(told), parse_float=Decimal) == {"kind": "input", "usd": told.usd, "per": 1_000_000}


def test_aligned_columns() -> None:
    assert aligned([("A", "LONG", ""), ("bb", "1", "x")], right={1}, indent=" ") == [" A   LONG", " bb     1  x"]

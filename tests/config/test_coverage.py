"""What can never be reached is found, and nothing else is taken for it: whatever is said to follow does."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.config.coverage import covers, implies
from policyd.core.policy import Match, Metric
from policyd.core.rules import AllOf, AnyOf, Condition, EstimateReaches, Fill, Matches, Not, Situation, UsagePercent

LETTERS = "ab"
GLOBS = st.text(alphabet=[*LETTERS, "*", "?", "[", "]", "!"], max_size=5)
TEXTS = st.text(alphabet=LETTERS, max_size=6)


@given(GLOBS, GLOBS, TEXTS)
def test_a_pattern_that_covers_another_fits_all_that_it_fits(glob: str, other: str, text: str) -> None:
    if covers(glob, other) and fnmatchcase(text, other):
        assert fnmatchcase(text, glob)


@pytest.mark.parametrize(
    ("glob", "other"),
    [("*", "gpt-4o"), ("gpt-*", "gpt-4o"), ("gpt-*", "gpt-4*"), ("gpt-*", "gpt-?"), ("*o*", "*to*"), ("[ab]", "[ab]")],
)
def test_patterns_that_cover(glob: str, other: str) -> None:
    assert covers(glob, other)
    assert glob == other or not covers(other, glob)


MATCHES = st.dictionaries(st.sampled_from(["user", "model"]), st.lists(GLOBS.filter(bool), min_size=1, max_size=2))
LEAST = st.integers(1, 3)
LEAVES: st.SearchStrategy[Condition] = st.one_of(
    MATCHES.map(lambda said: Matches(Match({name: tuple(globs) for name, globs in said.items()}))),
    st.dictionaries(st.sampled_from([Metric.COST, Metric.TOKENS]), LEAST, min_size=1).map(EstimateReaches),
    st.dictionaries(st.sampled_from(["daily", "monthly"]), LEAST, min_size=1).map(UsagePercent),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: AllOf(tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=5,
)
FILLS = st.dictionaries(st.sampled_from(["daily", "monthly"]), st.builds(Fill, st.integers(0, 4), st.just(100)))
SITUATIONS = st.builds(
    Situation,
    attributes=st.dictionaries(st.sampled_from(["user", "model"]), TEXTS),
    estimated=st.fixed_dictionaries({metric: st.integers(0, 4) for metric in Metric}),
    fills=FILLS,
)


@given(CONDITIONS, CONDITIONS, SITUATIONS)
def test_what_is_implied_holds(first: Condition, second: Condition, situation: Situation) -> None:
    if implies(first, second) and first.holds(situation):
        assert second.holds(situation)


@given(CONDITIONS, CONDITIONS)
def test_what_has_to_be_implied(first: Condition, second: Condition) -> None:
    assert implies(first, first)
    assert implies(AllOf((first, second)), second)
    assert implies(first, AnyOf((first, second)))
    assert implies(first, AllOf(()))

"""What the index of limits remembers: never anything that it would not find out afresh."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from policyd.core.grouping import Grouping, ModelGroup, ModelGroups, Tiers
from policyd.core.limit_index import LimitIndex
from policyd.core.policy import Limit, Match, Metric, default_policy
from policyd.core.runtime import NOTHING_SET, Kind, Override, Reset, RuntimeState
from policyd.core.windows import CalendarUnit, CalendarWindow, FirstUseWindow, Lifetime, SlidingWindow, Window

START_MS = 1_777_777_777_000

WINDOWS: tuple[Window | None, ...] = (
    CalendarWindow(CalendarUnit.MINUTE),
    CalendarWindow(CalendarUnit.DAY, "Europe/Berlin"),
    SlidingWindow(60),
    FirstUseWindow(1),
    Lifetime(),
    None,
)
KINDS: tuple[tuple[Match, tuple[str, ...], str | None], ...] = (
    (Match(), (), "pool"),
    (Match({"user": ("ann",)}), ("user",), "pool"),
    (Match({"model": ("gpt-4*", "o3")}), ("tier", "model_group"), None),
    (Match({"tier": ("free",)}), ("team",), None),
    (Match({"model_group": ("small",)}), ("user", "model"), None),
)
LIMITS = tuple(
    Limit(f"limit-{number}", Metric.REQUESTS, 10 + number, window, per=per, match=match, pool=pool)
    for number, (window, (match, per, pool)) in enumerate(product(WINDOWS, KINDS))
)
GROUPING = Grouping(ModelGroups((ModelGroup("small", ("*-mini",)),)), Tiers(("free", "paid"), default="paid"))
POLICY = replace(default_policy(), limits=LIMITS, grouping=GROUPING)

STATES = (
    NOTHING_SET,
    RuntimeState(
        1,
        {
            **{kind: {} for kind in Kind},
            Kind.OVERRIDE: {piece.key: piece for piece in (Override(each.name, "", 7, START_MS) for each in LIMITS)},
            Kind.TEMPORARY_OVERRIDE: {
                piece.key: piece
                for piece in (Override(each.name, "user=ann", 5, START_MS, START_MS + 90_000) for each in LIMITS)
            },
            Kind.RESET: {
                piece.key: piece for piece in (Reset(each.account_name, "", START_MS + 70_000, None) for each in LIMITS)
            },
        },
    ),
)

ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "user": st.sampled_from(("ann", "bob", "")),
        "model": st.sampled_from(("gpt-4o", "gpt-4o-mini", "o3", "claude")),
        "tier": st.sampled_from(("free", "paid", "gold")),
        "team": st.sampled_from(("red", "a,b=c")),
        "model_group": st.just("small"),  # a caller cannot claim one
    },
)
REQUESTS = st.lists(st.tuples(ATTRIBUTES, st.integers(0, 200_000), st.sampled_from(STATES)), min_size=1, max_size=12)


@given(requests=REQUESTS)
def test_a_request_finds_what_it_would_find_as_the_first_one(
    requests: list[tuple[dict[str, str], int, RuntimeState]],
) -> None:
    kept = LimitIndex(POLICY)
    for attributes, later_ms, state in requests:
        afresh = LimitIndex(POLICY)
        now_ms = START_MS + later_ms
        found = kept.applied(attributes, now_ms=now_ms, state=state)
        assert found == afresh.applied(attributes, now_ms=now_ms, state=state)
        assert kept.first_use_windows(attributes) == afresh.first_use_windows(attributes)


def test_limits_that_match_find_each_attribute_once() -> None:
    """By the slow way: every limit asked in turn."""
    for attributes in ({}, {"user": "ann", "model": "gpt-4o-mini"}, {"tier": "free", "model": "o3"}):
        complete = GROUPING.complete(attributes)
        fitting = [each.name for each in LIMITS if each.pool is None and each.match.fits(complete)]
        applied = LimitIndex(POLICY).applied(attributes, now_ms=START_MS)
        assert [item.limit.name for item in applied if item.limit.pool is None] == fitting

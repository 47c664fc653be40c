"""Which limits apply to a request, and the accounts that it touches."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.errors import AttributeMissing
from policyd.core.ledger import Account, Carry
from policyd.core.limit_index import LimitIndex
from policyd.core.limits import (
    ACCOUNT_KEPT_MS,
    SHORT_ACCOUNT_KEPT_MS,
    AppliedLimit,
)
from policyd.core.policy import Limit, Match, Metric, Policy, default_policy
from policyd.core.scopes import scope_name
from policyd.core.windows import CalendarUnit, CalendarWindow, FirstUseWindow, Lifetime, SlidingWindow, Window

NOW_MS = int(datetime(2026, 5, 15, 12, 0, 45, tzinfo=UTC).timestamp()) * 1000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
MAY_MS = int(datetime(2026, 5, 1, tzinfo=UTC).timestamp()) * 1000
JUNE_MS = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp()) * 1000


LIFETIME = Lifetime()
EVERYTHING = Match()


def limit(
    name: str = "a", window: Window | None = LIFETIME, per: tuple[str, ...] = (), match: Match = EVERYTHING
) -> Limit:
    return Limit(name, Metric.REQUESTS, 10, window, per=per, match=match)


def policy(*limits: Limit, strict: bool = False) -> Policy:
    return replace(default_policy(), limits=limits, strict=strict)


def apply(only: Limit, **attributes: str) -> AppliedLimit:
    (applied,) = LimitIndex(policy(only)).applied(attributes, now_ms=NOW_MS)
    return applied


def test_those_whose_match_fits_apply_in_the_policys_order() -> None:
    free, paid, all_models = (
        limit("free", match=Match({"tier": ("free",)})),
        limit("paid", match=Match({"tier": ("paid",)})),
        limit("all-models", match=Match({"model": ("gpt*",)})),
    )
    attributes = {"tier": "free", "model": "gpt-4o"}
    applied = LimitIndex(policy(all_models, paid, free)).applied(attributes, now_ms=NOW_MS)
    assert [item.limit for item in applied] == [all_models, free]


@pytest.mark.parametrize(
    ("per", "attributes", "scope"),
    [
        ((), {"user": "ann"}, ""),
        (("user",), {"user": "ann", "project": "acme"}, "user=ann"),
        (("project", "user"), {"user": "ann", "project": "acme"}, "project=acme,user=ann"),
        (("user", "project"), {"user": "ann", "project": "acme"}, "user=ann,project=acme"),
        # Whoever lacks the attribute shares one account, and does not get past the limit.
        (("project", "user"), {"project": "acme"}, "project=acme,user="),
    ],
)
def test_a_limit_counts_apart_for_each_combination(
    per: tuple[str, ...], attributes: dict[str, str], scope: str
) -> None:
    assert apply(limit(per=per), **attributes).account.scope == scope


def test_a_strict_policy_refuses_a_request_that_lacks_an_attribute() -> None:
    strict = policy(limit("user-rate", per=("project", "user")), strict=True)
    with pytest.raises(AttributeMissing) as caught:
        LimitIndex(strict).applied({"project": "acme"}, now_ms=NOW_MS)
    assert str(caught.value) == "the request has no user, and the limit 'user-rate' counts per user"


def test_a_strict_policy_asks_nothing_for_limits_that_do_not_apply() -> None:
    strict = policy(limit(per=("user",), match=Match({"tier": ("free",)})), strict=True)
    assert LimitIndex(strict).applied({"tier": "paid"}, now_ms=NOW_MS) == ()


@pytest.mark.parametrize(
    ("window", "starts_at_ms", "ends_at_ms", "kept_ms"),
    [
        (CalendarWindow(CalendarUnit.MINUTE), NOW_MS - 45_000, NOW_MS + 15_000, SHORT_ACCOUNT_KEPT_MS),
        (CalendarWindow(CalendarUnit.HOUR), NOW_MS - 45_000, NOW_MS - 45_000 + HOUR_MS, SHORT_ACCOUNT_KEPT_MS),
        (CalendarWindow(CalendarUnit.MONTH), MAY_MS, JUNE_MS, ACCOUNT_KEPT_MS),
        (CalendarWindow(CalendarUnit.DAY), MAY_MS + 14 * DAY_MS, MAY_MS + 15 * DAY_MS, ACCOUNT_KEPT_MS),
    ],
)
def test_the_account_of_a_window(window: Window, starts_at_ms: int, ends_at_ms: int, kept_ms: int) -> None:
    assert apply(limit(window=window)) == AppliedLimit(
        limit(window=window), Account("a", "", starts_at_ms, ends_at_ms, ends_at_ms + kept_ms), None
    )


def test_a_day_of_23_hours_is_kept_like_any_other() -> None:
    now_ms = int(datetime(2026, 3, 29, 12, tzinfo=UTC).timestamp()) * 1000
    only = limit(window=CalendarWindow(CalendarUnit.DAY, "Europe/Berlin"))
    account = LimitIndex(policy(only)).applied({}, now_ms=now_ms)[0].account
    assert account.ends_at_ms is not None
    assert account.ends_at_ms - account.starts_at_ms == 23 * HOUR_MS
    assert account.keep_until_ms == account.ends_at_ms + ACCOUNT_KEPT_MS


TRIAL = limit("trial", FirstUseWindow(30), ("user",), Match({"user": ("a*",)}))


def test_a_window_of_first_use_begins_where_the_store_says() -> None:
    (window,) = LimitIndex(policy(TRIAL)).first_use_windows({"user": "ann"})
    began_ms = NOW_MS - 7 * DAY_MS
    (applied,) = LimitIndex(policy(TRIAL)).applied({"user": "ann"}, now_ms=NOW_MS, begun={window.key: began_ms})
    ends_ms = began_ms + 30 * DAY_MS
    assert window.length_ms == 30 * DAY_MS
    assert applied.account == Account("trial", "user=ann", began_ms, ends_ms, ends_ms + ACCOUNT_KEPT_MS)


def test_a_window_of_first_use_that_has_not_begun_begins_now() -> None:
    account = apply(TRIAL, user="ann").account
    assert (account.starts_at_ms, account.ends_at_ms) == (NOW_MS, NOW_MS + 30 * DAY_MS)


def test_windows_of_first_use_are_asked_for_where_they_apply() -> None:
    others = policy(TRIAL, limit("daily", CalendarWindow(CalendarUnit.DAY)))
    assert LimitIndex(others).first_use_windows({"user": "bob"}) == ()
    assert len(LimitIndex(others).first_use_windows({"user": "ann"})) == 1


def test_every_scope_and_length_has_a_window_of_first_use_of_its_own() -> None:
    longer = replace(TRIAL, window=FirstUseWindow(60))
    asked = [(TRIAL, "ann"), (TRIAL, "amy"), (longer, "ann")]
    assert len({LimitIndex(policy(only)).first_use_windows({"user": user})[0].key for only, user in asked}) == 3


def test_limits_of_a_pool_share_an_account_under_the_least_amount() -> None:
    high, low, alone = (
        replace(limit("high", per=("user",)), pool="shared", amount=10),
        replace(limit("low", per=("user",)), pool="shared", amount=5),
        limit("alone", per=("user",)),
    )
    for limits in ((high, low, alone), (alone, low, high)):
        applied = LimitIndex(policy(*limits)).applied({"user": "ann"}, now_ms=NOW_MS)
        assert {item.limit.name: item.account.limit for item in applied} == {"low": "shared", "alone": "alone"}


def test_a_lifetime_is_never_forgotten() -> None:
    assert apply(limit(window=LIFETIME)).account == Account("a", "", 0, None, None)


def test_concurrent_requests_are_one_account_without_a_window() -> None:
    assert apply(limit(window=None)) == AppliedLimit(limit(window=None), Account("a", "", 0, None, None), None)


def test_a_sliding_window_carries_the_bucket_before() -> None:
    # 45 s into a bucket of 60 s, a quarter of the one before still counts.
    starts_at_ms = NOW_MS - 45_000
    assert apply(limit("rate", SlidingWindow(60), ("user",)), user="ann") == AppliedLimit(
        limit("rate", SlidingWindow(60), ("user",)),
        Account(
            "rate",
            "user=ann",
            starts_at_ms,
            starts_at_ms + MINUTE_MS,
            starts_at_ms + MINUTE_MS + SHORT_ACCOUNT_KEPT_MS,
        ),
        Carry(f"rate|user=ann|{starts_at_ms - MINUTE_MS}-{starts_at_ms}", 250_000),
    )


def test_what_is_carried_is_the_account_of_the_bucket_before() -> None:
    sliding = policy(limit(window=SlidingWindow(60), per=("user",)))
    before, now = (
        LimitIndex(sliding).applied({"user": "ann"}, now_ms=now_ms)[0] for now_ms in (NOW_MS - MINUTE_MS, NOW_MS)
    )
    assert now.carry is not None
    assert now.carry.account_key == before.account.key


def test_the_bucket_before_is_kept_while_it_counts() -> None:
    """Also where a window is longer than accounts are kept by themselves."""
    sliding = limit(window=SlidingWindow(500 * 86_400))
    account = apply(sliding).account
    assert account.ends_at_ms is not None
    assert account.keep_until_ms is not None
    assert account.keep_until_ms >= account.ends_at_ms + 500 * DAY_MS


ATTRIBUTES = st.dictionaries(st.sampled_from(["org", "project", "user"]), st.text("a=,|% é/@.:", max_size=4))


@given(ATTRIBUTES, ATTRIBUTES)
def test_different_values_have_different_scopes(left: dict[str, str], right: dict[str, str]) -> None:
    per = ("org", "project", "user")
    values = [{name: attributes.get(name, "") for name in per} for attributes in (left, right)]
    assert (scope_name(values[0]) == scope_name(values[1])) == (values[0] == values[1])


@given(st.text("a|,", max_size=5))
def test_a_value_cannot_pass_for_another_account(value: str) -> None:
    key = apply(limit("rate", per=("user",)), user=value).account.key
    assert key.count("|") == 2
    assert "," not in key

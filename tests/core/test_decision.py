"""From limits, an estimate and balances to a decision: what is held, what is charged, who refuses, how long to wait."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policyd.core.decision import Decision, charges, decide, entries, highest_output_tokens
from policyd.core.estimate import Confidence, Estimate
from policyd.core.ledger import ZERO_BALANCE, Account, Balance, Carry, Entry, carried
from policyd.core.limit_index import LimitIndex
from policyd.core.limits import AppliedLimit
from policyd.core.own_prices import Tariff
from policyd.core.policy import Action, Hold, Limit, Metric, OnExpiry, default_policy
from policyd.core.price_book import PriceBook
from policyd.core.pricing import Price, Rate, RateTier
from policyd.core.usage import Usage
from policyd.core.windows import CalendarUnit, CalendarWindow, Lifetime, SlidingWindow, Window

NOW_MS = int(datetime(2026, 5, 15, 12, 0, 45, tzinfo=UTC).timestamp()) * 1000
SECONDS_LEFT = {CalendarUnit.MINUTE: 15, CalendarUnit.HOUR: 59 * 60 + 15, CalendarUnit.DAY: 12 * 3600 - 45}

# Input costs 2 nano-USD a token, output 8.
PRICE = Price(provider="p", model="m", tiers=[RateTier(0, {"input": Rate(2, 1), "output": Rate(8, 1)})])
ESTIMATE = Estimate(
    price=PRICE,
    tariff=Tariff(PriceBook((), version="")),
    expected=Usage(input=100, output=30, reasoning=20, images_generated=2, audio_input_ms=1000),
    maximum=Usage(input=100, output=200, images_generated=4, audio_input_ms=4001),
    confidence=Confidence.MEDIUM,
    bounded=True,
)
FREE = replace(ESTIMATE, price=None)

DAY = CalendarWindow(CalendarUnit.DAY)


def limit(
    name: str,
    metric: Metric,
    amount: int,
    window: Window | None = DAY,
    *,
    hold: Hold = Hold.MAXIMUM,
    action: Action = Action.DENY,
) -> Limit:
    return Limit(name, metric, amount, window, hold=hold, action=action)


def apply(limits: Sequence[Limit], *, now_ms: int = NOW_MS) -> tuple[AppliedLimit, ...]:
    return LimitIndex(replace(default_policy(), limits=tuple(limits))).applied({}, now_ms=now_ms)


def decided(*found: tuple[Limit, Balance], estimate: Estimate = ESTIMATE, now_ms: int = NOW_MS) -> Decision:
    """The decision on `estimate` where each limit's account has the balance beside it."""
    applied = apply([limit for limit, _ in found], now_ms=now_ms)
    wanted = entries(applied, estimate, on_expiry=OnExpiry.HOLD)
    return decide(applied, wanted, [balance for _, balance in found], estimate, now_ms=now_ms)


HOLDS = [
    # metric, maximum held, expected held
    (Metric.COST, 1800, 600),
    (Metric.TOKENS, 300, 150),
    (Metric.INPUT_TOKENS, 100, 100),
    (Metric.OUTPUT_TOKENS, 200, 50),
    (Metric.REQUESTS, 1, 1),
    (Metric.CONCURRENT_REQUESTS, 1, 1),
    (Metric.IMAGES, 4, 2),
    (Metric.AUDIO_SECONDS, 5, 1),
]


def entry(metric: Metric, *, hold: Hold = Hold.MAXIMUM, on_expiry: OnExpiry = OnExpiry.HOLD) -> Entry:
    (only,) = entries(apply([limit("a", metric, 10_000, hold=hold)]), ESTIMATE, on_expiry=on_expiry)
    return only


@pytest.mark.parametrize(("metric", "maximum", "expected"), HOLDS)
def test_what_is_held(metric: Metric, maximum: int, expected: int) -> None:
    assert entry(metric, hold=Hold.MAXIMUM).amount == maximum
    assert entry(metric, hold=Hold.EXPECTED).amount == expected


@pytest.mark.parametrize(("metric", "maximum", "expected"), HOLDS)
@pytest.mark.parametrize("hold", Hold)
def test_what_expiry_charges(metric: Metric, maximum: int, expected: int, hold: Hold) -> None:
    by_setting = {setting: entry(metric, hold=hold, on_expiry=setting).on_expiry for setting in OnExpiry}
    if metric is Metric.CONCURRENT_REQUESTS:
        assert by_setting == dict.fromkeys(OnExpiry, 0)
    else:
        assert by_setting == {OnExpiry.HOLD: None, OnExpiry.EXPECTED: expected, OnExpiry.NOTHING: 0}


def test_entries_carry_what_the_store_has_to_know() -> None:
    applied = apply(
        [
            limit("rate", Metric.REQUESTS, 20, SlidingWindow(60)),
            limit("spend", Metric.COST, 5000, Lifetime(), action=Action.SHADOW),
        ]
    )
    starts_at_ms = NOW_MS - 45_000
    assert entries(applied, ESTIMATE, on_expiry=OnExpiry.HOLD) == (
        Entry(
            Account("rate", "", starts_at_ms, starts_at_ms + 60_000, starts_at_ms + 60_000 + 86_400_000),
            Metric.REQUESTS,
            amount=1,
            cap=20,
            carry=Carry(f"rate||{starts_at_ms - 60_000}-{starts_at_ms}", 250_000),
        ),
        Entry(Account("spend", "", 0, None, None), Metric.COST, amount=1800, cap=5000, enforce=False),
    )


def test_a_free_model_holds_no_money_but_its_tokens() -> None:
    applied = apply([limit("spend", Metric.COST, 5000), limit("tokens", Metric.TOKENS, 5000)])
    assert [entry.amount for entry in entries(applied, FREE, on_expiry=OnExpiry.HOLD)] == [0, 300]


def test_what_settling_charges() -> None:
    used = Usage(
        input=70, cached_input=20, output=30, reasoning=10, web_searches=2, images_generated=3, audio_ms=61_001
    )
    assert charges(used, cost_nanos=777) == {
        Metric.COST: 777,
        Metric.TOKENS: 130,
        Metric.INPUT_TOKENS: 90,
        Metric.OUTPUT_TOKENS: 40,
        Metric.REQUESTS: 1,
        Metric.CONCURRENT_REQUESTS: 0,
        Metric.IMAGES: 3,
        Metric.AUDIO_SECONDS: 62,
    }


SPEND = limit("spend", Metric.COST, 5000)


@pytest.mark.parametrize(
    ("balance", "allowed"),
    [
        (ZERO_BALANCE, True),
        (Balance(3200, 0), True),
        (Balance(3201, 0), False),
        (Balance(3000, 200), True),
        (Balance(3000, 201), False),
        (Balance(0, 3201), False),
        (Balance(3000, 100, 100), True),
        (Balance(3000, 100, 101), False),
        (Balance(9000, 0), False),
    ],
)
def test_what_is_spent_held_and_carried_leaves_room_or_does_not(balance: Balance, allowed: bool) -> None:
    decision = decided((SPEND, balance))
    assert decision.allowed is allowed
    assert balance.fits(1800, cap=5000) is allowed


def test_what_asks_for_nothing_always_fits() -> None:
    assert decided((SPEND, Balance(9000, 0)), estimate=FREE).allowed


def test_without_limits_everything_is_allowed() -> None:
    decision = decided()
    assert decision.allowed
    assert decision.budget_remaining_nanos is None
    assert decision.retry_after_seconds is None


def test_the_numbers_of_a_report() -> None:
    decision = decided((SPEND, Balance(4000, 500, 100)))
    (report,) = decision.reports
    assert (report.spent, report.reserved, report.requested, report.remaining) == (4100, 500, 1800, 400)
    assert report.resets_at_ms == NOW_MS + SECONDS_LEFT[CalendarUnit.DAY] * 1000
    assert decision.denials == (report,)


def test_what_was_overspent_leaves_nothing_and_no_less() -> None:
    decision = decided((SPEND, Balance(9000, 500)))
    assert decision.reports[0].remaining == 0
    assert decision.budget_remaining_nanos == 0


@pytest.mark.parametrize(
    ("holds", "held"),
    [
        ([], ESTIMATE.maximum),
        ([Hold.MAXIMUM, Hold.MAXIMUM], ESTIMATE.maximum),
        ([Hold.MAXIMUM, Hold.EXPECTED], ESTIMATE.expected),
    ],
)
def test_what_every_limit_holds_at_least(holds: list[Hold], held: Usage) -> None:
    found = [(limit(f"limit-{index}", Metric.COST, 5000, hold=hold), ZERO_BALANCE) for index, hold in enumerate(holds)]
    assert decided(*found).held == held


NEVER_HELPS = [
    limit("lifetime", Metric.COST, 5000, Lifetime()),
    limit("more-than-the-limit", Metric.COST, 1799),
    limit("blocked", Metric.REQUESTS, 0, SlidingWindow(60)),
    limit("none-at-once", Metric.CONCURRENT_REQUESTS, 0, None),
]
FULL = Balance(5000, 0)

# limit, balance, seconds until there is room
WAITS = [
    *((never, FULL, None) for never in NEVER_HELPS),
    (limit("month", Metric.COST, 5000, CalendarWindow(CalendarUnit.MONTH)), FULL, 16 * 86_400 + 43_155),
    (limit("day", Metric.COST, 5000), FULL, 43_155),
    (limit("hour", Metric.COST, 5000, CalendarWindow(CalendarUnit.HOUR)), FULL, 3555),
    (limit("minute", Metric.COST, 5000, CalendarWindow(CalendarUnit.MINUTE)), FULL, 15),
    (limit("open", Metric.CONCURRENT_REQUESTS, 4, None), Balance(0, 4), 1),
    # Sliding, 45 s into a bucket of 60 s. What is carried fades evenly in the 15 s that are left: of 20, 1 in 0.75 s.
    (limit("carried-1", Metric.REQUESTS, 20, SlidingWindow(60)), Balance(0, 0, 20), 1),
    (limit("carried-10", Metric.REQUESTS, 11, SlidingWindow(60)), Balance(0, 0, 20), 8),
    (limit("carried-all", Metric.REQUESTS, 20, SlidingWindow(60)), Balance(19, 0, 20), 15),
    # The current bucket fades only once it is the one before: of 20, 1 in 3 s after the 15 s.
    (limit("current-1", Metric.REQUESTS, 20, SlidingWindow(60)), Balance(20, 0), 18),
    (limit("current-held", Metric.REQUESTS, 20, SlidingWindow(60)), Balance(5, 15), 18),
    (limit("current-10", Metric.REQUESTS, 11, SlidingWindow(60)), Balance(20, 0, 5), 45),
    (limit("current-all", Metric.REQUESTS, 1, SlidingWindow(60)), Balance(20, 0), 75),
]


@pytest.mark.parametrize(("refusing", "balance", "seconds"), WAITS, ids=[refusing.name for refusing, _, _ in WAITS])
def test_wait(refusing: Limit, balance: Balance, seconds: int | None) -> None:
    decision = decided((refusing, balance))
    assert [report.limit for report in decision.denials] == [refusing]
    assert decision.retry_after_seconds == seconds


def test_waits_are_rounded_up() -> None:
    now_ms = NOW_MS + 1
    assert decided((SPEND, FULL), now_ms=now_ms).retry_after_seconds == 43_155
    assert decided((SPEND, FULL), now_ms=NOW_MS - 1).retry_after_seconds == 43_156


@given(
    spent=st.integers(0, 10),
    reserved=st.integers(0, 5),
    total_before=st.integers(0, 16),
    amount=st.integers(1, 16),
    offset_ms=st.integers(0, 59_999),
)
def test_after_a_sliding_wait_the_request_fits(
    spent: int, reserved: int, total_before: int, amount: int, offset_ms: int
) -> None:
    """If nobody else comes. What is still held then is taken as spent."""
    now_ms = NOW_MS - 45_000 + offset_ms
    rate = limit("rate", Metric.REQUESTS, amount, SlidingWindow(60))

    def at(later_ms: int) -> Decision:
        (applied,) = apply([rate], now_ms=later_ms)
        assert applied.carry is not None
        buckets_later = (applied.account.starts_at_ms - (NOW_MS - 45_000)) // 60_000
        before = (total_before, spent + reserved, 0)[min(buckets_later, 2)]
        current = (Balance(spent, reserved), ZERO_BALANCE, ZERO_BALANCE)[min(buckets_later, 2)]
        balance = replace(current, carried=carried(before, applied.carry.weight))
        return decided((rate, balance), now_ms=later_ms)

    decision = at(now_ms)
    if decision.allowed:
        assert decision.retry_after_seconds is None
    else:
        assert decision.retry_after_seconds is not None
        assert at(now_ms + decision.retry_after_seconds * 1000).allowed


LONGEST_FIRST = [
    limit("lifetime", Metric.COST, 5000, Lifetime()),
    limit("month", Metric.COST, 5000, CalendarWindow(CalendarUnit.MONTH)),
    limit("day", Metric.TOKENS, 5000, DAY),
    limit("sliding", Metric.TOKENS, 5000, SlidingWindow(60)),
    limit("minute", Metric.TOKENS, 5000, CalendarWindow(CalendarUnit.MINUTE)),
    limit("open", Metric.CONCURRENT_REQUESTS, 5000, None),
]


@given(st.permutations(LONGEST_FIRST), st.integers(1, len(LONGEST_FIRST)))
def test_the_binding_limit_is_the_one_in_the_way_longest(shuffled: list[Limit], count: int) -> None:
    policy = shuffled[:count]
    decision = decided(*((refusing, FULL) for refusing in policy))
    assert [report.limit for report in decision.reports] == policy
    assert [report.limit for report in decision.denials] == [each for each in LONGEST_FIRST if each in policy]
    assert decision.retry_after_seconds == decided((decision.denials[0].limit, FULL)).retry_after_seconds


def test_equal_waits_keep_the_policys_order() -> None:
    limits = [limit(name, Metric.COST, 5000) for name in ("b", "a", "c")]
    decision = decided(*((refusing, FULL) for refusing in limits))
    assert [report.limit.name for report in decision.denials] == ["b", "a", "c"]


def test_limits_with_room_are_reported_and_do_not_refuse() -> None:
    roomy = limit("roomy", Metric.TOKENS, 5000)
    decision = decided((roomy, ZERO_BALANCE), (SPEND, FULL))
    assert [report.limit for report in decision.reports] == [roomy, SPEND]
    assert [report.limit for report in decision.denials] == [SPEND]


def test_a_shadow_limit_reports_and_lets_pass() -> None:
    shadow = limit("shadow", Metric.COST, 5000, Lifetime(), action=Action.SHADOW)
    decision = decided((shadow, FULL))
    assert decision.allowed
    assert decision.retry_after_seconds is None
    assert [report.limit for report in decision.shadow_denials] == [shadow]


def test_a_shadow_limit_is_never_the_binding_one() -> None:
    shadow = limit("shadow", Metric.COST, 5000, Lifetime(), action=Action.SHADOW)
    decision = decided((shadow, FULL), (SPEND, FULL))
    assert [report.limit for report in decision.denials] == [SPEND]
    assert [report.limit for report in decision.shadow_denials] == [shadow]
    assert decision.retry_after_seconds == 43_155


@pytest.mark.parametrize(
    ("found", "remaining"),
    [
        # Allowed: what is left once this request's 1800 are held.
        ([(SPEND, ZERO_BALANCE)], 3200),
        ([(SPEND, Balance(1000, 500))], 1700),
        ([(SPEND, Balance(3200, 0))], 0),
        # Denied: nothing was held.
        ([(SPEND, Balance(4000, 0))], 1000),
        ([(SPEND, Balance(9000, 0))], 0),
        # The tightest counts, whether it refused or another did.
        ([(SPEND, Balance(1000, 0)), (limit("other", Metric.COST, 9000), Balance(6000, 0))], 1200),
        ([(SPEND, ZERO_BALANCE), (limit("rate", Metric.REQUESTS, 1), Balance(1, 0))], 5000),
        # A hold of the expected cost only takes that: 600.
        ([(limit("expected", Metric.COST, 5000, hold=Hold.EXPECTED), ZERO_BALANCE)], 4400),
        # Only limits on money that are enforced are a budget.
        ([(limit("shadow", Metric.COST, 5000, action=Action.SHADOW), ZERO_BALANCE)], None),
        ([(limit("tokens", Metric.TOKENS, 5000), ZERO_BALANCE)], None),
    ],
)
def test_budget_remaining(found: list[tuple[Limit, Balance]], remaining: int | None) -> None:
    assert decided(*found).budget_remaining_nanos == remaining


def test_a_limit_that_warns_reports_and_lets_pass() -> None:
    soft = limit("soft", Metric.COST, 5000, action=Action.WARN)
    decision = decided((soft, FULL), (SPEND, ZERO_BALANCE))
    assert decision.allowed
    assert [report.limit for report in decision.warnings] == [soft]
    assert decision.budget_remaining_nanos == 3200
    assert decision.retry_after_seconds is None


@pytest.mark.parametrize("action", Action)
def test_what_is_enforced(action: Action) -> None:
    (only,) = entries(apply([limit("a", Metric.COST, 1, action=action)]), ESTIMATE, on_expiry=OnExpiry.HOLD)
    assert only.enforce is (action not in {Action.WARN, Action.SHADOW})


def test_a_maximum_for_the_output_bounds_every_kind_of_it() -> None:
    estimate = replace(
        ESTIMATE, maximum=Usage(input=100, output=10, audio_output=200), expected=Usage(input=90, output=5, reasoning=4)
    )
    bounded = estimate.bounded_to(7)
    assert bounded.maximum == Usage(input=100, output=7)
    assert bounded.expected == Usage(input=90, output=5, reasoning=2)
    assert estimate.bounded_to(1000) == estimate


@given(
    found=st.lists(
        st.tuples(
            st.sampled_from([Metric.COST, Metric.TOKENS, Metric.OUTPUT_TOKENS]),
            st.sampled_from(Hold),
            st.integers(0, 2000),
            st.integers(0, 500),
        ),
        min_size=1,
        max_size=4,
    ),
    choices=st.integers(1, 4),
    least=st.integers(1, 50),
)
def test_the_highest_maximum_that_fits_is_the_highest(
    found: list[tuple[Metric, Hold, int, int]], choices: int, least: int
) -> None:
    limits = [
        (limit(f"limit-{number}", metric, amount, hold=hold), Balance(spent, 0))
        for number, (metric, hold, amount, spent) in enumerate(found)
    ]
    refusal = decided(*limits)
    assume(not refusal.allowed)

    def fits(tokens: int) -> bool:
        return decided(*limits, estimate=ESTIMATE.bounded_to(tokens * choices)).allowed

    fitting = [tokens for tokens in range(least, ESTIMATE.maximum.output_tokens // choices) if fits(tokens)]
    assert highest_output_tokens(refusal, choices=choices, least=least) == max(fitting, default=None)

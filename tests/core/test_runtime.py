"""Run-time state as one snapshot: what applies to a request, and until when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policyd.core.limit_index import LimitIndex
from policyd.core.limits import AppliedLimit
from policyd.core.policy import Limit, Metric, Policy, default_policy
from policyd.core.runtime import NOTHING_SET, Block, Blocked, Kind, Override, Piece, Reset, RuntimeState
from policyd.core.windows import CalendarUnit, CalendarWindow, FirstUseWindow, Lifetime, SlidingWindow, Window
from tests.builders import NOW_MS

DAY_MS = 86_400_000
DAY_STARTS_MS = NOW_MS - NOW_MS % DAY_MS


def state_of(*pieces: Piece) -> RuntimeState:
    by_kind: dict[Kind, dict[str, Piece]] = {kind: {} for kind in Kind}
    for piece in pieces:
        by_kind[piece.kind][piece.key] = piece
    return RuntimeState(1, by_kind)


def override(amount: int, *, scope: str = "user=ann", until_ms: int | None = None) -> Override:
    return Override("a", scope, amount, set_at_ms=NOW_MS, expires_at_ms=until_ms)


def block(scope: str, *, until_ms: int | None = None, kind: Kind = Kind.BLOCK) -> Block:
    return Block(kind, scope, "why", set_at_ms=NOW_MS, expires_at_ms=until_ms)


def policy_of(window: Window | None) -> Policy:
    metric = Metric.CONCURRENT_REQUESTS if window is None else Metric.REQUESTS
    return replace(default_policy(), limits=(Limit("a", metric, 10, window, per=("user",)),))


DAY = CalendarWindow(CalendarUnit.DAY)


def applied(state: RuntimeState, window: Window | None = DAY, *, now_ms: int = NOW_MS) -> AppliedLimit:
    (only,) = LimitIndex(policy_of(window)).applied({"user": "ann"}, now_ms=now_ms, state=state)
    return only


class TestOverrides:
    def test_change_the_amount_of_their_scope_alone(self) -> None:
        assert applied(state_of(override(99))).limit.amount == 99
        assert applied(state_of(override(99, scope="user=bob"))).limit.amount == 10
        assert applied(state_of(override(0))).limit.amount == 0

    def test_keep_the_account(self) -> None:
        assert applied(state_of(override(99))).account == applied(NOTHING_SET).account

    def test_a_temporary_one_goes_before_a_lasting_one_until_it_ends(self) -> None:
        state = state_of(override(50), override(99, until_ms=NOW_MS + 1))
        assert applied(state, now_ms=NOW_MS).limit.amount == 99
        assert applied(state, now_ms=NOW_MS + 1).limit.amount == 50

    def test_apply_to_what_counts_open_requests(self) -> None:
        assert applied(state_of(override(3)), window=None).limit.amount == 3


class TestResets:
    def reset(self, at_ms: int) -> RuntimeState:
        return state_of(Reset("a", "user=ann", at_ms, None))

    def test_start_a_fresh_account_that_ends_with_the_window(self) -> None:
        before, after = applied(NOTHING_SET).account, applied(self.reset(NOW_MS - 5)).account
        assert (before.starts_at_ms, after.starts_at_ms) == (DAY_STARTS_MS, NOW_MS - 5)
        assert before.ends_at_ms == after.ends_at_ms == DAY_STARTS_MS + DAY_MS
        assert before.keep_until_ms == after.keep_until_ms

    def test_are_of_one_scope(self) -> None:
        state = state_of(Reset("a", "user=bob", NOW_MS - 5, None))
        assert applied(state).account == applied(NOTHING_SET).account

    def test_windows_go_on_as_scheduled(self) -> None:
        tomorrow_ms = NOW_MS + DAY_MS
        assert (
            applied(self.reset(NOW_MS - 5), now_ms=tomorrow_ms).account
            == applied(NOTHING_SET, now_ms=tomorrow_ms).account
        )

    def test_are_without_effect_on_a_replica_that_is_in_the_window_before(self) -> None:
        assert applied(self.reset(DAY_STARTS_MS + DAY_MS)).account == applied(NOTHING_SET).account

    def test_of_a_lifetime_last(self) -> None:
        later_ms = NOW_MS + 1000 * DAY_MS
        account = applied(self.reset(NOW_MS), Lifetime(), now_ms=later_ms).account
        assert (account.starts_at_ms, account.ends_at_ms) == (NOW_MS, None)

    def test_of_a_window_from_first_use(self) -> None:
        account = applied(self.reset(NOW_MS - 5), FirstUseWindow(30)).account
        assert account.starts_at_ms == NOW_MS  # where nothing began, a window begins now
        (item,) = LimitIndex(policy_of(FirstUseWindow(30))).applied(
            {"user": "ann"},
            now_ms=NOW_MS,
            begun={"a|user=ann|30 days from first use": NOW_MS - DAY_MS},
            state=self.reset(NOW_MS - 5),
        )
        assert (item.account.starts_at_ms, item.account.ends_at_ms) == (NOW_MS - 5, NOW_MS + 29 * DAY_MS)

    def test_of_a_sliding_window_carry_nothing_over_from_before(self) -> None:
        sliding = SlidingWindow(60)
        starts_at_ms = NOW_MS - NOW_MS % 60_000
        assert applied(self.reset(starts_at_ms + 1), sliding).carry is None
        in_the_next = applied(self.reset(starts_at_ms - 1), sliding)
        assert in_the_next.account.starts_at_ms == starts_at_ms
        assert in_the_next.carry is not None
        assert in_the_next.carry.account_key == f"a|user=ann|{starts_at_ms - 1}-{starts_at_ms}"


class TestBlocks:
    @pytest.mark.parametrize(
        ("scope", "blocked"),
        [
            ("", True),
            ("user=ann", True),
            ("user=ann,project=acme", True),
            ("user=an", False),
            ("user=bob", False),
            ("user=ann,project=zeta", False),
            ("org=x", False),
            ("model=gpt-4o*", True),
            ("model=gpt-4o*,user=ann", True),
            ("model=gpt-4o*,user=bob", False),
            ("model=o?", False),
            ("user=[ab]nn", True),
            ("org=*", False),
        ],
    )
    def test_are_of_their_scope(self, scope: str, blocked: bool) -> None:
        attributes = {"user": "ann", "project": "acme", "model": "gpt-4o-mini"}
        found = state_of(block(scope)).block(attributes, now_ms=NOW_MS)
        assert (found is not None) == blocked

    def test_are_found_among_many(self) -> None:
        state = state_of(*(block(f"user=u{number}") for number in range(1_000)), block("project=acme"))
        for attributes, scope in (({"user": "u7"}, "user=u7"), ({"user": "x", "project": "acme"}, "project=acme")):
            found = state.block(attributes, now_ms=NOW_MS)
            assert found is not None
            assert found.scope == scope
        assert state.block({"user": "x"}, now_ms=NOW_MS) is None

    def test_end_by_themselves(self) -> None:
        state = state_of(block("user=ann", until_ms=NOW_MS + 1))
        assert state.block({"user": "ann"}, now_ms=NOW_MS) is not None
        assert state.block({"user": "ann"}, now_ms=NOW_MS + 1) is None

    def test_of_several_the_one_that_lasts_longest_is_told(self) -> None:
        short, long, endless = block("user=ann", until_ms=NOW_MS + 1), block("", until_ms=NOW_MS + 2), block("user=*")
        assert state_of(short, long).block({"user": "ann"}, now_ms=NOW_MS) == long
        assert state_of(endless, long, short).block({"user": "ann"}, now_ms=NOW_MS) == endless

    def test_a_freeze_stands_beside_a_block(self) -> None:
        state = state_of(block("user=ann", until_ms=NOW_MS + 1), block("user=ann", kind=Kind.FREEZE))
        found = state.block({"user": "ann"}, now_ms=NOW_MS)
        assert found is not None
        assert (found.kind, found.name) == (Kind.FREEZE, "freeze:user=ann")

    def test_say_how_long_they_last(self) -> None:
        assert block("", until_ms=NOW_MS + 1_001).seconds_left(NOW_MS) == 2
        assert block("").seconds_left(NOW_MS) is None

    def test_refuse_with_their_reason(self) -> None:
        blocked, frozen = Blocked(block("user=ann")), Blocked(block("", kind=Kind.FREEZE))
        assert (blocked.status, blocked.reason, str(blocked)) == (
            403,
            "blocked",
            "Requests of user=ann are blocked: why",
        )
        assert (frozen.reason, str(frozen)) == ("frozen", "Requests of all are frozen: why")

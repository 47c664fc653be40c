"""The contract in `policyd.stores.base` on what stands beside the ledger, sentence by sentence, on every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from policyd.core.errors import ReservationMismatch, StaleState, StoreUnavailable
from policyd.core.ledger import ZERO_BALANCE, Account, Balance
from policyd.core.policy import Metric
from policyd.stores.base import (
    AccountsPage,
    Exists,
    Granted,
    ReserveResult,
    Stale,
    StateChanges,
    StateItem,
    Store,
)
from tests.stores.building import NOW_MS, TTL_MS, account, entry, record


def item(key: str = "k", value: str = "1", *, kind: str = "block", expires_at_ms: int | None = None) -> StateItem:
    return StateItem(kind, key, value, expires_at_ms)


async def put(store: Store, *items: StateItem) -> int:
    return await store.set_state(items, now_ms=NOW_MS)


async def reserve(
    store: Store, reservation_id: str, *, state_revision: int | None, on: Account | None = None, fingerprint: str = ""
) -> ReserveResult:
    return await store.reserve(
        reservation_id,
        entries=[entry(10, on=on)],
        record=record(reservation_id),
        now_ms=NOW_MS,
        expires_at_ms=NOW_MS + TTL_MS,
        fingerprint=fingerprint,
        state_revision=state_revision,
    )


async def sweep(store: Store, *, now_ms: int = NOW_MS, ended_before_ms: int = 0) -> None:
    await store.sweep(now_ms=now_ms, ended_before_ms=ended_before_ms, usage_before_ms=0)


class TestWeigh:
    async def test_answers_balances_at_the_revision_that_is_known(self, store: Store) -> None:
        await reserve(store, "r1", state_revision=None)
        revision = await put(store, item())
        assert await store.weigh([(account(), None)], state_revision=revision) == (Balance(0, 10),)

    async def test_tells_a_stale_revision(self, store: Store) -> None:
        await put(store, item("a"))
        await put(store, item("b"))
        for known in (0, 1, 3):
            assert await store.weigh([(account(), None)], state_revision=known) == Stale(2)


class TestState:
    async def test_a_new_store_is_at_revision_0(self, store: Store) -> None:
        assert await store.state() == StateChanges(0, ())

    async def test_each_call_raises_the_revision_by_one(self, store: Store) -> None:
        assert await put(store, item("a"), item("b"), item("c")) == 1
        assert await put(store, item("a")) == 2
        assert await put(store) == 3
        assert (await store.state()).revision == 3

    async def test_answers_what_was_set_oldest_first(self, store: Store) -> None:
        await put(store, item("z", "1"), item("a", "2", expires_at_ms=5))
        await put(store, item("m", "3", kind="override"))
        assert (await store.state()).items == (
            StateItem("block", "z", "1", None, 1),
            StateItem("block", "a", "2", 5, 1),
            StateItem("override", "m", "3", None, 2),
        )

    async def test_answers_only_what_was_set_after_the_known_revision(self, store: Store) -> None:
        for value in "abc":
            await put(store, item(value))
        assert [each.key for each in (await store.state(since=1)).items] == ["b", "c"]
        assert await store.state(since=3) == StateChanges(3, ())
        assert await store.state(since=9) == StateChanges(3, ())

    async def test_an_item_set_again_is_answered_once_as_it_stands(self, store: Store) -> None:
        await put(store, item("a", "1", expires_at_ms=7), item("b"))
        await put(store, item("a", "2"))
        assert [(each.key, each.value, each.expires_at_ms, each.revision) for each in (await store.state()).items] == [
            ("b", "1", None, 1),
            ("a", "2", None, 2),
        ]

    async def test_of_one_key_in_a_call_the_last_counts(self, store: Store) -> None:
        await put(store, item("a", "1"), item("b"), item("a", "2"))
        assert [(each.key, each.value) for each in (await store.state()).items] == [("b", "1"), ("a", "2")]

    async def test_keys_are_unique_within_their_kind(self, store: Store) -> None:
        await put(store, item("a", "1", kind="block"), item("a", "2", kind="freeze"))
        assert [(each.kind, each.value) for each in (await store.state()).items] == [("block", "1"), ("freeze", "2")]

    async def test_a_deletion_is_told_as_an_empty_value(self, store: Store) -> None:
        await put(store, item("a"))
        await put(store, item("a", ""))
        assert (await store.state(since=1)).items == (StateItem("block", "a", "", None, 2),)

    async def test_the_revision_on_the_way_in_does_not_count(self, store: Store) -> None:
        await put(store, replace(item("a"), revision=77))
        assert (await store.state()).items[0].revision == 1

    @pytest.mark.parametrize("text", ["ünïcode ☃", "quote'\"; DROP TABLE state_items", "line\nbreak\x00", "%_*?|"])
    async def test_takes_any_text(self, store: Store, text: str) -> None:
        await put(store, StateItem(text, text, text))
        assert (await store.state()).items == (StateItem(text, text, text, None, 1),)

    async def test_an_expected_revision_is_compared(self, store: Store) -> None:
        assert await store.set_state([item("a")], now_ms=NOW_MS, expected_revision=0) == 1
        for wrong in (0, 2):
            with pytest.raises(StaleState) as raised:
                await store.set_state([item("a", "2"), item("b")], now_ms=NOW_MS, expected_revision=wrong)
            assert raised.value.revision == 1
        assert await store.state() == StateChanges(1, (StateItem("block", "a", "1", None, 1),))

    async def test_of_many_that_expect_one_revision_one_is_carried_out(self, store: Store) -> None:
        calls = [store.set_state([item(f"k{n}")], now_ms=NOW_MS, expected_revision=0) for n in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert answers.count(1) == 1
        assert sum(isinstance(answer, StaleState) for answer in answers) == 19
        assert len((await store.state()).items) == 1

    async def test_a_sweep_forgets_what_expired_long_enough_ago(self, store: Store) -> None:
        await put(store, item("stays"), item("gone", expires_at_ms=99), item("at", expires_at_ms=100), item("d", ""))
        await sweep(store, ended_before_ms=100)
        changes = await store.state()
        assert [each.key for each in changes.items] == ["stays", "at", "d"]
        assert changes.revision == 1

    async def test_the_revision_outlives_what_was_set(self, store: Store) -> None:
        await put(store, item("gone", expires_at_ms=1))
        await sweep(store, ended_before_ms=2)
        assert await put(store, item("next")) == 2


class TestReserveComparesTheRevision:
    async def test_the_known_one_is_granted(self, store: Store) -> None:
        assert isinstance(await reserve(store, "r0", state_revision=0), Granted)
        await put(store, item())
        assert isinstance(await reserve(store, "r1", state_revision=1), Granted)

    @pytest.mark.parametrize("known", [0, 1, 3])
    async def test_another_one_is_stale_and_holds_nothing(self, store: Store, known: int) -> None:
        await put(store, item())
        await put(store, item())
        assert await reserve(store, "r1", state_revision=known) == Stale(2)
        assert await store.balances([(account(), None)]) == (ZERO_BALANCE,)
        assert isinstance(await reserve(store, "r1", state_revision=2), Granted)

    async def test_without_one_nothing_is_compared(self, store: Store) -> None:
        await put(store, item())
        assert isinstance(await reserve(store, "r1", state_revision=None), Granted)

    async def test_stale_wins_over_refused(self, store: Store) -> None:
        full = account("full")
        await store.reserve(
            "before", entries=[entry(1_000, on=full)], record=record("before"), now_ms=NOW_MS, expires_at_ms=NOW_MS + 1
        )
        assert await reserve(store, "r1", on=full, state_revision=7) == Stale(0)

    async def test_a_known_id_wins_over_stale(self, store: Store) -> None:
        await reserve(store, "r1", state_revision=0, fingerprint="f")
        await put(store, item())
        assert isinstance(await reserve(store, "r1", state_revision=0, fingerprint="f"), Exists)
        with pytest.raises(ReservationMismatch):
            await reserve(store, "r1", state_revision=0, fingerprint="g")

    async def test_nothing_is_held_at_a_revision_after_it_was_raised(self, store: Store) -> None:
        async def raise_it() -> int:
            await asyncio.sleep(0)
            return await put(store, item())

        calls = [reserve(store, f"r{n}", state_revision=0) for n in range(30)]
        *results, revision = await asyncio.gather(*calls, raise_it())
        assert revision == 1
        assert await reserve(store, "after", state_revision=0) == Stale(1)
        granted = sum(isinstance(result, Granted) for result in results)
        assert await store.balances([(account(), None)]) == (Balance(0, 10 * granted),)


class TestWindows:
    LENGTH_MS = 1_000

    async def begin(self, store: Store, key: str, now_ms: int, *, begin: bool = True) -> int | None:
        return await store.begin_window(key, now_ms=now_ms, length_ms=self.LENGTH_MS, begin=begin)

    async def test_begins_now_and_stays_until_its_end(self, store: Store) -> None:
        assert await self.begin(store, "w", NOW_MS) == NOW_MS
        assert await self.begin(store, "w", NOW_MS + 999) == NOW_MS
        assert await self.begin(store, "w", NOW_MS + 1_000) == NOW_MS + 1_000
        assert await self.begin(store, "w", NOW_MS + 9_000) == NOW_MS + 9_000

    async def test_looking_begins_none(self, store: Store) -> None:
        assert await self.begin(store, "w", NOW_MS, begin=False) is None
        await self.begin(store, "w", NOW_MS + 5)
        assert await self.begin(store, "w", NOW_MS + 10, begin=False) == NOW_MS + 5
        assert await self.begin(store, "w", NOW_MS + 1_005, begin=False) is None
        assert await self.begin(store, "w", NOW_MS + 1_006) == NOW_MS + 1_006

    async def test_a_clock_that_is_behind_begins_no_other(self, store: Store) -> None:
        await self.begin(store, "w", NOW_MS)
        assert await self.begin(store, "w", NOW_MS - 50) == NOW_MS
        assert await self.begin(store, "w", NOW_MS - 50, begin=False) == NOW_MS

    async def test_keys_are_apart(self, store: Store) -> None:
        await self.begin(store, "v", NOW_MS)
        assert await self.begin(store, "w", NOW_MS + 1) == NOW_MS + 1

    async def test_at_once_all_get_one_window(self, store: Store) -> None:
        starts = await asyncio.gather(*(self.begin(store, "w", NOW_MS + n) for n in range(20)))
        assert len(set(starts)) == 1

    async def test_the_length_is_that_of_the_call(self, store: Store) -> None:
        await self.begin(store, "w", NOW_MS)
        assert await store.begin_window("w", now_ms=NOW_MS + 1_500, length_ms=2_000) == NOW_MS
        assert await store.begin_window("w", now_ms=NOW_MS + 600, length_ms=500, begin=False) is None

    async def test_a_sweep_forgets_it_when_its_longest_length_is_over(self, store: Store) -> None:
        await self.begin(store, "w", NOW_MS)
        await store.begin_window("w", now_ms=NOW_MS, length_ms=2_000)
        await store.begin_window("w", now_ms=NOW_MS, length_ms=500)
        await store.begin_window("w", now_ms=NOW_MS, length_ms=9_000, begin=False)
        await sweep(store, now_ms=NOW_MS + 1_999)
        assert await store.begin_window("w", now_ms=NOW_MS, length_ms=1, begin=False) == NOW_MS
        await sweep(store, now_ms=NOW_MS + 2_000)
        assert await store.begin_window("w", now_ms=NOW_MS, length_ms=1, begin=False) is None


class TestRuns:
    async def repeated(self, store: Store, digest: str, now_ms: int = NOW_MS, *, scope: str = "s") -> int:
        return await store.repeated(scope, digest, now_ms=now_ms, forget_after_ms=100)

    async def test_counts_in_a_row(self, store: Store) -> None:
        assert [await self.repeated(store, digest) for digest in "aaabaab"] == [1, 2, 3, 1, 1, 2, 1]

    async def test_can_be_asked_without_counting(self, store: Store) -> None:
        async def asked(digest: str, now_ms: int = NOW_MS) -> int:
            return await store.repeated("s", digest, now_ms=now_ms, forget_after_ms=1_000, counted=False)

        assert [await asked("a"), await asked("a")] == [1, 1]
        assert await self.repeated(store, "a") == 1
        assert [await asked("a"), await asked("b"), await asked("a")] == [2, 1, 2]
        assert await asked("a", NOW_MS + 100) == 1
        assert await self.repeated(store, "a") == 2

    async def test_scopes_are_apart(self, store: Store) -> None:
        await self.repeated(store, "a", scope="s")
        assert await self.repeated(store, "a", scope="t") == 1
        assert await self.repeated(store, "a", scope="s") == 2

    async def test_a_pause_starts_again(self, store: Store) -> None:
        assert await self.repeated(store, "a", NOW_MS) == 1
        assert await self.repeated(store, "a", NOW_MS + 99) == 2
        assert await self.repeated(store, "a", NOW_MS + 198) == 3
        assert await self.repeated(store, "a", NOW_MS + 298) == 1

    async def test_the_time_is_that_of_the_call_before(self, store: Store) -> None:
        await store.repeated("s", "a", now_ms=NOW_MS, forget_after_ms=10)
        assert await store.repeated("s", "a", now_ms=NOW_MS + 10, forget_after_ms=1_000) == 1
        assert await store.repeated("s", "a", now_ms=NOW_MS + 500, forget_after_ms=10) == 2

    async def test_at_once_each_is_counted(self, store: Store) -> None:
        answers = await asyncio.gather(*(self.repeated(store, "a") for _ in range(20)))
        assert sorted(answers) == list(range(1, 21))

    async def test_a_sweep_forgets_what_is_over_and_nothing_else(self, store: Store) -> None:
        await self.repeated(store, "a")
        await sweep(store, now_ms=NOW_MS + 99)
        assert await self.repeated(store, "a", NOW_MS + 50) == 2
        await sweep(store, now_ms=NOW_MS + 150)
        assert await self.repeated(store, "a", NOW_MS + 60) == 1


class TestCounters:
    async def count(self, store: Store, keep_until_ms: int = NOW_MS + 100, /, **deltas: int) -> None:
        await store.count(deltas, now_ms=NOW_MS, keep_until_ms=keep_until_ms)

    async def test_adds_up(self, store: Store) -> None:
        await self.count(store, a=5, b=-2)
        await self.count(store, a=-7, c=0)
        assert await store.counters("", now_ms=NOW_MS) == {"a": -2, "b": -2, "c": 0}

    async def test_answers_those_with_the_prefix(self, store: Store) -> None:
        await store.count(
            {"x": 1, "x/a": 2, "x/b": 3, "x/": 4, "w": 5, "y": 6, "x%": 7}, now_ms=NOW_MS, keep_until_ms=NOW_MS + 1
        )
        assert await store.counters("x/", now_ms=NOW_MS) == {"x/a": 2, "x/b": 3, "x/": 4}
        assert await store.counters("z", now_ms=NOW_MS) == {}

    @pytest.mark.parametrize("name", ["ünïcode ☃\U0010ffff", "quote'\"; DROP TABLE counters", "line\nbreak\x00", "%_"])
    async def test_takes_any_text(self, store: Store, name: str) -> None:
        await store.count({name: 1, f"{name}x": 2, f"a{name}": 3}, now_ms=NOW_MS, keep_until_ms=NOW_MS + 1)
        assert await store.counters(name, now_ms=NOW_MS) == {name: 1, f"{name}x": 2}

    async def test_is_over_from_the_latest_time_on(self, store: Store) -> None:
        await self.count(store, NOW_MS + 100, a=1)
        await self.count(store, NOW_MS + 50, a=1)
        assert await store.counters("a", now_ms=NOW_MS + 99) == {"a": 2}
        assert await store.counters("a", now_ms=NOW_MS + 100) == {}

    async def test_starts_at_0_when_it_was_over(self, store: Store) -> None:
        await self.count(store, NOW_MS + 100, a=5)
        await store.count({"a": 1}, now_ms=NOW_MS + 100, keep_until_ms=NOW_MS + 200)
        assert await store.counters("", now_ms=NOW_MS + 100) == {"a": 1}

    async def test_a_sweep_forgets_what_is_over_and_nothing_else(self, store: Store) -> None:
        await self.count(store, NOW_MS + 100, a=5)
        await self.count(store, NOW_MS + 101, b=5)
        await sweep(store, now_ms=NOW_MS + 100)
        assert await store.counters("", now_ms=NOW_MS) == {"b": 5}

    async def test_nothing_is_lost_at_once(self, store: Store) -> None:
        await asyncio.gather(*(self.count(store, a=1, b=2) for _ in range(50)))
        assert await store.counters("", now_ms=NOW_MS) == {"a": 50, "b": 100}


class TestAccounts:
    async def _fill(self, store: Store, *accounts: Account) -> None:
        for number, on in enumerate(accounts):
            await reserve(store, f"fill{number}", state_revision=None, on=on)

    async def _scopes(self, store: Store, limit_name: str | None = None, scope: str | None = None) -> list[str]:
        page = await store.accounts(limit_name=limit_name, scope=scope, page=100)
        return [f"{each.limit}:{each.scope}" for each, _ in page.rows]

    async def test_none(self, store: Store) -> None:
        assert await store.accounts(page=5) == AccountsPage((), "")

    async def test_answers_accounts_as_they_are_with_their_balances(self, store: Store) -> None:
        whole = Account("budget", "project=a%7Cb,user=", 5, 10**12, 2 * 10**12)
        endless = Account("budget", "", 3, None, None)
        await self._fill(store, whole, endless)
        await store.settle("fill0", amounts={Metric.COST: 7}, record=record("fill0"), now_ms=NOW_MS)
        assert (await store.accounts(page=5)).rows == ((whole, Balance(7, 0)), (endless, Balance(0, 10)))

    async def test_are_ordered_by_key(self, store: Store) -> None:
        accounts = [account(limit, scope) for limit in ("b", "a", "a-", "ab") for scope in ("z=1", "a=é", "a=Z")]
        await self._fill(store, *accounts)
        found = [each.key for each, _ in (await store.accounts(page=100)).rows]
        assert found == sorted(each.key for each in accounts)

    async def test_of_one_limit(self, store: Store) -> None:
        await self._fill(store, *(account(limit, "s=1") for limit in ("a", "b", "ab", "a-", "A")))
        assert await self._scopes(store, limit_name="a") == ["a:s=1"]
        assert await self._scopes(store, limit_name="none") == []

    async def test_of_exactly_one_scope(self, store: Store) -> None:
        await self._fill(store, account("a", "s=1"), account("b", "s=1"), account("b", "s=11"), account("b", "s=1,t=2"))
        assert await self._scopes(store, scope="s=1") == ["a:s=1", "b:s=1"]
        assert await self._scopes(store, limit_name="b", scope="s=1") == ["b:s=1"]
        assert await self._scopes(store, scope="") == []

    async def test_without_windows_that_ended(self, store: Store) -> None:
        ends: tuple[int | None, ...] = (99, 100, 101, None)
        await self._fill(store, *(Account("a", "", 0, each, None) for each in ends))
        rows = (await store.accounts(ends_after_ms=100, page=5)).rows
        assert {each.ends_at_ms for each, _ in rows} == {101, None}

    async def test_pages_are_stable_while_accounts_arrive(self, store: Store) -> None:
        await self._fill(store, *(account("a", f"n={number:02}") for number in range(10)), account("b"))
        pages = [await store.accounts(limit_name="a", page=4)]
        while pages[-1].next_cursor:
            await reserve(store, f"new{len(pages)}", state_revision=None, on=account("a", "n=000"))
            pages.append(await store.accounts(limit_name="a", page=4, cursor=pages[-1].next_cursor))
        assert [len(page.rows) for page in pages] == [4, 4, 2]
        assert [each.scope for page in pages for each, _ in page.rows] == [f"n={number:02}" for number in range(10)]

    async def test_a_last_page_that_is_full_has_no_cursor(self, store: Store) -> None:
        await self._fill(store, *(account("a", f"n={number}") for number in range(4)), account("b"))
        assert (await store.accounts(limit_name="a", page=4)).next_cursor == ""

    @pytest.mark.parametrize("cursor", ["x", "!", "bnVsbA==", "WyJhIiwxXQ==", "☃"])
    async def test_another_cursor_is_a_value_error(self, store: Store, cursor: str) -> None:
        with pytest.raises(ValueError, match="is not a cursor"):
            await store.accounts(page=1, cursor=cursor)


async def test_a_closed_store_refuses_every_call(store: Store) -> None:
    await store.close()
    for call in (
        store.set_state([item()], now_ms=NOW_MS),
        store.state(),
        store.begin_window("w", now_ms=NOW_MS, length_ms=1),
        store.begin_window("w", now_ms=NOW_MS, length_ms=1, begin=False),
        store.repeated("s", "d", now_ms=NOW_MS, forget_after_ms=1),
        store.repeated("s", "d", now_ms=NOW_MS, forget_after_ms=1, counted=False),
        store.count({"a": 1}, now_ms=NOW_MS, keep_until_ms=NOW_MS + 1),
        store.counters("", now_ms=NOW_MS),
        store.accounts(page=1),
    ):
        with pytest.raises(StoreUnavailable):
            await call

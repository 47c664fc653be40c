"""The store with a journal behind it: what passes while it is away, and that each charge arrives once."""

from __future__ import annotations

import pytest

from policyd.core.errors import ReservationNotFound, StoreDefect, StoreError, StoreUnavailable, Unjournalled
from policyd.core.ledger import Account, Balance
from policyd.core.policy import FailureMode, Metric
from policyd.core.reservation import State
from policyd.core.windows import DAY_MS
from policyd.stores.base import Granted, Refused
from policyd.stores.memory import MemoryStore
from tests.stores.building import NOW_MS, TTL_MS, account, entry, record
from tests.stores.outage.rig import AWAY, Rig

HOLD = 10
"""What a request holds."""

UNKNOWN = StoreError("who knows")


class TestWhileTheStoreIsThere:
    async def test_nothing_is_written(self, rig: Rig) -> None:
        process = rig.process()
        assert isinstance(await rig.reserve(process, "r1"), Granted)
        assert await rig.settle(process, "r1", 7) is State.RESERVED
        await process.mend()
        await process.close()
        assert not rig.folder.exists()
        assert await rig.balance() == Balance(7, 0)

    async def test_a_full_budget_refuses(self, rig: Rig) -> None:
        assert isinstance(await rig.reserve(rig.process(), "r1", amount=1_001), Refused)


class TestOpen:
    async def test_a_request_passes_and_is_charged_when_the_store_is_back(self, rig: Rig) -> None:
        process = rig.process()
        rig.store.error = AWAY
        assert isinstance(await rig.reserve(process, "r1"), Granted)
        assert await rig.settle(process, "r1", 7) is State.RESERVED
        await process.mend()
        assert process.status.waiting_bytes
        assert process.status.oldest_ms == NOW_MS
        rig.store.error = None
        await process.mend()
        assert await rig.balance() == Balance(7, 0)
        assert await rig.costs() == {"r1": 7}
        assert not rig.journals
        status = process.status
        assert (status.journalled, status.drained, status.waiting_bytes, status.oldest_ms) == (2, 2, 0, None)

    async def test_it_is_charged_past_a_full_budget(self, rig: Rig) -> None:
        process = rig.process()
        await rig.reserve(process, "first", amount=1_000)
        rig.store.error = AWAY
        await rig.reserve(process, "second", amount=900)
        await rig.settle(process, "second", 800)
        rig.store.error = None
        await process.mend()
        assert await rig.balance() == Balance(800, 1_000)

    async def test_what_no_budget_has_room_for_is_refused(self, rig: Rig) -> None:
        rig.store.error = AWAY
        refused = await rig.reserve(rig.process(), "r1", amount=1_001)
        assert refused == Refused((Balance(0, 0),))
        assert not rig.journals

    async def test_a_hold_that_was_made_although_nobody_knew_is_charged_once(self, rig: Rig) -> None:
        process = rig.process()
        rig.store.error, rig.store.after = UNKNOWN, True
        await rig.reserve(process, "r1")
        await rig.settle(process, "r1", 7)
        rig.store.error = None
        await process.mend()
        assert await rig.balance() == Balance(7, 0)

    async def test_a_stream_that_outgrows_its_hold_goes_on(self, rig: Rig) -> None:
        process = rig.process()
        await rig.reserve(process, "before")
        rig.store.error = AWAY
        await rig.reserve(process, "meanwhile")
        for name in ("before", "meanwhile"):
            granted = await process.extend(
                name, unit_amounts={Metric.COST: 1}, wanted_units=50, at_least_units=1, now_ms=NOW_MS
            )
            assert granted == 50
            await rig.settle(process, name, 60)
        rig.store.error = None
        await process.mend()
        assert await rig.balance() == Balance(120, 0)

    async def test_an_exchange_that_outlasts_the_outage_ends_in_the_store(self, rig: Rig) -> None:
        process = rig.process()
        rig.store.error = AWAY
        await rig.reserve(process, "r1")
        rig.store.error = None
        rig.now_ms += 10 * TTL_MS
        await process.mend()
        assert await rig.balance() == Balance(0, 10)
        await rig.sweep()  # it is not due: its process keeps it alive from now on
        assert await rig.settle(process, "r1", 7) is State.RESERVED
        assert await rig.balance() == Balance(7, 0)
        assert not rig.journals

    async def test_one_whose_process_died_is_charged_its_hold(self, rig: Rig) -> None:
        process = rig.process()
        rig.store.error = AWAY
        await rig.reserve(process, "r1")
        process._journal.close()  # as the end of a process does
        rig.store.error = None
        await rig.process().mend()
        rig.now_ms += TTL_MS
        await rig.sweep()
        assert await rig.balance() == Balance(10, 0)

    async def test_a_service_that_reserves_for_itself_is_told(self, rig: Rig) -> None:
        rig.store.error = AWAY
        with pytest.raises(StoreUnavailable):
            await rig.reserve(rig.process(), "r1", fingerprint="of the call")
        assert not rig.journals

    async def test_a_released_hold_leaves_a_record(self, rig: Rig) -> None:
        process = rig.process()
        rig.store.error = AWAY
        await rig.reserve(process, "r1")
        await rig.release(process, "r1")
        rig.store.error = None
        await process.mend()
        assert await rig.balance() == Balance(0, 0)
        assert await rig.costs() == {"r1": 0}

    async def test_the_window_is_the_requests(self, rig: Rig) -> None:
        process = rig.process()
        ended = account(keep_until_ms=NOW_MS + 1)
        rig.store.error = AWAY
        await rig.reserve(process, "r1", entry(10, on=ended))
        await rig.settle(process, "r1", 7)
        rig.store.error = None
        rig.now_ms += 1000
        await process.mend()
        assert await rig.balance() == Balance(7, 0)
        await rig.sweep()  # forgets the account, as it would have
        assert await rig.balance() == Balance(0, 0)


class Panic(BaseException):
    """What a library written in Rust raises: no `Exception`."""


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("error", [TypeError("what somebody asked"), Panic("what somebody asked")], ids=type)
class TestADefectOfTheStore:
    """It is a call without an answer."""

    async def test_open_a_request_passes_and_is_charged_once(
        self, rig: Rig, error: Exception, after: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        process = rig.process()
        rig.store.error, rig.store.after = error, after
        for name in ("r1", "r2", "r3", "r4", "r5", "r6"):
            assert isinstance(await rig.reserve(process, name), Granted)
            assert await rig.settle(process, name, 7) is State.RESERVED
        assert not process.status.is_away
        rig.store.error = None
        await process.mend()
        assert await rig.balance() == Balance(6 * 7, 0)
        assert not rig.journals
        assert "TypeError" in caplog.text or "Panic" in caplog.text
        assert "what somebody asked" not in caplog.text

    async def test_closed_a_charge_is_made_later(self, rig: Rig, error: Exception, after: bool) -> None:
        process = rig.process()
        rig.use(FailureMode.CLOSED)
        await rig.reserve(process, "r1")
        rig.store.error, rig.store.after = error, after
        with pytest.raises(StoreDefect):
            await rig.reserve(process, "r2", entry(1, on=account(scope="project=other")))
        await rig.settle(process, "r1", 7)
        rig.store.error = None
        await process.mend()
        assert await rig.balance() == Balance(7, 0)

    async def test_an_event_that_it_hits_is_put_aside(self, rig: Rig, error: Exception, after: bool) -> None:
        process = rig.process()
        rig.store.error = AWAY
        await rig.reserve(process, "r1")
        rig.store.error, rig.store.after = error, after
        await process.mend()
        assert (process.status.unapplied, process.status.waiting_bytes) == (1, 0)


class TestWindowsOfFirstUse:
    LENGTH_MS = 30 * DAY_MS
    KEY = "budget|project=acme|30 days from first use"

    @pytest.mark.parametrize("known_since_ms", [None, NOW_MS - DAY_MS])
    async def test_one_that_was_not_known_is_found_later(self, rig: Rig, known_since_ms: int | None) -> None:
        if known_since_ms is not None:
            await rig.store.inner.begin_window(self.KEY, now_ms=known_since_ms, length_ms=self.LENGTH_MS)
        process = rig.process()
        rig.store.error = AWAY
        assert await process.begin_window(self.KEY, now_ms=NOW_MS, length_ms=self.LENGTH_MS) is None
        guessed = entry(10, on=self.account_from(NOW_MS))
        await rig.reserve(process, "r1", guessed)
        await rig.settle(process, "r1", 7)
        rig.store.error = None
        await process.mend()
        really = self.account_from(known_since_ms or NOW_MS)
        assert await rig.store.inner.balances([(really, None)]) == (Balance(7, 0),)
        page = await rig.store.inner.accounts(page=10)
        assert [found for found, _ in page.rows] == [really]

    @pytest.mark.parametrize("mode", [FailureMode.CLOSED, FailureMode.DEGRADED])
    async def test_where_it_could_not_be_asked_for_nothing_passes(self, rig: Rig, mode: FailureMode) -> None:
        """Not even if the store is back by then: it would take the window for a fresh one."""
        rig.use(mode)
        process = rig.process()
        rig.store.error = AWAY
        assert await process.begin_window(self.KEY, now_ms=NOW_MS, length_ms=self.LENGTH_MS) is None
        for error in (AWAY, None):
            rig.store.error = error
            with pytest.raises(StoreUnavailable):
                await rig.reserve(process, "r1", entry(10, on=self.account_from(NOW_MS)))
        assert not rig.journals
        assert await process.begin_window(self.KEY, now_ms=NOW_MS, length_ms=self.LENGTH_MS) == NOW_MS
        assert isinstance(await rig.reserve(process, "r1", entry(10, on=self.account_from(NOW_MS))), Granted)

    async def test_open_it_counts_in_the_window_under_way_although_the_store_is_back(self, rig: Rig) -> None:
        began_ms = NOW_MS - DAY_MS
        await rig.store.inner.begin_window(self.KEY, now_ms=began_ms, length_ms=self.LENGTH_MS)
        process = rig.process()
        rig.store.error = AWAY
        await process.begin_window(self.KEY, now_ms=NOW_MS, length_ms=self.LENGTH_MS)
        rig.store.error = None
        await rig.reserve(process, "r1", entry(10, on=self.account_from(NOW_MS)))
        await process.mend()
        await rig.settle(process, "r1", 7)
        assert await rig.store.inner.balances([(self.account_from(began_ms), None)]) == (Balance(7, 0),)

    async def test_what_is_not_let_through_begins_none(self, rig: Rig) -> None:
        process = rig.process()
        rig.store.error = AWAY
        await process.begin_window(self.KEY, now_ms=NOW_MS, length_ms=self.LENGTH_MS)
        assert isinstance(await rig.reserve(process, "r1", entry(1_001, on=self.account_from(NOW_MS))), Refused)
        with pytest.raises(StoreUnavailable):
            await rig.reserve(process, "r2", entry(1, on=self.account_from(NOW_MS)), fingerprint="of the call")
        assert not rig.journals

    def account_from(self, starts_at_ms: int) -> Account:
        ends_at_ms = starts_at_ms + self.LENGTH_MS
        return Account("budget", "project=acme", starts_at_ms, ends_at_ms, ends_at_ms + DAY_MS)


@pytest.mark.parametrize("mode", FailureMode)
class TestInEveryMode:
    @pytest.mark.parametrize("after", [False, True])
    async def test_a_charge_that_fails_is_made_later(self, rig: Rig, mode: FailureMode, after: bool) -> None:
        rig.use(mode)
        process = rig.process()
        await rig.reserve(process, "r1")
        await rig.reserve(process, "r2")
        rig.store.error, rig.store.after = UNKNOWN, after
        assert await rig.settle(process, "r1", 7) is State.RESERVED
        assert await rig.release(process, "r2") is State.RESERVED
        rig.store.error = None
        await process.mend()
        assert (await rig.balance()).spent == 7  # beside which a lease may be held
        assert await rig.costs() == {"r1": 7, "r2": 0}

    @pytest.mark.parametrize("error", [AWAY, UNKNOWN], ids=["away", "unknown"])
    async def test_what_has_been_spent_without_a_hold_is_charged_later(
        self, rig: Rig, mode: FailureMode, error: StoreError
    ) -> None:
        process = rig.process()
        rig.use(mode)
        rig.store.error, rig.store.after = error, error is UNKNOWN
        past = record("past", at_ms=rig.now_ms)
        assert past.is_of_the_past
        held = await process.reserve(
            "past",
            entries=(entry(7, enforce=False),),
            record=past,
            now_ms=rig.now_ms,
            expires_at_ms=rig.now_ms + TTL_MS,
        )
        assert isinstance(held, Granted)
        await rig.settle(process, "past", 7)
        rig.store.error = None
        await process.mend()
        assert await rig.balance() == Balance(7, 0)
        assert (await rig.costs())["past"] == 7

    async def test_one_that_expired_meanwhile_is_corrected(self, rig: Rig, mode: FailureMode) -> None:
        rig.use(mode)
        process = rig.process()
        await rig.reserve(process, "r1")
        rig.store.error = AWAY
        await rig.settle(process, "r1", 7)
        rig.store.error = None
        rig.now_ms += TTL_MS
        await rig.sweep()
        assert await rig.balance() == Balance(10, 0)
        await process.mend()
        assert (await rig.balance()).spent == 7  # beside which a lease may be held

    async def test_what_the_store_has_lost_is_charged(self, rig: Rig, mode: FailureMode) -> None:
        """It acknowledged the hold, and forgot it."""
        rig.use(mode)
        process = rig.process()
        await rig.reserve(process, "r1")
        rig.store.inner = MemoryStore()
        await rig.settle(process, "r1", 7)
        assert (await rig.balance()).spent == 7  # beside which a lease may be held
        assert await rig.costs() == {"r1": 7}

    async def test_what_nobody_held_is_not_known(self, rig: Rig, mode: FailureMode) -> None:
        rig.use(mode)
        with pytest.raises(ReservationNotFound):
            await rig.settle(rig.process(), "r1", 7)


class TestClosed:
    async def test_nothing_new_passes(self, rig: Rig) -> None:
        rig.use(FailureMode.CLOSED)
        rig.store.error = AWAY
        with pytest.raises(StoreUnavailable, match="gone for a test"):
            await rig.reserve(rig.process(), "r1")
        assert not rig.journals


class TestAFullJournal:
    async def test_takes_no_holds_and_still_every_charge(self, rig: Rig) -> None:
        rig.bytes_max = 1_000
        process = rig.process()
        await rig.reserve(process, "before")
        rig.store.error = AWAY
        passed: list[str] = []
        while process.status.waiting_bytes < rig.bytes_max:
            passed.append(f"r{len(passed)}")
            await rig.reserve(process, passed[-1])
        with pytest.raises(Unjournalled, match="full"):
            await rig.reserve(process, "one too many")
        for name in ("before", *passed):
            await rig.settle(process, name, 7)
        rig.store.error = None
        await process.mend()
        assert await rig.balance() == Balance(7 * (1 + len(passed)), 0)
        rig.store.error = AWAY
        assert isinstance(await rig.reserve(process, "again"), Granted)

    async def test_a_folder_that_cannot_be_written_lets_nothing_pass(self, rig: Rig) -> None:
        rig.folder.write_text("no folder")
        rig.store.error = AWAY
        with pytest.raises(Unjournalled, match="cannot be written"):
            await rig.reserve(rig.process(), "r1")


class TestWhoDrains:
    async def test_whoever_comes_next(self, rig: Rig) -> None:
        process = rig.process()
        rig.store.error = AWAY
        await rig.reserve(process, "r1")
        await rig.settle(process, "r1", 7)
        await process.close()
        assert rig.journals
        rig.store.error = None
        await rig.process().mend()
        assert await rig.balance() == Balance(7, 0)
        assert not rig.journals

    async def test_nobody_else_while_it_lives(self, rig: Rig) -> None:
        process = rig.process()
        rig.store.error = AWAY
        await rig.reserve(process, "r1")
        rig.store.error = None
        await rig.process().mend()
        assert await rig.balance() == Balance(0, 0)
        assert len(rig.journals) == 1

    async def test_nobody_with_another_store(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        process = rig.process()
        rig.store.error = AWAY
        await rig.reserve(process, "r1")
        await process.close()
        rig.store.error = None
        other = rig.process(name="another store")
        await other.mend()
        await other.mend()
        assert await rig.balance() == Balance(0, 0)
        assert len(rig.journals) == 1
        assert sum("another store" in message for message in caplog.messages) == 1

    async def test_one_that_fails_to_drain_lets_go_of_all_at_its_end(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process = rig.process()
        rig.store.error = AWAY
        await rig.reserve(process, "r1")
        await rig.settle(process, "r1", 7)
        rig.store.error = None

        async def fail() -> None:
            raise ReservationNotFound("r1")

        with monkeypatch.context() as patch:
            patch.setattr(process, "mend", fail)
            with pytest.raises(ReservationNotFound):
                await process.close()
        await rig.process().mend()
        assert await rig.balance() == Balance(7, 0)
        assert not rig.journals


class TestACrash:
    """The process that drains dies after any of its calls; the next one starts over."""

    @pytest.mark.parametrize("calls", range(12))
    @pytest.mark.parametrize("all_is_forgotten", [False, True])
    async def test_while_draining_charges_once(self, rig: Rig, calls: int, all_is_forgotten: bool) -> None:
        first = rig.process()
        await rig.reserve(first, "before")
        rig.store.error = AWAY
        await rig.settle(first, "before", 1)
        for number in range(3):
            await rig.reserve(first, f"r{number}")
            await rig.settle(first, f"r{number}", 10 + number)
        first._journal.close()
        rig.store.error = None
        rig.store.calls_left = calls
        second = rig.process()
        await second.mend()
        second._journal.close()
        rig.store.calls_left = None
        if all_is_forgotten:
            rig.now_ms += TTL_MS
            await rig.sweep()
            rig.now_ms += 2 * 3_600_000
            await rig.sweep()
        await rig.process().mend()
        costs = await rig.costs()
        expected = {"before": 1, "r0": 10, "r1": 11, "r2": 12}
        # What was held and not settled has expired, and is remembered by its record alone: that charge stays.
        expected |= {name: cost for name, cost in costs.items() if all_is_forgotten and cost == HOLD}
        assert costs == expected
        assert await rig.balance() == Balance(sum(expected.values()), 0)
        assert not rig.journals

    async def test_while_writing_loses_only_what_was_not_let_through(self, rig: Rig) -> None:
        process = rig.process()
        rig.store.error = AWAY
        lengths = []
        for number in range(3):
            await rig.reserve(process, f"r{number}")
            await rig.settle(process, f"r{number}", 1)
            (journal,) = rig.journals
            lengths.append(journal.stat().st_size)
        process._journal.close()
        data = journal.read_bytes()
        for length in range(lengths[0], len(data), 7):
            rig.store.inner, rig.store.error = MemoryStore(), None
            journal.write_bytes(data[:length])
            await rig.process().mend()
            rig.now_ms += TTL_MS
            await rig.sweep()
            rig.now_ms -= TTL_MS
            whole = sum(length >= each - 1 for each in lengths)
            spent = (await rig.balance()).spent
            assert spent in (whole, whole + 10)
            assert not rig.journals


class TestDamage:
    async def test_a_damaged_line_is_put_aside_and_the_others_are_charged(self, rig: Rig) -> None:
        process = rig.process()
        rig.store.error = AWAY
        for name in ("r1", "r2", "r3"):
            await rig.reserve(process, name)
            await rig.settle(process, name, 7)
        await process.close()
        (journal,) = rig.journals
        lines = journal.read_bytes().splitlines(keepends=True)
        lines[4] = damaged = lines[4].replace(b"r2", b"r9")
        journal.write_bytes(b"".join(lines))
        rig.store.error = None
        process = rig.process()
        await process.mend()
        # The hold of r2 is not settled: it expires, and is charged as such.
        assert await rig.balance() == Balance(14, 10)
        assert process.status.unapplied == 1
        assert (rig.folder / "unapplied").read_bytes() == damaged

    async def test_an_event_that_the_store_refuses_for_good_holds_up_nothing(self, rig: Rig) -> None:
        process = rig.process()
        rig.store.error = AWAY
        await process.settle("nobody's", amounts={Metric.COST: 1}, record=record("nobody's"), now_ms=NOW_MS)
        await rig.reserve(process, "r1")
        await rig.settle(process, "r1", 7)
        rig.store.error = None
        await process.mend()
        assert await rig.balance() == Balance(7, 0)
        assert process.status.unapplied == 1
        assert b"nobody's" in (rig.folder / "unapplied").read_bytes()

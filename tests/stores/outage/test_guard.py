"""The time bound and the circuit breaker."""

from __future__ import annotations

import asyncio

import pytest

from policyd.core.errors import ReservationNotFound, StoreError, StoreUnavailable
from policyd.eager import run_eagerly
from policyd.stores.outage.deadlines import Deadlines
from policyd.stores.outage.guard import FAILURES_MAX, Guard

PATIENT_SECONDS = 60.0
AT_ONCE_SECONDS = 0.005


async def answer() -> int:
    return 42


async def fail(error: BaseException) -> int:
    raise error


async def after(future: asyncio.Future[int]) -> int:
    return await future


async def never() -> int:
    return await future()


def future() -> asyncio.Future[int]:
    return asyncio.get_running_loop().create_future()


class TestDeadlines:
    async def test_an_answer_comes_through(self) -> None:
        deadlines, waited_for = Deadlines(PATIENT_SECONDS), future()
        waiting = asyncio.ensure_future(deadlines.bound(after(waited_for)))
        await asyncio.sleep(0)
        waited_for.set_result(7)
        assert await waiting == 7
        assert await deadlines.bound(answer()) == 42

    async def test_an_error_comes_through(self) -> None:
        with pytest.raises(ReservationNotFound):
            await Deadlines(PATIENT_SECONDS).bound(fail(ReservationNotFound("r1")))

    async def test_what_does_not_answer_is_called_off(self) -> None:
        waited_for = future()
        with pytest.raises(TimeoutError):
            await Deadlines(AT_ONCE_SECONDS).bound(after(waited_for))
        assert waited_for.cancelled()

    async def test_of_several_each_is_called_off(self) -> None:
        deadlines = Deadlines(AT_ONCE_SECONDS)
        first = asyncio.ensure_future(deadlines.bound(never()))
        await asyncio.sleep(0)
        answered = asyncio.ensure_future(deadlines.bound(after(done := future())))
        await asyncio.sleep(0)
        last = asyncio.ensure_future(deadlines.bound(never()))
        done.set_result(7)
        assert await answered == 7
        errors = await asyncio.gather(first, last, return_exceptions=True)
        assert [type(error) for error in errors] == [TimeoutError, TimeoutError]

    async def test_a_caller_that_is_cancelled_is_not_told_of_a_timeout(self) -> None:
        waiting = asyncio.ensure_future(Deadlines(PATIENT_SECONDS).bound(never()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def test_outside_of_a_task_it_is_bounded_too(self) -> None:
        """Up to its first wait an exchange runs in no task."""

        async def exchange() -> None:
            with pytest.raises(TimeoutError):
                await Deadlines(AT_ONCE_SECONDS).bound(never())

        rest = run_eagerly(exchange())
        assert rest is not None
        await rest


class TestTheBreaker:
    async def opened(self) -> Guard:
        guard = Guard(timeout_seconds=PATIENT_SECONDS)
        for _ in range(FAILURES_MAX):
            assert not guard.is_open
            with pytest.raises(StoreError, match="no"):
                await guard.bounded(fail(StoreError("no")))
        return guard

    async def test_it_opens_after_failures_in_a_row(self) -> None:
        guard = await self.opened()
        assert guard.is_open
        asked = answer()
        with pytest.raises(StoreUnavailable):
            await guard.bounded(asked)
        with pytest.raises(RuntimeError, match="already"):  # it was closed, and never begun
            await asked

    async def test_an_answer_in_between_begins_the_count_anew(self) -> None:
        guard = Guard(timeout_seconds=PATIENT_SECONDS)
        for _ in range(3):
            for _ in range(FAILURES_MAX - 1):
                with pytest.raises(StoreError):
                    await guard.bounded(fail(StoreError("no")))
            await guard.bounded(answer())
        assert not guard.is_open

    async def test_what_a_reservation_refuses_is_an_answer(self) -> None:
        guard = Guard(timeout_seconds=PATIENT_SECONDS)
        for _ in range(FAILURES_MAX + 1):
            with pytest.raises(ReservationNotFound):
                await guard.bounded(fail(ReservationNotFound("r1")))
        assert not guard.is_open

    async def test_a_call_that_is_given_up_is_no_defect(self, caplog: pytest.LogCaptureFixture) -> None:
        call = Guard(timeout_seconds=PATIENT_SECONDS).bounded(fail(GeneratorExit()))
        with pytest.raises(GeneratorExit):
            await call
        assert not caplog.records

    async def test_calls_without_an_answer_open_it(self) -> None:
        guard = Guard(timeout_seconds=AT_ONCE_SECONDS)
        calls = (guard.bounded(never()) for _ in range(FAILURES_MAX))
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {StoreError}
        assert guard.is_open

    async def test_slow_answers_open_it(self) -> None:
        guard = Guard(timeout_seconds=1e-9)
        for _ in range(FAILURES_MAX):
            assert await guard.bounded(answer()) == 42
        assert guard.is_open

    async def test_slow_answers_to_calls_at_once_count_as_one(self) -> None:
        """It was the process that was held up, as far as anybody knows."""
        guard, loop = Guard(timeout_seconds=AT_ONCE_SECONDS), asyncio.get_running_loop()
        waited_for = [future() for _ in range(FAILURES_MAX)]
        calls = asyncio.gather(*(guard.bounded(after(each)) for each in waited_for))
        await asyncio.sleep(0)
        began = loop.time()
        while loop.time() < began + 2 * AT_ONCE_SECONDS:
            pass
        for each in waited_for:
            each.set_result(7)
        assert await calls == [7] * FAILURES_MAX
        assert not guard.is_open

    async def test_a_probe_that_is_answered_closes_it(self) -> None:
        guard = await self.opened()
        with pytest.raises(StoreUnavailable):
            await guard.probe(_unavailable())
        with pytest.raises(StoreUnavailable):
            await guard.bounded(answer())
        await guard.probe(_ping())
        assert await guard.bounded(answer()) == 42

    async def test_a_long_listing_says_nothing_of_the_store(self) -> None:
        guard = Guard(timeout_seconds=1e-9)
        for _ in range(FAILURES_MAX + 1):
            assert await guard.unbounded(answer()) == 42
        assert not guard.is_open


async def _ping() -> None: ...


async def _unavailable() -> None:
    raise StoreUnavailable("not yet")

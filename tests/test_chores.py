"""What has to be done again and again is, whatever becomes of one turn."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from policyd.core.errors import ReservationNotFound, StoreUnavailable
from policyd.server import chores


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("gone"), ReservationNotFound("r1"), KeyError("what somebody asked"), BaseException("a panic")],
    ids=lambda error: type(error).__name__,
)
async def test_a_turn_that_fails_is_logged_and_the_next_one_comes(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    turns, is_done_again = 0, asyncio.Event()

    async def chore() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise error
        is_done_again.set()

    async with AsyncExitStack() as stack:
        chores.start(chores.repeat(chore, lambda: 0.0), stack)
        await asyncio.wait_for(is_done_again.wait(), 5)
    assert "a chore failed" in caplog.text
    assert "what somebody asked" not in caplog.text


async def test_it_ends_when_it_is_cancelled() -> None:
    async def chore() -> None:
        await asyncio.sleep(3600)

    task = asyncio.create_task(chores.repeat(chore, lambda: 0.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

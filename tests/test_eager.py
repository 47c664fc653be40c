"""A coroutine that does not wait is done at once; one that waits goes on as a task, and can be cancelled as one."""

from __future__ import annotations

import asyncio

import pytest

from policyd.eager import run_eagerly


async def test_one_that_does_not_wait_is_no_task() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("all of it")

    assert run_eagerly(work()) is None
    assert done == ["all of it"]


async def test_one_that_waits_goes_on_where_it_stood() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def work() -> None:
        done.append("before")
        await first.wait()
        await asyncio.sleep(0)
        done.append("between")
        await second.wait()
        done.append("after")

    task = run_eagerly(work())
    assert task is not None
    assert done == ["before"]
    first.set()
    second.set()
    await task
    assert done == ["before", "between", "after"]


async def test_an_error_is_the_tasks() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ValueError("after a wait")

    task = run_eagerly(work())
    assert task is not None
    with pytest.raises(ValueError, match="after a wait"):
        await task


async def test_an_error_before_the_first_wait_is_the_callers() -> None:
    async def work() -> None:
        raise ValueError("at once")

    with pytest.raises(ValueError, match="at once"):
        run_eagerly(work())


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_cancellation_reaches_it_at_its_wait(turns: int) -> None:
    """Also before the task has run at all."""
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            done.append("cleaned up")

    task = run_eagerly(work())
    assert task is not None
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["cleaned up"]


async def test_it_may_go_on_after_a_cancellation() -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            done.append("went on")

    task = run_eagerly(work())
    assert task is not None
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert done == ["went on"]

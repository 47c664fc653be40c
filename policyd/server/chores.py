"""What has to be done again and again while a process serves, and how often."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final

from policyd.core.errors import StoreError
from policyd.failures import NOT_FAILURES, log_failure

STATE_REFRESH_SECONDS: Final = 2.0
"""A reservation finds out by itself that the state has changed; this keeps short what it has to catch up on."""

SWEEP_SECONDS: Final = 5.0

MEND_SECONDS: Final = 0.5
"""How often the journal is flushed, and a store that is away is asked whether it is back."""

LEARN_SECONDS: Final = 30.0
"""How often replicas share what exchanges have taught."""

RENEWALS_PER_TTL: Final = 4
"""A hold is renewed this often in its life, so that a missed renewal or two do no harm."""

log = logging.getLogger(__name__)


async def repeat(chore: Callable[[], Coroutine[Any, Any, None]], every_seconds: Callable[[], float]) -> None:
    """Does the chore for ever, whatever becomes of one turn: the store may fail, and so may its own code."""
    while True:
        try:
            await chore()
        except StoreError as error:
            # It is counted as a store error, and the next turn may succeed.
            log.warning("a chore failed: %s", error)
        except NOT_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 - nobody would notice that it is not done any more
            log_failure("a chore failed; it is tried again", error)
        await asyncio.sleep(every_seconds())


def start(chore: Coroutine[Any, Any, None], stack: AsyncExitStack) -> None:
    """Runs the chore until `stack` is closed."""
    task = asyncio.create_task(chore)

    async def stop() -> None:
        task.cancel()
        await asyncio.wait([task])

    stack.push_async_callback(stop)

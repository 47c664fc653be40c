"""What a child process of `test_redis` runs: `python -m tests.stores.held_up URL`.

Calls Redis when it is told to, on the event loop that serves, and says how far it has come.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from tests.stores.redis_calls import opened, reserve


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main() -> None:
    async with opened(sys.argv[1]) as store:
        await store.ping()
        say("connected")
        sys.stdin.readline()
        call = asyncio.ensure_future(reserve(store, "r1"))
        for _ in range(3):  # until it is sent
            await asyncio.sleep(0)
        say("sent")
        say(type(await call).__name__)


if __name__ == "__main__":
    uvloop.run(main())

"""Windows that start at first use: the store is asked once for each, and only a use begins one."""

from dataclasses import replace

from policyd.core.limits import FirstUse
from policyd.core.policy import Metric
from policyd.core.windows import FirstUseWindow
from policyd.enforcer import Enforcer
from policyd.enforcer.first_use import WINDOWS_KEPT_MAX, FirstUseWindows
from policyd.estimator import Ask
from policyd.providers.base import Prompt, RequestFacts
from policyd.stores.memory import MemoryStore
from tests.builders import NOW_MS, World, limit, policy

DAY_MS = 86_400_000
TRIAL = limit(Metric.REQUESTS, 2, name="trial", window=FirstUseWindow(1), per=("user",))
FACTS = RequestFacts("gpt-4o", streamed=False, prompt=Prompt(()), max_output_tokens=10)


def ask(world: World, request_id: str, user: str = "ann") -> Ask:
    return Ask(request_id, "openai", "chat.completions", FACTS, {"user": user}, world.policy, input_tokens=1)


async def resets_at_ms(world: World, enforcer: Enforcer | None = None) -> int | None:
    (report,) = await (enforcer or world.enforcer).budget(world.policy, {"user": "ann"})
    return report.resets_at_ms


def windows_asked_for(world: World) -> int:
    return sum(operation == "begin_window" for operation, _ in world.seen.store_calls)


async def test_the_store_is_asked_once_a_window() -> None:
    world = World(policy(TRIAL))
    for number in range(3):
        await world.enforcer.reserve(ask(world, f"r{number}"))
    assert windows_asked_for(world) == 1
    await world.enforcer.reserve(ask(world, "other", user="bob"))
    assert windows_asked_for(world) == 2
    world.clock.ms += DAY_MS
    assert (await world.enforcer.reserve(ask(world, "next"))).decision.allowed
    assert windows_asked_for(world) == 3
    assert await resets_at_ms(world) == NOW_MS + 2 * DAY_MS


async def test_looking_begins_nothing() -> None:
    world = World(policy(TRIAL))
    assert (await world.enforcer.check(ask(world, "r1"))).allowed
    assert await resets_at_ms(world) == NOW_MS + DAY_MS
    world.clock.ms += 5000
    await world.enforcer.reserve(ask(world, "r1"))
    assert await resets_at_ms(world) == NOW_MS + 5000 + DAY_MS


async def test_all_processes_see_one_window() -> None:
    store = MemoryStore()
    one, other = World(policy(TRIAL), store=store), World(policy(TRIAL), store=store)
    await one.enforcer.reserve(ask(one, "r1"))
    other.clock.ms += DAY_MS // 2
    assert (await other.enforcer.reserve(ask(other, "r2"))).decision.allowed
    assert (await other.enforcer.reserve(ask(other, "r3"))).record.denied_by == ("trial",)
    assert await resets_at_ms(other) == NOW_MS + DAY_MS


async def test_a_refused_request_is_a_use_too() -> None:
    world = World(policy(replace(TRIAL, amount=0)))
    assert not (await world.enforcer.reserve(ask(world, "r1"))).decision.allowed
    world.clock.ms += 1000
    assert await resets_at_ms(world) == NOW_MS + DAY_MS


async def test_only_so_many_windows_are_remembered() -> None:
    asked: list[str] = []

    async def begin_window(key: str, *, now_ms: int, length_ms: int, begin: bool) -> int | None:
        asked.append(key)
        return now_ms

    windows = FirstUseWindows(begin_window)
    for number in range(WINDOWS_KEPT_MAX + 1):
        await windows.begun([FirstUse(str(number), DAY_MS)], now_ms=NOW_MS, begin=True)
    asked.clear()
    # The one that was asked for last is remembered, the first one is not.
    await windows.begun([FirstUse(str(WINDOWS_KEPT_MAX), DAY_MS)], now_ms=NOW_MS, begin=True)
    await windows.begun([FirstUse("0", DAY_MS)], now_ms=NOW_MS, begin=True)
    assert asked == ["0"]

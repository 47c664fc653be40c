"""With random policies of several levels, and whatever requests come, no level ever holds or spends more than it has.

What was really used is never more than what was held here, so that nothing may pass a limit at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.core.policy import Action, Limit, Match, Metric, Policy
from policyd.core.usage import Usage
from policyd.core.windows import CalendarUnit, CalendarWindow, FirstUseWindow, Lifetime, Window
from policyd.enforcer import RELEASED, Verdict, reported_ending
from policyd.estimator import Ask
from policyd.providers.base import Prompt, RequestEdits, RequestFacts
from policyd.stores.base import Store
from policyd.stores.memory import MemoryStore
from policyd.stores.url import open_store
from tests.builders import USD, World, policy
from tests.stores.redis_server import RedisServer, running

LEVELS = ("org", "project", "user", "session")
WINDOWS: tuple[Window, ...] = (
    Lifetime(),
    CalendarWindow(CalendarUnit.DAY),
    CalendarWindow(CalendarUnit.HOUR, "Asia/Kolkata"),
    FirstUseWindow(1),
)
MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1-nano")
AMOUNT_MAX = {Metric.COST: USD // 50, Metric.TOKENS: 4000, Metric.OUTPUT_TOKENS: 3000, Metric.REQUESTS: 6}


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    metric = draw(st.sampled_from(tuple(AMOUNT_MAX)))
    actions = [Action.DENY, Action.SWITCH_MODEL] + ([Action.CLAMP] if metric is not Metric.REQUESTS else [])
    models = draw(st.sampled_from([(), ("gpt-4o",), ("gpt-4o*",)]))
    return Limit(
        name="",
        metric=metric,
        amount=draw(st.integers(0, AMOUNT_MAX[metric])),
        window=draw(st.sampled_from(WINDOWS)),
        per=tuple(draw(st.lists(st.sampled_from(LEVELS), unique=True, max_size=4))),
        match=Match({"model": models} if models else {}),
        action=draw(st.sampled_from(actions)),
        min_output_tokens=draw(st.integers(1, 200)),
        switch_to=draw(st.sampled_from(MODELS)),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    drawn = draw(st.lists(limits(), min_size=1, max_size=6))
    return policy(*(replace(limit, name=f"limit-{number}") for number, limit in enumerate(drawn)))


@dataclass(frozen=True)
class Step:
    """A request, and what share of its hold it uses in percent; `None`: it is released, negative: it stays open."""

    identity: tuple[int, int, int, int]
    model: str
    input: int
    output: int
    later_hours: int
    used_percent: int | None


STEPS = st.builds(
    Step,
    identity=st.tuples(*[st.integers(0, 1)] * len(LEVELS)),
    model=st.sampled_from(MODELS),
    input=st.integers(0, 1000),
    output=st.integers(1, 1000),
    later_hours=st.sampled_from([0, 0, 0, 1, 9]),
    used_percent=st.sampled_from([None, -1, 0, 60, 100]),
)


def ask(world: World, step: Step, request_id: str) -> Ask:
    facts = RequestFacts(step.model, streamed=False, prompt=Prompt(()), max_output_tokens=step.output)

    def reread(edits: RequestEdits) -> RequestFacts:
        maximum = step.output if edits.max_output_tokens is None else edits.max_output_tokens
        return replace(facts, model=edits.model or step.model, max_output_tokens=maximum)

    identity = {level: str(value) for level, value in zip(LEVELS, step.identity, strict=True)}
    return Ask(request_id, "openai", "chat", facts, identity, world.policy, input_tokens=step.input, reread=reread)


async def end(world: World, verdict: Verdict, used_percent: int | None) -> None:
    maximum = verdict.decision.estimate.maximum
    if used_percent is None:
        await world.enforcer.end_held(verdict.record.request_id, RELEASED)
    elif used_percent >= 0:
        used = Usage(input=maximum.input_tokens, output=maximum.output_tokens * used_percent // 100)
        await world.enforcer.end_held(verdict.record.request_id, reported_ending(used))


async def assert_within_limits(world: World) -> None:
    amounts = {limit.name: limit.amount for limit in world.policy.limits}
    for account, balance in (await world.store.accounts(page=1000)).rows:
        assert balance.spent + balance.reserved <= amounts[account.limit], account


async def play(random: Policy, crowds: list[list[Step]], store: Store) -> None:
    world, ids = World(random, store=store), count()

    async def run(step: Step) -> None:
        verdict = await world.enforcer.reserve(ask(world, step, f"r{next(ids)}"), fingerprint="one")
        await assert_within_limits(world)
        if verdict.decision.allowed:
            await end(world, verdict, step.used_percent)
            await assert_within_limits(world)

    for crowd in crowds:
        world.clock.ms += crowd[0].later_hours * 3_600_000
        await asyncio.gather(*map(run, crowd))
    await store.close()


CROWDS = st.lists(st.lists(STEPS, min_size=1, max_size=4), max_size=8)


@given(policies(), CROWDS)
def test_in_memory(random: Policy, crowds: list[list[Step]]) -> None:
    asyncio.run(play(random, crowds, MemoryStore()))


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@settings(max_examples=25)
@given(random=policies(), crowds=CROWDS)
def test_in_redis(redis_server: RedisServer, random: Policy, crowds: list[list[Step]]) -> None:
    redis_server.client.flushall()

    async def played() -> None:
        await play(random, crowds, open_store(f"redis://{redis_server.address}/0?timeout=20s"))

    asyncio.run(played())


@settings(max_examples=25)
@given(policies(), CROWDS)
def test_in_sqlite(random: Policy, crowds: list[list[Step]]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(play(random, crowds, open_store(f"sqlite:///{folder}/store.db")))

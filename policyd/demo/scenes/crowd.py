"""Many requests at once against a budget for ten."""

import asyncio
from typing import Final

from policyd.demo.apis import OPENAI
from policyd.demo.screen import usd
from policyd.demo.stage import Scene, Stage, nanos

LIMIT: Final = "batch-job-spend"
PROJECT: Final = "batch"
MAX_TOKENS: Final = 300
REQUESTS: Final = 40
FITTING: Final = 10
PROVIDER_MS: Final = 400


async def _play(stage: Stage) -> None:
    calls_before = stage.provider_calls
    statuses: list[int | None] = [None] * REQUESTS
    costs: list[int] = []

    async def send(index: int) -> None:
        reply = await stage.post(
            OPENAI,
            identity={"project": PROJECT},
            max_tokens=MAX_TOKENS,
            reply_tokens=MAX_TOKENS,
            provider_ms=PROVIDER_MS,
            refusal=402,
        )
        statuses[index] = reply.status
        if reply.status == 200:
            costs.append(stage.cost(OPENAI, OPENAI.usage(reply.json()["usage"])))
        draw(stage.screen.dots(statuses))

    with stage.screen.changing() as draw:
        draw(stage.screen.dots(statuses))
        await asyncio.gather(*map(send, range(REQUESTS)))

    budget = await stage.budget(LIMIT, project=PROJECT)
    limit, spent = nanos(budget.limit.money), nanos(budget.spent.money)
    passed, refused = statuses.count(200), statuses.count(402)
    cost = costs[0]
    stage.claim(limit // cost == FITTING, f"{usd(limit)} is enough for {limit // cost} requests at {usd(cost)}")
    stage.claim((passed, refused) == (FITTING, REQUESTS - FITTING), f"{passed} passed and {refused} got 402")
    calls = stage.provider_calls - calls_before
    stage.claim(calls == passed, f"the provider served {calls}")
    stage.claim(
        spent == passed * cost == sum(costs), f"{usd(spent)} is spent: {passed} times {usd(cost)}, within {usd(limit)}"
    )


CROWD: Final = Scene(
    title="40 at once, with a budget for 10",
    sentence="All arrive together. Holds are taken atomically, so they cannot overspend.",
    play=_play,
)

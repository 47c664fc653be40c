"""A stream is cut at the last cent."""

import asyncio
from typing import Final

import msgspec

from policyd.core.usage import Usage
from policyd.demo.apis import OPENAI
from policyd.demo.screen import columns, usd, usd_aligned
from policyd.demo.stage import SETTLED_SECONDS_MAX, Scene, Stage, nanos
from policyd.v1.usage_pb2 import OUTCOME_CUT

LIMIT: Final = "small-project-spend"
PROJECT: Final = "poet"
FIRST_REPLY_TOKENS: Final = 650
ENDLESS_TOKENS: Final = 5000
TOKEN_MS: Final = 4
LEFT_TOKENS_MAX: Final = 200
"""How many tokens' worth may be left over: what comes in one piece on a slow machine, less than a hold grows by."""


async def _play(stage: Stage) -> None:
    identity = {"project": PROJECT}
    cancelled_before = stage.provider.served.streams_cancelled
    await stage.post(OPENAI, identity=identity, max_tokens=FIRST_REPLY_TOKENS, reply_tokens=FIRST_REPLY_TOKENS)
    before = await stage.budget(LIMIT, **identity)
    limit, left = nanos(before.limit.money), nanos(before.remaining.money)

    received, error = 0, b"{}"
    with stage.screen.changing() as draw:
        async with stage.stream(
            OPENAI, identity=identity, max_tokens=None, reply_tokens=ENDLESS_TOKENS, token_ms=TOKEN_MS
        ) as response:
            input_tokens = int(response.headers["x-policyd-estimated-input-tokens"])
            async for event in response.events():
                if event.data.startswith(b'{"error"'):
                    error = event.data
                received += _is_token(event.data)
                table = columns(">tokens so far", ">cost so far", f">left of {usd(limit)}", "")
                so_far = stage.cost(OPENAI, Usage(input=input_tokens, output=received))
                room = max(0, left - so_far)
                table.add_row(str(received), usd_aligned(so_far), usd_aligned(room), stage.screen.bar(room, limit))
                draw(table)
    stage.screen.introduce("How the stream ends, in OpenAI's own error format:")
    stage.screen.show_json(error)

    record = await stage.record(response)
    budget = await stage.budget(LIMIT, **identity)
    spent, left = nanos(budget.spent.money), nanos(budget.remaining.money)
    stage.claim(
        record.outcome == OUTCOME_CUT and b'"budget_exceeded"' in error,
        f"the stream was cut after {received} of {ENDLESS_TOKENS} tokens",
    )
    stage.claim(spent <= limit, f"{usd(spent)} is spent, within {usd(limit)}")
    token_cost = stage.cost(OPENAI, Usage(output=1))
    stage.claim(left <= LEFT_TOKENS_MAX * token_cost, f"{usd(left)} is left, and a token costs {usd(token_cost)}")
    served = await asyncio.to_thread(
        stage.provider.wait_until,
        lambda served: served.streams_cancelled > cancelled_before,
        timeout_seconds=SETTLED_SECONDS_MAX,
    )
    cancelled = served.streams_cancelled - cancelled_before
    stage.claim(cancelled == 1, "the provider was told to stop, too")


def _is_token(data: bytes) -> bool:
    if data == b"[DONE]":
        return False
    choices = msgspec.json.decode(data).get("choices", ())
    return any(choice["delta"].get("content") for choice in choices)


CUT: Final = Scene(
    title="A stream is cut at the last cent",
    sentence="It sets no maximum. Its hold grows with the reply, as long as there is money.",
    play=_play,
)

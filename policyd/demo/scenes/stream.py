"""A stream is metered live."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from policyd.core.money import parse_usd
from policyd.core.usage import Usage
from policyd.demo.apis import ANTHROPIC
from policyd.demo.screen import columns, usd, usd_aligned
from policyd.demo.stage import Scene, Stage, nanos
from policyd.v1.usage_pb2 import USAGE_SOURCE_REPORTED

LIMIT: Final = "project-spend"
PROJECT: Final = "chat"
MAX_TOKENS: Final = 200
REPLY_TOKENS: Final = 150
TOKEN_MS: Final = 12


async def _play(stage: Stage) -> None:
    received = 0
    usage: Mapping[str, Any] = {}
    identity = {"project": PROJECT}
    with stage.screen.changing() as draw:
        async with stage.stream(
            ANTHROPIC, identity=identity, max_tokens=MAX_TOKENS, reply_tokens=REPLY_TOKENS, token_ms=TOKEN_MS
        ) as response:
            held = parse_usd(response.headers["x-policyd-estimated-cost-usd"])
            async for event in response.events():
                message = msgspec.json.decode(event.data)
                usage = message.get("message", message).get("usage", usage)
                received += event.event == "content_block_delta"
                table = columns(">tokens so far", ">cost so far", ">held", "")
                so_far = stage.cost(ANTHROPIC, Usage(input=usage["input_tokens"], output=received))
                bar = stage.screen.bar(so_far, held)
                table.add_row(str(received), usd_aligned(so_far), usd_aligned(held), bar)
                draw(table)

    record = await stage.record(response)
    cost = stage.cost(ANTHROPIC, ANTHROPIC.usage(usage))
    budget = await stage.budget(LIMIT, **identity)
    stage.claim(
        record.usage_source == USAGE_SOURCE_REPORTED and record.usage.output == received,
        f"{received} tokens came through, and {record.usage.output} are in the usage record",
    )
    stage.claim(
        nanos(record.actual_cost) == cost == nanos(budget.spent.money),
        f"{usd(cost)} is charged, and the rest of the {usd(held)} is free again",
    )
    stage.claim(nanos(budget.reserved.money) == 0, "nothing is held any more")


STREAM: Final = Scene(
    title="A stream is metered while it flows",
    sentence="Tokens are counted as they pass. What is held beyond them is free at the end.",
    play=_play,
)

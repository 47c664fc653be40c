"""A 402 comes before the provider is called."""

from typing import Final

from policyd.demo.apis import OPENAI
from policyd.demo.screen import columns, status_text, usd, usd_aligned
from policyd.demo.stage import Scene, Stage, nanos

LIMIT: Final = "small-project-spend"
PROJECT: Final = "intern"
MAX_TOKENS: Final = 400
REQUESTS: Final = 3
PROVIDER_MS: Final = 150


async def _play(stage: Stage) -> None:
    calls_before = stage.provider_calls
    limit = nanos((await stage.budget(LIMIT, project=PROJECT)).limit.money)
    table = columns("request", "status", ">provider calls", f">left of {usd(limit)}")
    statuses = []
    with stage.screen.changing() as draw:
        for number in range(1, REQUESTS + 1):
            left_before = nanos((await stage.budget(LIMIT, project=PROJECT)).remaining.money)
            reply = await stage.post(
                OPENAI,
                identity={"project": PROJECT},
                max_tokens=MAX_TOKENS,
                reply_tokens=MAX_TOKENS,
                provider_ms=PROVIDER_MS,
                refusal=402,
            )
            statuses.append(reply.status)
            calls = stage.provider_calls - calls_before
            left = nanos((await stage.budget(LIMIT, project=PROJECT)).remaining.money)
            table.add_row(str(number), status_text(reply.status), str(calls), usd_aligned(left))
            draw(table)

    stage.screen.introduce("What the client gets, in OpenAI's own error format:")
    stage.screen.show_json(reply.body)
    stage.claim(statuses == [200] * (REQUESTS - 1) + [402], f"the answers are {', '.join(map(str, statuses))}")
    stage.claim(calls == REQUESTS - 1, f"the provider saw {calls} of the {REQUESTS} requests")
    stage.claim(left == left_before, "the refused one cost nothing")
    stage.claim(
        reply.headers["x-should-retry"] == "false", "x-should-retry: false keeps the provider's SDK from trying again"
    )


REFUSED: Final = Scene(
    title="Too expensive: 402, before the provider is called",
    sentence="The same request three times, on a budget of one cent.",
    play=_play,
)

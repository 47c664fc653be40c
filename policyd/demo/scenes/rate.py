"""A 429 says how long to wait."""

from typing import Final

from policyd.demo.apis import ANTHROPIC
from policyd.demo.screen import columns, status_text
from policyd.demo.stage import Scene, Stage

LIMIT: Final = "free-tier-rate"
IDENTITY: Final = {"project": "playground", "tier": "free", "user": "ann"}
MAX_TOKENS: Final = 50
REQUESTS: Final = 4


async def _play(stage: Stage) -> None:
    calls_before = stage.provider_calls
    limit = (await stage.budget(LIMIT, **IDENTITY)).limit.units
    table = columns("request", "status", "retry-after")
    with stage.screen.changing() as draw:
        for number in range(1, REQUESTS + 1):
            reply = await stage.post(
                ANTHROPIC, identity=IDENTITY, max_tokens=MAX_TOKENS, reply_tokens=MAX_TOKENS, refusal=429
            )
            retry_after = reply.headers.get("retry-after", "")
            table.add_row(str(number), status_text(reply.status), retry_after and f"{retry_after} s")
            draw(table)
    stage.screen.introduce(reply.json()["error"]["message"])
    passed = stage.provider_calls - calls_before
    stage.claim(reply.status == 429 and passed == limit, f"{passed} requests passed, and the limit is {limit}")
    stage.claim(0 < int(retry_after) <= 120, f"after {retry_after} s the next one fits")


RATE: Final = Scene(
    title="Too often: 429, and how long to wait",
    sentence="A user of the free tier may send 3 requests a minute. This is the 4th.",
    play=_play,
)

"""Requests pass and a budget drains."""

from typing import Final

from policyd.core.money import parse_usd
from policyd.demo.apis import ANTHROPIC, OPENAI
from policyd.demo.http_client import Reply
from policyd.demo.screen import columns, usd, usd_aligned
from policyd.demo.stage import Scene, Stage, nanos

LIMIT: Final = "project-spend"
PROJECT: Final = "shop"
MAX_TOKENS: Final = 1000
PROVIDER_MS: Final = 250

REQUESTS: Final = ((OPENAI, 640), (ANTHROPIC, 710), (OPENAI, 820), (ANTHROPIC, 560))
"""Whose API is called, and how many tokens it answers."""


async def _play(stage: Stage) -> None:
    limit = nanos((await stage.budget(LIMIT, project=PROJECT)).limit.money)
    table = columns("model", ">held", ">cost", f">left of {usd(limit)}", "")
    spent = charged = 0
    with stage.screen.changing() as draw:
        draw(table)
        for api, reply_tokens in REQUESTS:
            reply = await stage.post(
                api,
                identity={"project": PROJECT},
                max_tokens=MAX_TOKENS,
                reply_tokens=reply_tokens,
                provider_ms=PROVIDER_MS,
            )
            held, cost = _usd_header(reply, "estimated-cost"), _usd_header(reply, "cost")
            charged += cost
            spent += stage.cost(api, api.usage(reply.json()["usage"]))
            left = nanos((await stage.budget(LIMIT, project=PROJECT)).remaining.money)
            bar = stage.screen.bar(left, limit)
            table.add_row(api.model, usd_aligned(held), usd_aligned(cost), usd_aligned(left), bar)
            draw(table)
    stage.claim(charged == spent, f"{usd(charged)} is charged: what the price list says for the tokens used")
    stage.claim(left == limit - spent, f"{usd(left)} is left of {usd(limit)}")

    stage.screen.introduce("What the last reply's headers say:")
    headers = columns("", "", "")
    headers.show_header = False
    for name, meaning in (
        ("estimated-cost-usd", "held before the request left"),
        ("cost-usd", "charged after the reply"),
        ("budget-remaining-usd", "left while it was held"),
    ):
        headers.add_row(f"x-policyd-{name}", reply.headers[f"x-policyd-{name}"], f"[dim]{meaning}[/]")
    stage.screen.show(headers)


def _usd_header(reply: Reply, name: str) -> int:
    return parse_usd(reply.headers[f"x-policyd-{name}-usd"])


DRAIN: Final = Scene(
    title="A budget drains",
    sentence="The most that a request can cost is held; then what it did cost is charged.",
    play=_play,
)

"""Another service asks for the same budget."""

from typing import Final

from policyd.core.usage import Usage
from policyd.demo.apis import OPENAI
from policyd.demo.scenes import drain
from policyd.demo.screen import columns, usd, usd_aligned
from policyd.demo.stage import Scene, Stage, nanos
from policyd.v1.model_request_pb2 import ModelRequest, TokenCounts
from policyd.v1.policy_service_pb2 import CheckBudgetRequest
from policyd.v1.verdict_pb2 import DECISION_ALLOW, DECISION_DENY, Verdict

INPUT_TOKENS: Final = 2000
OUTPUT_TOKENS: Final = (500, 50_000)


async def _play(stage: Stage) -> None:
    before = await stage.budget(drain.LIMIT, project=drain.PROJECT)
    table = columns(">input", ">output", ">costs at most", ">left", "answer")
    verdicts = []
    for output_tokens in OUTPUT_TOKENS:
        verdict = await _check(stage, output_tokens)
        verdicts.append(verdict)
        allowed = verdict.decision == DECISION_ALLOW
        table.add_row(
            f"{INPUT_TOKENS:,}",
            f"{output_tokens:,}",
            usd_aligned(nanos(verdict.estimate.max_cost)),
            usd_aligned(nanos(before.remaining.money)),
            "[green]ALLOW[/]" if allowed else f"[red]DENY[/] by {verdict.denials[0].name}",
        )
    stage.screen.show(table)
    after = await stage.budget(drain.LIMIT, project=drain.PROJECT)
    costs = [stage.cost(OPENAI, Usage(input=INPUT_TOKENS, output=output_tokens)) for output_tokens in OUTPUT_TOKENS]
    left = nanos(before.remaining.money)
    stage.claim(
        [verdict.decision for verdict in verdicts] == [DECISION_ALLOW, DECISION_DENY] and costs[0] <= left < costs[1],
        f"project {drain.PROJECT} has {usd(left)} left, after what went through Envoy",
    )
    stage.claim([nanos(verdict.estimate.max_cost) for verdict in verdicts] == costs, "both prices are the price list's")
    stage.claim(after == before, "asking held nothing")


async def _check(stage: Stage, output_tokens: int) -> Verdict:
    request = ModelRequest(
        attributes={"project": drain.PROJECT},
        provider=OPENAI.provider,
        endpoint="chat.completions",
        counts=TokenCounts(model=OPENAI.model, input_tokens=INPUT_TOKENS, max_output_tokens=output_tokens),
    )
    return (await stage.policyd.CheckBudget(CheckBudgetRequest(model_request=request))).verdict


SERVICE: Final = Scene(
    title="Another service asks first",
    sentence="For calls that do not pass Envoy: CheckBudget over gRPC. It holds nothing.",
    play=_play,
)

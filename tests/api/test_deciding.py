"""CheckBudget, EstimateCost and Reserve: what is asked before a request runs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest

from policyd.core.anomalies import Anomaly, Repetition
from policyd.core.policy import Action, Match, Metric, Refusal, Unbounded, UnknownModel, UnknownModelAction
from policyd.core.record import Outcome
from policyd.core.rules import ALWAYS, Rule, RuleAction, UsageAbsolute
from policyd.core.windows import CalendarUnit, CalendarWindow, SlidingWindow
from policyd.v1 import policy_service_pb2 as service
from policyd.v1 import verdict_pb2
from policyd.v1.model_request_pb2 import CACHE_WRITE_5M, ModelRequest, RequestBody
from policyd.v1.reservation_pb2 import (
    RESERVATION_STATE_EXPIRED,
    RESERVATION_STATE_RESERVED,
    RESERVATION_STATE_SETTLED,
    RESERVATION_STATE_UNSPECIFIED,
)
from policyd.v1.verdict_pb2 import DECISION_ALLOW, DECISION_DENY
from tests.api.messages import HELD_NANOS, at_ms, chat, check, counted, nanos, record, reserve, settle
from tests.api.prices import INPUT_NANOS, OUTPUT_NANOS
from tests.api.serving import NOW_MS, Api, balance, failure, limit

GPT_4O = Match({"model": ("gpt-4o",)})


class TestEstimateCost:
    async def test_prices_the_tokens_that_the_caller_counted(self, api: Api) -> None:
        answer = await api.stub.EstimateCost(service.EstimateCostRequest(model_request=counted(1_000, 400, choices=2)))
        estimate = answer.estimate
        assert (estimate.input_tokens, estimate.max_input_tokens) == (1_000, 1_000)
        assert (estimate.expected_output_tokens, estimate.max_output_tokens) == (600, 800)
        assert nanos(estimate.expected_cost) == 1_000 * INPUT_NANOS + 600 * OUTPUT_NANOS
        assert nanos(estimate.max_cost) == 1_000 * INPUT_NANOS + 800 * OUTPUT_NANOS
        assert estimate.confidence == verdict_pb2.CONFIDENCE_HIGH
        assert estimate.bounded
        assert (estimate.price_provider, estimate.price_model) == ("openai", "gpt-4o")

    async def test_reads_a_body_as_the_proxy_does(self, api: Api) -> None:
        request = chat("Hello there", max_completion_tokens=100)
        estimate = (await api.stub.EstimateCost(service.EstimateCostRequest(model_request=request))).estimate
        # A message, its role, two words, and the priming of the reply, by OpenAI's own arithmetic.
        assert estimate.input_tokens == 3 + 1 + 2 + 3
        assert estimate.max_output_tokens == 100
        assert nanos(estimate.max_cost) == 9 * INPUT_NANOS + 100 * OUTPUT_NANOS

    async def test_reads_a_body_in_anthropics_format(self, api: Api) -> None:
        body = b'{"model": "claude-opus-4-5", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}'
        request = ModelRequest(
            provider="anthropic",
            endpoint="messages",
            body=RequestBody(path="/v1/messages", content=body),
        )
        estimate = (await api.stub.EstimateCost(service.EstimateCostRequest(model_request=request))).estimate
        assert estimate.max_output_tokens == 64
        assert estimate.max_input_tokens > estimate.input_tokens > 0
        assert estimate.confidence == verdict_pb2.CONFIDENCE_LOW

    @pytest.mark.parametrize(
        ("provider", "path", "body"),
        [
            ("openai", "/v1/responses", {"input": "Hi", "max_output_tokens": 9}),
            ("azure", "/openai/deployments/gpt-4o/chat/completions?api-version=1", {"max_tokens": 9}),
            ("google", "/v1beta/models/gpt-4o:generateContent", {"generationConfig": {"maxOutputTokens": 9}}),
            ("bedrock", "/model/gpt-4o/converse", {"inferenceConfig": {"maxTokens": 9}}),
            ("cohere", "", {"max_tokens": 9}),
            ("ollama", "", {"options": {"num_predict": 9}}),
        ],
    )
    async def test_reads_a_body_of_any_format_by_its_path(
        self, api: Api, provider: str, path: str, body: dict[str, Any]
    ) -> None:
        content = json.dumps({"model": "gpt-4o", "messages": [], "contents": [], **body}).encode()
        request = ModelRequest(provider=provider, body=RequestBody(path=path, content=content))
        estimate = (await api.stub.EstimateCost(service.EstimateCostRequest(model_request=request))).estimate
        assert (estimate.max_output_tokens, estimate.bounded) == (9, True)

    async def test_unset_maximum_is_not_a_maximum_of_zero(self, api: Api) -> None:
        unset = await api.stub.EstimateCost(service.EstimateCostRequest(model_request=counted(1_000, None)))
        zero = await api.stub.EstimateCost(service.EstimateCostRequest(model_request=counted(1_000, 0)))
        assert (unset.estimate.max_output_tokens, unset.estimate.bounded) == (4_096, False)
        assert unset.estimate.confidence == verdict_pb2.CONFIDENCE_MEDIUM
        assert (zero.estimate.max_output_tokens, zero.estimate.bounded) == (0, True)

    async def test_terms_change_the_price(self, api: Api) -> None:
        request = counted(1_000, 250, terms={"processing": "batch"})
        answer = await api.stub.EstimateCost(service.EstimateCostRequest(model_request=request))
        assert nanos(answer.estimate.max_cost) == HELD_NANOS // 2

    async def test_a_cache_write_is_priced_at_the_most_that_the_input_can_cost(self, api: Api) -> None:
        request = counted(1_000, 0, model="gpt-4o-caching", cache_write=CACHE_WRITE_5M)
        answer = await api.stub.EstimateCost(service.EstimateCostRequest(model_request=request))
        assert nanos(answer.estimate.expected_cost) == 1_000 * INPUT_NANOS
        assert nanos(answer.estimate.max_cost) == 1_250 * INPUT_NANOS

    async def test_an_unknown_model_names_the_model_whose_price_it_got(self, api: Api) -> None:
        answer = await api.stub.EstimateCost(service.EstimateCostRequest(model_request=counted(model="of-tomorrow")))
        assert answer.estimate.price_model == "gpt-4o"
        assert nanos(answer.estimate.max_cost) == HELD_NANOS

    async def test_a_model_that_the_policy_makes_free_has_no_price(self, api: Api) -> None:
        api.policy = replace(api.policy, unknown_model=UnknownModel(UnknownModelAction.FREE, None))
        answer = await api.stub.EstimateCost(service.EstimateCostRequest(model_request=counted(model="of-tomorrow")))
        assert (answer.estimate.price_provider, answer.estimate.price_model) == ("", "")
        assert nanos(answer.estimate.max_cost) == 0

    async def test_money_is_exact_to_a_billionth(self, api: Api) -> None:
        request = counted(12_345_677, 0)  # above the tier, so 2,000 nano-USD a token
        answer = await api.stub.EstimateCost(service.EstimateCostRequest(model_request=request))
        assert (answer.estimate.max_cost.units, answer.estimate.max_cost.nanos) == (24, 691_354_000)


class TestCheckBudget:
    async def test_allows_what_fits_and_holds_nothing(self, api: Api) -> None:
        answer = await api.stub.CheckBudget(check(counted()))
        assert answer.verdict.decision == DECISION_ALLOW
        assert not answer.verdict.denials
        assert nanos(answer.verdict.remaining_budget) == 10_000_000_000 - HELD_NANOS
        assert await balance(api) == (0, 0)
        assert not api.seen.records

    @pytest.mark.parametrize("limits", [(limit(amount=HELD_NANOS - 1),)])
    async def test_denies_what_does_not(self, api: Api) -> None:
        answer = await api.stub.CheckBudget(check(counted()))
        assert answer.verdict.decision == DECISION_DENY
        assert [report.name for report in answer.verdict.denials] == ["budget"]
        assert not answer.verdict.HasField("retry_after"), "no wait helps a lifetime budget"

    async def test_says_nothing_of_a_remaining_budget_where_none_applies(self, api: Api) -> None:
        api.policy = replace(api.policy, limits=())
        answer = await api.stub.CheckBudget(check(counted()))
        assert not answer.verdict.HasField("remaining_budget")


@pytest.mark.parametrize(
    "limits",
    [
        (
            limit(
                amount=HELD_NANOS - 1,
                name="monthly",
                window=CalendarWindow(CalendarUnit.MONTH, "Europe/Berlin"),
                per=("project", "user"),
                refusal=Refusal("Ask for more.", {"upgrade_url": "https://example.com/more"}),
            ),
            limit(Metric.REQUESTS, 0, name="rate", window=SlidingWindow(60), status=429),
            limit(Metric.OUTPUT_TOKENS, 1, name="watched", action=Action.SHADOW),
            limit(Metric.TOKENS, 1_000_000, name="roomy"),
        )
    ],
)
async def test_a_denial_carries_every_number_behind_it(api: Api) -> None:
    request = counted(attributes={"project": "acme", "user": "a,b=c"})
    verdict = (await api.stub.CheckBudget(check(request))).verdict
    assert [report.name for report in verdict.denials] == ["monthly", "rate"]
    monthly, rate = verdict.denials

    assert monthly.metric == verdict_pb2.METRIC_COST_USD
    assert monthly.action == verdict_pb2.LIMIT_ACTION_DENY
    assert monthly.scope == "project=acme,user=a%2Cb%3Dc"
    assert monthly.window == "month (Europe/Berlin)"
    assert (nanos(monthly.limit), nanos(monthly.requested)) == (HELD_NANOS - 1, HELD_NANOS)
    assert (nanos(monthly.spent), nanos(monthly.reserved), nanos(monthly.remaining)) == (0, 0, HELD_NANOS - 1)
    assert monthly.resets_at.ToDatetime(UTC) == datetime(2027, 2, 1, tzinfo=ZoneInfo("Europe/Berlin"))
    assert monthly.http_status == 402
    assert monthly.refusal_message == "Ask for more."
    assert dict(monthly.refusal_fields) == {"upgrade_url": "https://example.com/more"}

    assert (rate.metric, rate.window, rate.http_status) == (verdict_pb2.METRIC_REQUESTS, "sliding 60s", 429)
    assert (rate.limit.WhichOneof("value"), rate.limit.units, rate.requested.units) == ("units", 0, 1)
    assert not rate.HasField("refusal_message")

    (watched,) = verdict.shadow_denials
    assert (watched.name, watched.action) == ("watched", verdict_pb2.LIMIT_ACTION_SHADOW)
    assert watched.requested.units == 250


class TestReserve:
    async def test_holds_the_maximum_until_it_expires(self, api: Api) -> None:
        answer = await api.stub.Reserve(reserve(ttl_seconds=30))
        assert answer.verdict.decision == DECISION_ALLOW
        assert answer.reservation_id
        assert at_ms(answer.expires_at) == NOW_MS + 30_000
        assert answer.state == RESERVATION_STATE_RESERVED
        assert not answer.repeated
        assert await balance(api) == (0, HELD_NANOS)

    async def test_lives_as_long_as_the_policy_says_unless_told_otherwise(self, api: Api) -> None:
        assert at_ms((await api.stub.Reserve(reserve())).expires_at) == NOW_MS + 120_000
        fraction = await api.stub.Reserve(reserve("r2", ttl_seconds=1.25))
        assert at_ms(fraction.expires_at) == NOW_MS + 2_000

    @pytest.mark.parametrize("limits", [(limit(amount=HELD_NANOS), limit(Metric.REQUESTS, 5, name="count"))])
    async def test_a_refusal_holds_nothing_anywhere_and_is_recorded(self, api: Api) -> None:
        await api.stub.Reserve(reserve("r1"))
        answer = await api.stub.Reserve(reserve("r2"))
        assert answer.verdict.decision == DECISION_DENY
        assert answer.reservation_id == ""
        assert not answer.HasField("expires_at")
        assert answer.state == RESERVATION_STATE_UNSPECIFIED
        budget = await api.stub.GetBudget(service.GetBudgetRequest(attributes={"project": "acme"}))
        assert [nanos(budget.limits[0].reserved), budget.limits[1].reserved.units] == [HELD_NANOS, 1]
        (refused,) = api.seen.records
        assert (refused.request_id, refused.outcome, refused.denied_by) == ("r2", Outcome.DENIED, ("budget",))

    async def test_the_same_call_again_gives_the_earlier_outcome(self, api: Api) -> None:
        first = await api.stub.Reserve(reserve(ttl_seconds=30))
        api.clock.ms += 5_000
        again = await api.stub.Reserve(reserve(ttl_seconds=30))
        assert again.repeated
        assert again.verdict == first.verdict
        assert (again.reservation_id, again.expires_at) == (first.reservation_id, first.expires_at)
        assert await balance(api) == (0, HELD_NANOS)

    async def test_a_repetition_says_what_has_become_of_it(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        await api.stub.Settle(settle())
        assert (await api.stub.Reserve(reserve())).state == RESERVATION_STATE_SETTLED
        await api.stub.Reserve(reserve("r2"))
        await api.expire()
        assert (await api.stub.Reserve(reserve("r2"))).state == RESERVATION_STATE_EXPIRED

    @pytest.mark.parametrize("limits", [(limit(amount=0, action=Action.SHADOW),)])
    async def test_a_repetition_repeats_the_shadow_denials(self, api: Api) -> None:
        first = await api.stub.Reserve(reserve())
        assert [report.name for report in first.verdict.shadow_denials] == ["budget"]
        assert (await api.stub.Reserve(reserve())).verdict == first.verdict

    @pytest.mark.parametrize(
        "limits",
        [
            (
                limit(amount=0, name="soft", action=Action.WARN),
                limit(
                    Metric.REQUESTS, 0, name="dear", match=GPT_4O, action=Action.SWITCH_MODEL, switch_to="gpt-4o-mini"
                ),
                limit(Metric.OUTPUT_TOKENS, 100, name="short", action=Action.CLAMP),
            )
        ],
    )
    async def test_what_limits_change_is_told_and_repeated(self, api: Api) -> None:
        checked = (await api.stub.CheckBudget(check(counted()))).verdict
        answer = await api.stub.Reserve(reserve())
        assert (answer.set_model, answer.set_max_output_tokens) == ("gpt-4o-mini", 100)
        verdict = answer.verdict
        assert verdict == checked
        assert verdict.decision == DECISION_ALLOW
        assert (verdict.switched_model, list(verdict.switched_by)) == ("gpt-4o-mini", ["dear"])
        assert list(verdict.clamped_by) == ["short"]
        assert [report.name for report in verdict.warnings] == ["soft"]
        assert verdict.estimate.max_output_tokens == 100
        again = await api.stub.Reserve(reserve())
        assert again.verdict == verdict
        assert (again.set_model, again.set_max_output_tokens) == ("gpt-4o-mini", 100)
        await api.stub.Settle(settle())
        (record,) = (await api.stub.ListUsage(service.ListUsageRequest())).usage_records
        assert (record.model, record.requested_model) == ("gpt-4o-mini", "gpt-4o")
        assert [list(record.warned_by), list(record.clamped_by), list(record.switched_by)] == [
            ["soft"],
            ["short"],
            ["dear"],
        ]

    async def test_what_rules_do_is_told_and_repeated(self, api: Api) -> None:
        full = Rule("full", UsageAbsolute({"budget": 1}), RuleAction.DENY)
        short = Rule("short", ALWAYS, RuleAction.CLAMP, max_output_tokens=100)
        api.policy = replace(api.policy, rules=(replace(full, name="tried", shadow=True), full, short))
        answer = await api.stub.Reserve(reserve())
        assert (answer.set_max_output_tokens, list(answer.verdict.clamped_by)) == (100, ["rule:short"])
        assert (list(answer.verdict.rules), list(answer.verdict.shadow_rules)) == (["short"], [])
        # By now the limit is so full that nothing new is granted; what was granted still is.
        assert (await api.stub.Reserve(reserve())).verdict == answer.verdict
        verdict = (await api.stub.Reserve(reserve("r2"))).verdict
        assert verdict.decision == DECISION_DENY
        assert (verdict.rule_denial.rule, verdict.rule_denial.http_status) == ("full", 403)
        assert (list(verdict.rules), list(verdict.shadow_rules)) == (["full"], ["tried"])
        assert (await api.stub.CheckBudget(check(counted()))).verdict == verdict
        await api.stub.Settle(settle())
        refused, served = (await api.stub.ListUsage(service.ListUsageRequest())).usage_records
        assert (list(refused.denied_by), list(refused.shadow_rules)) == (["rule:full"], ["tried"])
        assert (list(served.rules), list(served.clamped_by)) == (["short"], ["rule:short"])

    async def test_anomalies_are_named(self, api: Api) -> None:
        loop = Anomaly("loop", Repetition(2, 600), RuleAction.FREEZE, event_every_seconds=3600, freeze_seconds=60)
        api.policy = replace(api.policy, anomalies=(loop,))
        assert (await api.stub.Reserve(reserve(request=chat()))).verdict.decision == DECISION_ALLOW
        verdict = (await api.stub.Reserve(reserve("r2", request=chat()))).verdict
        assert (verdict.decision, list(verdict.rules)) == (DECISION_DENY, ["anomaly:loop"])
        assert (verdict.rule_denial.rule, verdict.rule_denial.http_status) == ("anomaly:loop", 403)
        assert verdict.retry_after.seconds == 60
        blocked = (await api.stub.Reserve(reserve("r3", request=chat("Else")))).verdict
        assert blocked.block.reason == "anomaly:loop has fired"

    @pytest.mark.parametrize("limits", [(limit(amount=HELD_NANOS),)])
    async def test_a_refused_request_may_come_again(self, api: Api) -> None:
        await api.stub.Reserve(reserve("first"))
        assert (await api.stub.Reserve(reserve())).verdict.decision == DECISION_DENY
        await api.stub.Settle(settle("first", usage={}))
        again = await api.stub.Reserve(reserve())
        assert (again.verdict.decision, again.repeated) == (DECISION_ALLOW, False)

    @pytest.mark.parametrize(
        "other",
        [
            reserve(request=counted(1_001)),
            reserve(request=counted(attributes={"project": "umbrella"})),
            reserve(request=chat()),
            reserve(ttl_seconds=30),
        ],
    )
    async def test_the_same_id_for_another_content_is_refused(self, api: Api, other: service.ReserveRequest) -> None:
        await api.stub.Reserve(reserve())
        failed = await failure(api.stub.Reserve(other))
        assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        assert failed.metadata == {"request_id": "r1"}

    async def test_prompts_of_equal_length_are_other_content(self, api: Api) -> None:
        await api.stub.Reserve(reserve(request=chat("yes")))
        assert (await failure(api.stub.Reserve(reserve(request=chat("no"))))).reason == "REQUEST_ID_REUSED"

    async def test_a_recorded_usage_is_other_content(self, api: Api) -> None:
        await api.stub.RecordUsage(record("r1"))
        assert (await failure(api.stub.Reserve(reserve("r1")))).reason == "REQUEST_ID_REUSED"

    async def test_says_which_maximum_has_to_be_set(self, api: Api) -> None:
        api.policy = replace(api.policy, unbounded=Unbounded.SET_MAXIMUM)
        unbounded = await api.stub.Reserve(reserve("r1", counted(1_000, None)))
        bounded = await api.stub.Reserve(reserve("r2", counted(1_000, 250)))
        assert unbounded.set_max_output_tokens == 4_096
        assert not bounded.HasField("set_max_output_tokens")

    @pytest.mark.parametrize("limits", [(limit(amount=10 * HELD_NANOS),)])
    async def test_many_at_once_never_overspend(self, api: Api) -> None:
        answers = await asyncio.gather(*(api.stub.Reserve(reserve(f"r{number}")) for number in range(200)))
        allowed = [answer for answer in answers if answer.verdict.decision == DECISION_ALLOW]
        assert len(allowed) == 10
        assert await balance(api) == (0, 10 * HELD_NANOS)
        used = {"input": 1_000, "output": 250}
        await asyncio.gather(*(api.stub.Settle(settle(each.reservation_id, usage=used)) for each in allowed))
        assert await balance(api) == (10 * HELD_NANOS, 0)

    async def test_one_call_sent_many_times_at_once_holds_once(self, api: Api) -> None:
        answers = await asyncio.gather(*(api.stub.Reserve(reserve()) for _ in range(20)))
        assert sorted(answer.repeated for answer in answers) == [False] + [True] * 19
        assert await balance(api) == (0, HELD_NANOS)


class TestAttributes:
    async def test_what_is_absent_comes_from_the_body_and_the_defaults(self, api: Api) -> None:
        await api.stub.Reserve(reserve(request=chat(attributes={"project": ""}, user="ann")))
        await api.stub.Settle(settle())
        assert api.seen.records[0].attributes == {"project": "default", "user": "ann"}

    async def test_what_is_given_comes_first(self, api: Api) -> None:
        await api.stub.Reserve(reserve(request=chat(attributes={"project": "acme", "user": "bob"}, user="ann")))
        await api.stub.Settle(settle())
        assert api.seen.records[0].attributes == {"project": "acme", "user": "bob"}

    async def test_a_limit_matches_the_request_itself(self, api: Api) -> None:
        mini = limit(amount=0, match=Match({"model": ("gpt-4o-mini",)}))
        api.policy = replace(api.policy, limits=(mini,))
        assert (await api.stub.CheckBudget(check(counted()))).verdict.decision == DECISION_ALLOW
        denied = await api.stub.CheckBudget(check(counted(model="gpt-4o-mini")))
        assert denied.verdict.decision == DECISION_DENY

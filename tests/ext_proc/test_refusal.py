"""How a refusal reads: its exact JSON, its headers, and whether a client library may try again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from policyd.core.decision import Decision, LimitReport
from policyd.core.estimate import Confidence, Estimate
from policyd.core.own_prices import Tariff
from policyd.core.policy import Action, Limit, Metric, Refusal
from policyd.core.price_book import PriceBook
from policyd.core.pricing import Price, Rate, RateTier
from policyd.core.usage import Usage
from policyd.core.windows import CalendarUnit, CalendarWindow, Lifetime, SlidingWindow, Window
from policyd.ext_proc.refusal import denial, error_info, immediate, limit_object, worth_retrying
from policyd.providers.base import ErrorInfo
from policyd.providers.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT
from tests.builders import NOW_MS, World, limit, policy
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import chat, messages, request_headers

MONTH = CalendarWindow(CalendarUnit.MONTH, "Europe/Berlin")

# One token costs a nano-USD.
PRICE = Price(provider="p", model="m", tiers=[RateTier(0, {"input": Rate(1, 1), "output": Rate(1, 1)})])
ESTIMATE = Estimate(
    price=PRICE,
    tariff=Tariff(PriceBook((), version="")),
    expected=Usage(input=7),
    maximum=Usage(input=7, output=30_000_000),
    confidence=Confidence.HIGH,
    bounded=True,
)

BUDGET = LimitReport(
    Limit("project-monthly-spend", Metric.COST, 10_000_000_000, MONTH, per=("project",)),
    scope="project=acme",
    spent=9_900_000_001,
    reserved=80_000_000,
    requested=30_000_007,
    resets_at_ms=NOW_MS + 250,
)
RATE = LimitReport(
    Limit("rate", Metric.REQUESTS, 20, SlidingWindow(60), status=429),
    scope="",
    spent=18,
    reserved=2,
    requested=1,
    resets_at_ms=NOW_MS + 15_000,
)
AT_ONCE = LimitReport(
    Limit("at-once", Metric.CONCURRENT_REQUESTS, 3, None, per=("user",), status=429),
    scope="user=ann",
    spent=0,
    reserved=3,
    requested=1,
    resets_at_ms=None,
)


def denied(*denials: LimitReport, retry_after_seconds: int | None = None) -> Decision:
    return Decision(ESTIMATE, denials, denials, (), retry_after_seconds)


class TestTheJson:
    def test_of_a_budget(self) -> None:
        body = OPENAI_CHAT.error_body(denial(denied(BUDGET), request_id="pd-1"))
        assert body.decode() == (
            '{"error":{"message":"Budget project-monthly-spend exceeded for project=acme: 0.019999999 of 10.00 USD this'
            ' month (Europe/Berlin) are left, and the request may cost 0.030000007.",'
            '"type":"insufficient_quota","param":null,"code":"budget_exceeded",'
            '"policyd":{"reason":"budget_exceeded","request_id":"pd-1","limits":[{"name":"project-monthly-spend",'
            '"metric":"cost_usd","scope":"project=acme","window":"month (Europe/Berlin)","limit":10.00,'
            '"spent":9.900000001,"reserved":0.08,"requested":0.030000007,"remaining":0.019999999,'
            '"resets_at":"2026-05-15T12:00:45.250Z"}],"limit_usd":10.00,"spent_usd":9.900000001,'
            '"remaining_usd":0.019999999,"estimated_cost_usd":0.030000007}}}'
        )

    def test_of_a_rate_in_anthropics_shape(self) -> None:
        body = ANTHROPIC_MESSAGES.error_body(denial(denied(RATE), request_id="pd-1"))
        assert body.decode() == (
            '{"type":"error","error":{"type":"rate_limit_error","message":"Limit rate exceeded: 0 of 20 requests in 60'
            ' seconds are left, and the request needs 1.",'
            '"policyd":{"reason":"rate_limit_exceeded","request_id":"pd-1","limits":[{"name":"rate",'
            '"metric":"requests","scope":"","window":"sliding 60s","limit":20,"spent":18,"reserved":2,"requested":1,'
            '"remaining":0,"resets_at":"2026-05-15T12:01:00.000Z"}]}}}'
        )

    def test_of_a_limit_without_a_window(self) -> None:
        info = denial(denied(AT_ONCE), request_id="pd-1")
        assert (info.status, info.reason) == (429, "concurrency_limit_exceeded")
        assert info.message == (
            "Limit at-once exceeded for user=ann: 0 of 3 concurrent requests are left, and the request needs 1."
        )
        assert (limit_object(AT_ONCE)["window"], limit_object(AT_ONCE)["resets_at"]) == (None, None)

    def test_of_tokens_for_ever(self) -> None:
        tokens = Limit("tokens", Metric.OUTPUT_TOKENS, 1000, Lifetime(), status=429)
        info = denial(denied(RATE._replace(limit=tokens, requested=50)), request_id="pd-1")
        assert info.message == (
            "Limit tokens exceeded: 980 of 1000 output tokens are left, and the request may need 50."
        )

    @pytest.mark.parametrize(
        ("metric", "reason"),
        [
            (Metric.COST, "budget_exceeded"),
            (Metric.TOKENS, "token_limit_exceeded"),
            (Metric.INPUT_TOKENS, "token_limit_exceeded"),
            (Metric.OUTPUT_TOKENS, "token_limit_exceeded"),
            (Metric.REQUESTS, "rate_limit_exceeded"),
            (Metric.CONCURRENT_REQUESTS, "concurrency_limit_exceeded"),
        ],
    )
    def test_reasons(self, metric: Metric, reason: str) -> None:
        report = RATE._replace(limit=replace(RATE.limit, metric=metric))
        info = denial(denied(report), request_id="pd-1")
        assert info.reason == info.policyd["reason"] == reason

    def test_every_limit_that_refused_the_binding_one_first(self) -> None:
        info = denial(denied(RATE, BUDGET, AT_ONCE), request_id="pd-1")
        assert [each["name"] for each in info.policyd["limits"]] == ["rate", "project-monthly-spend", "at-once"]
        # The binding one says how it is refused, the cost limit gives its numbers at the top all the same.
        assert (info.status, info.reason) == (429, "rate_limit_exceeded")
        assert json.loads(OPENAI_CHAT.error_body(info))["error"]["policyd"]["limit_usd"] == 10

    def test_the_operators_own_words_and_fields(self) -> None:
        refusal = Refusal(
            message="Time for an upgrade.", fields={"upgrade_url": "https://example.com/up", "plan": "pro"}
        )
        info = denial(denied(BUDGET._replace(limit=replace(BUDGET.limit, refusal=refusal))), request_id="pd-1")
        assert info.message == "Time for an upgrade."
        assert info.policyd["upgrade_url"] == "https://example.com/up"
        assert info.policyd["plan"] == "pro"

    def test_what_no_limit_refused(self) -> None:
        info = error_info(status=400, reason="body_unreadable", message="No.", request_id="pd-1")
        assert info == ErrorInfo(400, "body_unreadable", "No.", {"reason": "body_unreadable", "request_id": "pd-1"})


class TestHeaders:
    INFO = ErrorInfo(402, "budget_exceeded", "No.")

    @pytest.mark.parametrize(
        ("retry_after_seconds", "retry", "headers"),
        [
            (None, False, {"x-should-retry": "false"}),
            (3600, False, {"retry-after": "3600", "x-should-retry": "false"}),
            (7, True, {"retry-after": "7"}),
        ],
    )
    def test_retrying(self, retry_after_seconds: int | None, retry: bool, headers: dict[str, str]) -> None:
        reply = immediate(
            OPENAI_CHAT, self.INFO, headers={"x-a": "b"}, retry_after_seconds=retry_after_seconds, retry=retry
        )
        assert reply.status == 402
        assert reply.headers == {"content-type": "application/json", "x-a": "b", **headers}
        assert json.loads(reply.body)["error"]["message"] == "No."

    @pytest.mark.parametrize(
        ("seconds", "worth"), [(None, False), (0, True), (1, True), (60, True), (61, False), (86_400, False)]
    )
    def test_a_wait_that_a_client_library_may_sit_out(self, seconds: int | None, worth: bool) -> None:
        assert worth_retrying(denied(RATE, retry_after_seconds=seconds)) is worth


async def refused(*limits: Limit, path: str = wire.CHAT_PATH) -> Envoy:
    world = World(policy(*limits))
    body = messages() if path == wire.MESSAGES_PATH else chat()
    envoy = Envoy(world)
    await envoy.request(request_headers(body, path=path), [body])
    await envoy.close()
    return envoy


MINUTE, DAY = CalendarWindow(CalendarUnit.MINUTE), CalendarWindow(CalendarUnit.DAY)


@pytest.mark.parametrize(
    ("window", "amount", "retry_after", "should_retry"),
    [
        # Spent up already: room comes with the next window.
        (MINUTE, None, "15", None),
        (DAY, None, str(12 * 3600 - 45), "false"),
        # Too small for the request: room never comes.
        (MINUTE, 1, None, "false"),
    ],
)
async def test_end_to_end(
    window: Window, amount: int | None, retry_after: str | None, should_retry: str | None
) -> None:
    """At 12:00:45."""
    world = World(policy(limit(Metric.TOKENS, amount or 20, window=window, status=429)))
    body = chat(max_tokens=10)
    if amount is None:
        first = Envoy(world)
        await first.request(request_headers(body), [body])
        reply = wire.chat_reply(usage={"prompt_tokens": 10, "completion_tokens": 10})
        await first.response(wire.reply_headers(), [reply])
        await first.close()
    envoy = Envoy(world, request_id="pd-2")
    await envoy.request(request_headers(body), [body])
    assert envoy.client.status == 429
    assert envoy.client.headers.get("retry-after") == retry_after
    assert envoy.client.headers.get("x-should-retry") == should_retry
    assert wire.decision_fields(envoy.client.body)["request_id"] == "pd-2"


async def test_in_the_providers_shape() -> None:
    spent = limit(amount=1)
    openai = json.loads((await refused(spent)).client.body)
    assert openai["error"]["code"] == "budget_exceeded"
    anthropic = json.loads((await refused(spent, path=wire.MESSAGES_PATH)).client.body)
    assert (anthropic["type"], anthropic["error"]["type"]) == ("error", "billing_error")


async def test_a_shadow_limit_refuses_nobody() -> None:
    world = World(policy(limit(amount=1, action=Action.SHADOW)))
    envoy = Envoy(world)
    await envoy.request(request_headers(chat()), [chat()])
    await envoy.close()
    assert envoy.upstream.ended
    assert world.record.shadow_denied_by == ("budget",)
    assert world.record.decision == "allow"

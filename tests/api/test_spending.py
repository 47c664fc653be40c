"""Extend, Settle, Release and RecordUsage: what a request becomes once it runs, and after."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from policyd.core.policy import Metric, OnExpiry, Reservations, UnknownModel, UnknownModelAction
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.core.windows import CalendarUnit, CalendarWindow
from policyd.stores.url import open_store
from policyd.v1 import policy_service_pb2 as service
from policyd.v1 import usage_pb2
from policyd.v1.reservation_pb2 import (
    RESERVATION_STATE_EXPIRED,
    RESERVATION_STATE_RELEASED,
    RESERVATION_STATE_RESERVED,
    RESERVATION_STATE_SETTLED,
)
from policyd.v1.verdict_pb2 import DECISION_ALLOW
from tests.api.messages import (
    ACME,
    HELD_NANOS,
    USED_NANOS,
    at_ms,
    counted,
    extend,
    nanos,
    record,
    release,
    reserve,
    seconds,
    settle,
)
from tests.api.prices import INPUT_NANOS, LONG_INPUT_TOKENS, OUTPUT_NANOS, RISE_MS
from tests.api.serving import NOW_MS, Api, balance, failure, limit, raising, serving

CLOSE_FIT = limit(amount=HELD_NANOS + 100 * OUTPUT_NANOS)
"""Room for `counted()` and 100 more output tokens."""


class TestExtend:
    @pytest.mark.parametrize("limits", [(CLOSE_FIT,)])
    @pytest.mark.parametrize(
        ("wanted", "at_least", "granted"),
        [(100, None, 100), (101, None, 0), (150, 100, 100), (150, 101, 0), (150, 0, 100), (0, None, 0)],
    )
    async def test_grants_what_fits(self, api: Api, wanted: int, at_least: int | None, granted: int) -> None:
        await api.stub.Reserve(reserve())
        answer = await api.stub.Extend(extend(wanted=wanted, at_least_output_tokens=at_least))
        assert answer.granted_output_tokens == granted
        assert await balance(api) == (0, HELD_NANOS + granted * OUTPUT_NANOS)

    async def test_holds_at_the_price_of_a_long_input(self, api: Api) -> None:
        await api.stub.Reserve(reserve(request=counted(LONG_INPUT_TOKENS + 1, 0)))
        _, before = await balance(api)
        await api.stub.Extend(extend(wanted=10))
        assert await balance(api) == (0, before + 10 * 2 * OUTPUT_NANOS)

    async def test_holds_at_the_terms_of_the_request(self, api: Api) -> None:
        await api.stub.Reserve(reserve(request=counted(0, 0, terms={"processing": "batch"})))
        await api.stub.Extend(extend(wanted=10))
        assert await balance(api) == (0, 10 * OUTPUT_NANOS // 2)

    async def test_keeps_the_reservation_alive(self, api: Api) -> None:
        await api.stub.Reserve(reserve(ttl_seconds=60))
        api.clock.ms += 50_000
        answer = await api.stub.Extend(extend(wanted=0, ttl=seconds(600)))
        assert at_ms(answer.expires_at) == NOW_MS + 650_000
        api.clock.ms += 500_000
        await api.enforcer.sweep()
        assert (await api.stub.Settle(settle())).state_before == RESERVATION_STATE_RESERVED

    async def test_never_shortens_a_life(self, api: Api) -> None:
        await api.stub.Reserve(reserve(ttl_seconds=600))
        answer = await api.stub.Extend(extend(ttl=seconds(1)))
        assert at_ms(answer.expires_at) == NOW_MS + 600_000

    @pytest.mark.parametrize(
        ("end", "reason"),
        [(settle(), "RESERVATION_ALREADY_SETTLED"), (release(), "RESERVATION_ALREADY_RELEASED")],
    )
    async def test_is_too_late_once_it_ended(
        self, api: Api, end: service.SettleRequest | service.ReleaseRequest, reason: str
    ) -> None:
        await api.stub.Reserve(reserve())
        await (api.stub.Settle(end) if isinstance(end, service.SettleRequest) else api.stub.Release(end))
        assert (await failure(api.stub.Extend(extend()))).reason == reason


class TestSettle:
    async def test_charges_what_was_used_and_returns_the_rest(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        answer = await api.stub.Settle(settle())
        assert answer.state_before == RESERVATION_STATE_RESERVED
        assert nanos(answer.cost) == USED_NANOS
        assert await balance(api) == (USED_NANOS, 0)

    async def test_charges_more_than_was_held(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        await api.stub.Settle(settle(usage={"input": 1_000, "output": 1_000}))
        assert await balance(api) == (1_000 * INPUT_NANOS + 1_000 * OUTPUT_NANOS, 0)

    async def test_leaves_one_record_of_everything(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        api.clock.ms += 2_500
        await api.stub.Settle(settle(model="gpt-4o-mini", status=200))
        (written,) = (await api.stub.ListUsage(service.ListUsageRequest())).usage_records
        assert written.request_id == "r1"
        assert at_ms(written.time) == NOW_MS
        assert (written.outcome, written.decision) == (usage_pb2.OUTCOME_SERVED, DECISION_ALLOW)
        assert dict(written.attributes) == ACME
        assert (written.provider, written.endpoint, written.model) == ("openai", "chat.completions", "gpt-4o")
        assert (written.response_model, written.status, written.streamed) == ("gpt-4o-mini", 200, False)
        assert written.usage == usage_pb2.Usage(input=1_000, output=100)
        assert written.usage_source == usage_pb2.USAGE_SOURCE_REPORTED
        assert (nanos(written.estimated_cost), nanos(written.actual_cost)) == (HELD_NANOS, USED_NANOS // 10)
        assert written.duration == seconds(2.5)
        assert not written.HasField("error")
        assert [each.request_id for each in api.seen.records] == ["r1"]

    async def test_takes_every_kind_of_usage(self, api: Api) -> None:
        kinds = {kind.name: number for number, kind in enumerate(usage_pb2.Usage.DESCRIPTOR.fields, start=1)}
        await api.stub.Reserve(reserve())
        await api.stub.Settle(settle(usage=kinds))
        assert api.seen.records[0].usage == Usage(**kinds)
        (written,) = (await api.stub.ListUsage(service.ListUsageRequest())).usage_records
        assert written.usage == usage_pb2.Usage(**kinds)

    @pytest.mark.parametrize(
        "limits", [(limit(Metric.REQUESTS, 5), limit(Metric.CONCURRENT_REQUESTS, 1, name="open", window=None))]
    )
    async def test_an_empty_usage_is_not_an_absent_one(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        failed = await failure(api.stub.Settle(service.SettleRequest(reservation_id="r1")))
        assert (failed.reason, failed.metadata["field"]) == ("FIELD_INVALID", "usage")
        await api.stub.Settle(settle(usage={}))
        requests, open_now = (await api.stub.GetBudget(service.GetBudgetRequest(attributes=ACME))).limits
        assert (requests.spent.units, requests.reserved.units) == (1, 0)
        assert (open_now.spent.units, open_now.reserved.units) == (0, 0)

    async def test_once_more_changes_nothing_and_answers_the_same(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        first = await api.stub.Settle(settle())
        again = await api.stub.Settle(settle(usage={"input": 9, "output": 9}))
        assert again.state_before == RESERVATION_STATE_SETTLED
        assert again.cost == first.cost
        assert await balance(api) == (USED_NANOS, 0)
        assert len(api.seen.records) == 1

    async def test_many_at_once_charge_once(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        answers = await asyncio.gather(*(api.stub.Settle(settle(usage={"output": number})) for number in range(20)))
        assert [answer.state_before for answer in answers].count(RESERVATION_STATE_RESERVED) == 1
        (cost,) = {nanos(answer.cost) for answer in answers}
        assert await balance(api) == (cost, 0)

    async def test_late_corrects_what_expiry_charged(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        await api.expire()
        assert await balance(api) == (HELD_NANOS, 0)
        answer = await api.stub.Settle(settle())
        assert answer.state_before == RESERVATION_STATE_EXPIRED
        assert nanos(answer.cost) == USED_NANOS
        assert await balance(api) == (USED_NANOS, 0)
        (written,) = (await api.stub.ListUsage(service.ListUsageRequest())).usage_records
        assert written.outcome == usage_pb2.OUTCOME_SERVED
        assert not written.HasField("error")

    @pytest.mark.parametrize("limits", [(limit(amount=10_000_000_000, window=CalendarWindow(CalendarUnit.HOUR)),)])
    async def test_charges_the_window_of_the_reservation(self, api: Api) -> None:
        await api.stub.Reserve(reserve(ttl_seconds=3600))
        api.clock.ms += 3_600_000
        await api.stub.Settle(settle())
        assert await balance(api) == (0, 0), "the next hour"
        api.clock.ms -= 3_600_000
        assert await balance(api) == (USED_NANOS, 0)

    async def test_at_the_price_of_the_model_and_the_terms_that_served(self, api: Api) -> None:
        for request_id, served, cost in (
            ("as-asked", {}, USED_NANOS // 2),
            ("another", {"model": "gpt-4o-mini"}, USED_NANOS // 10),
            ("unknown", {"model": "of-tomorrow"}, USED_NANOS // 2),
            ("on-other-terms", {"terms": {"processing": "online"}}, USED_NANOS),
            ("on-more-terms", {"terms": {"service_tier": "default"}}, USED_NANOS // 2),
        ):
            await api.stub.Reserve(reserve(request_id, counted(terms={"processing": "batch"})))
            answer = await api.stub.Settle(settle(request_id, **served))
            assert (request_id, nanos(answer.cost)) == (request_id, cost)

    async def test_at_the_price_of_the_moment_of_the_reservation(self, api: Api) -> None:
        await api.stub.Reserve(reserve(request=counted(model="gpt-4o-rising")))
        api.clock.ms = RISE_MS
        assert nanos((await api.stub.Settle(settle())).cost) == USED_NANOS

    async def test_is_never_refused_for_a_model_that_the_policy_has_come_to_refuse(self, api: Api) -> None:
        await api.stub.Reserve(reserve(request=counted(model="of-tomorrow")))
        api.policy = replace(api.policy, unknown_model=UnknownModel(UnknownModelAction.DENY, None))
        assert nanos((await api.stub.Settle(settle())).cost) == USED_NANOS

    async def test_a_failed_reply_with_usage_is_charged_and_recorded_as_the_providers_error(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        await api.stub.Settle(settle(status=503))
        (written,) = (await api.stub.ListUsage(service.ListUsageRequest())).usage_records
        assert (written.outcome, written.status) == (usage_pb2.OUTCOME_PROVIDER_ERROR, 503)
        assert await balance(api) == (USED_NANOS, 0)

    async def test_cannot_touch_an_exchange_through_envoy(self, api: Api) -> None:
        """Those holds have no fingerprint, and their id stands in a header that a client sees."""
        await api.stub.Reserve(reserve())
        held = await api.store.get("r1")
        await api.store.reserve(
            "exchange", entries=held.entries, record=held.record, now_ms=NOW_MS, expires_at_ms=NOW_MS + 1
        )
        for call in (
            api.stub.Settle(settle("exchange")),
            api.stub.Release(release("exchange")),
            api.stub.Extend(extend("exchange")),
        ):
            assert (await failure(call)).reason == "RESERVATION_NOT_FOUND"


class TestRelease:
    async def test_returns_the_whole_hold(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        assert (await api.stub.Release(release())).state_before == RESERVATION_STATE_RESERVED
        assert await balance(api) == (0, 0)
        assert [each.outcome for each in api.seen.records] == [Outcome.RELEASED]
        (written,) = (await api.stub.ListUsage(service.ListUsageRequest())).usage_records
        assert written.outcome == usage_pb2.OUTCOME_RELEASED
        assert not written.HasField("usage")
        assert nanos(written.actual_cost) == 0

    async def test_once_more_changes_nothing(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        await api.stub.Release(release())
        assert (await api.stub.Release(release())).state_before == RESERVATION_STATE_RELEASED
        assert len(api.seen.records) == 1

    async def test_late_takes_back_what_expiry_charged(self, api: Api) -> None:
        await api.stub.Reserve(reserve())
        await api.expire()
        assert (await api.stub.Release(release())).state_before == RESERVATION_STATE_EXPIRED
        assert await balance(api) == (0, 0)

    async def test_and_settle_exclude_each_other(self, api: Api) -> None:
        await api.stub.Reserve(reserve("released"))
        await api.stub.Release(release("released"))
        assert (await failure(api.stub.Settle(settle("released")))).reason == "RESERVATION_ALREADY_RELEASED"
        await api.stub.Reserve(reserve("settled"))
        await api.stub.Settle(settle("settled"))
        assert (await failure(api.stub.Release(release("settled")))).reason == "RESERVATION_ALREADY_SETTLED"


class TestRecordUsage:
    async def test_charges_the_accounts_of_now(self, api: Api) -> None:
        answer = await api.stub.RecordUsage(record(status=200))
        assert nanos(answer.cost) == USED_NANOS
        assert not answer.repeated
        assert await balance(api) == (USED_NANOS, 0)
        (written,) = (await api.stub.ListUsage(service.ListUsageRequest())).usage_records
        assert (written.request_id, written.outcome, written.status) == ("u1", usage_pb2.OUTCOME_SERVED, 200)
        assert (nanos(written.estimated_cost), nanos(written.actual_cost)) == (0, USED_NANOS)
        assert [each.usage_source for each in api.seen.records] == [UsageSource.REPORTED]

    @pytest.mark.parametrize(
        "limits",
        [
            (
                limit(amount=1),
                limit(Metric.REQUESTS, 0, name="count"),
                limit(Metric.CONCURRENT_REQUESTS, 0, name="open", window=None),
            )
        ],
    )
    async def test_is_never_refused(self, api: Api) -> None:
        await api.stub.RecordUsage(record())
        cost, requests, open_now = (await api.stub.GetBudget(service.GetBudgetRequest(attributes=ACME))).limits
        assert (nanos(cost.spent), nanos(cost.remaining)) == (USED_NANOS, 0)
        assert (requests.spent.units, open_now.spent.units) == (1, 0)

    async def test_on_the_terms_that_it_was_served_on(self, api: Api) -> None:
        answer = await api.stub.RecordUsage(record(terms={"processing": "batch"}))
        assert nanos(answer.cost) == USED_NANOS // 2

    async def test_once_more_charges_nothing(self, api: Api) -> None:
        first = await api.stub.RecordUsage(record())
        again = await api.stub.RecordUsage(record())
        assert again.repeated
        assert again.cost == first.cost
        assert await balance(api) == (USED_NANOS, 0)
        assert len(api.seen.records) == 1

    async def test_many_at_once_charge_once(self, api: Api) -> None:
        answers = await asyncio.gather(*(api.stub.RecordUsage(record()) for _ in range(20)))
        assert [answer.repeated for answer in answers].count(False) == 1
        assert await balance(api) == (USED_NANOS, 0)

    async def test_with_other_content_is_refused(self, api: Api) -> None:
        await api.stub.RecordUsage(record())
        failed = await failure(api.stub.RecordUsage(record(usage={"input": 1})))
        assert failed.reason == "REQUEST_ID_REUSED"
        await api.stub.Reserve(reserve())
        assert (await failure(api.stub.RecordUsage(record("r1")))).reason == "REQUEST_ID_REUSED"

    async def test_that_was_interrupted_is_charged_once(self, api: Api) -> None:
        """A process that dies between its two steps leaves a hold of the whole usage, at the price of that moment."""
        api.policy = replace(api.policy, reservations=Reservations(on_expiry=OnExpiry.NOTHING))
        api.troubles["settle"] = raising(SystemError())
        await failure(api.stub.RecordUsage(record(model="gpt-4o-rising")))
        api.troubles.clear()
        assert await balance(api) == (0, USED_NANOS)
        await api.expire()
        assert api.clock.ms > RISE_MS
        assert await balance(api) == (USED_NANOS, 0)
        answer = await api.stub.RecordUsage(record(model="gpt-4o-rising"))
        assert nanos(answer.cost) == USED_NANOS
        assert await balance(api) == (USED_NANOS, 0)
        (written,) = (await api.stub.ListUsage(service.ListUsageRequest())).usage_records
        assert (at_ms(written.time), written.outcome) == (NOW_MS, usage_pb2.OUTCOME_SERVED)


async def test_what_one_process_reserved_another_settles(tmp_path: Path) -> None:
    """Nothing of a reservation is kept outside the store: its price is found again."""
    url = f"sqlite:///{tmp_path}/store.db"
    before = open_store(url)
    async with serving(before, limit(amount=10_000_000_000)) as api:
        await api.stub.Reserve(reserve(request=counted(LONG_INPUT_TOKENS + 1, 250, terms={"processing": "batch"})))
    await before.close()

    after = open_store(url)
    async with serving(after, limit(amount=10_000_000_000)) as api:
        repeated = await api.stub.Reserve(
            reserve(request=counted(LONG_INPUT_TOKENS + 1, 250, terms={"processing": "batch"}))
        )
        assert repeated.repeated
        _, held = await balance(api)
        await api.stub.Extend(extend(wanted=10))
        assert await balance(api) == (0, held + 10 * OUTPUT_NANOS // 2)
        answer = await api.stub.Settle(settle(usage={"input": LONG_INPUT_TOKENS + 1, "output": 100}))
        assert nanos(answer.cost) == ((LONG_INPUT_TOKENS + 1) * INPUT_NANOS + 100 * OUTPUT_NANOS + 1) // 2
        assert await balance(api) == (nanos(answer.cost), 0)
        assert (await api.stub.Settle(settle())).state_before == RESERVATION_STATE_SETTLED
    await after.close()

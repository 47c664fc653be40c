"""GetBudget and ListUsage: what is asked about the money itself."""

from __future__ import annotations

import pytest

from policyd.core.policy import Action, Match, Metric
from policyd.core.record import Record
from policyd.core.windows import CalendarUnit, CalendarWindow, SlidingWindow
from policyd.v1 import policy_service_pb2 as service
from policyd.v1 import usage_pb2, verdict_pb2
from tests.api.messages import (
    ACME,
    HELD_NANOS,
    USED_NANOS,
    at_ms,
    counted,
    nanos,
    record,
    release,
    reserve,
    settle,
    time,
)
from tests.api.serving import NOW_MS, Api, failure, limit

HOUR_MS = 3_600_000


class TestGetBudget:
    @pytest.mark.parametrize(
        "limits",
        [
            (
                limit(amount=5_000_000, name="hourly", window=CalendarWindow(CalendarUnit.HOUR)),
                limit(Metric.REQUESTS, 3, name="rate", window=SlidingWindow(60)),
                limit(Metric.TOKENS, 10, name="watched", action=Action.SHADOW),
            )
        ],
    )
    async def test_tells_every_limit_with_its_balance(self, api: Api) -> None:
        await api.stub.RecordUsage(record())
        await api.stub.Reserve(reserve())
        hourly, rate, watched = (await api.stub.GetBudget(service.GetBudgetRequest(attributes=ACME))).limits
        assert (hourly.name, hourly.scope, hourly.window) == ("hourly", "project=acme", "hour")
        assert (nanos(hourly.limit), nanos(hourly.spent), nanos(hourly.reserved)) == (
            5_000_000,
            USED_NANOS,
            HELD_NANOS,
        )
        assert nanos(hourly.remaining) == 5_000_000 - USED_NANOS - HELD_NANOS
        assert nanos(hourly.requested) == 0
        assert at_ms(hourly.resets_at) == NOW_MS + HOUR_MS
        assert (rate.spent.units, rate.reserved.units, rate.remaining.units) == (1, 1, 1)
        assert (watched.action, watched.remaining.units) == (verdict_pb2.LIMIT_ACTION_SHADOW, 0)
        assert not watched.HasField("resets_at")

    async def test_of_another_scope_is_another_budget(self, api: Api) -> None:
        await api.stub.RecordUsage(record())
        (other,) = (await api.stub.GetBudget(service.GetBudgetRequest(attributes={"project": "umbrella"}))).limits
        assert nanos(other.spent) == 0

    async def test_without_attributes_is_that_of_the_defaults(self, api: Api) -> None:
        (unnamed,) = (await api.stub.GetBudget(service.GetBudgetRequest())).limits
        assert unnamed.scope == "project=default"

    @pytest.mark.parametrize(
        "limits",
        [
            (
                limit(name="of-provider", match=Match({"provider": ("openai",)})),
                limit(name="of-model", match=Match({"model": ("gpt-4o*",)})),
                limit(name="of-endpoint", match=Match({"endpoint": ("messages",)})),
            )
        ],
    )
    async def test_leaves_out_what_is_for_other_requests(self, api: Api) -> None:
        async def names(**asked: str) -> list[str]:
            request = service.GetBudgetRequest(attributes=ACME, **asked)
            return [report.name for report in (await api.stub.GetBudget(request)).limits]

        assert await names() == []
        assert await names(model="gpt-4o-mini") == ["of-model"]
        assert await names(provider="openai", endpoint="chat.completions") == ["of-provider"]
        assert await names(endpoint="messages") == ["of-endpoint"]


async def fill(api: Api, count: int) -> list[str]:
    """Records `count` usages a second apart, three at a time; returns their ids, newest first."""
    for number in range(count):
        attributes = {"project": "acme" if number % 2 else "umbrella", "user": "ann"}
        await api.stub.RecordUsage(record(f"u{number:04}", attributes=attributes))
        if number % 3 == 2:
            api.clock.ms += 1_000
    return [f"u{number:04}" for number in reversed(range(count))]


async def pages(api: Api, page_size: int, **members: object) -> list[list[str]]:
    """The ids on every page."""
    request = service.ListUsageRequest(page_size=page_size, **members)  # type: ignore[arg-type]
    listed = []
    while True:
        answer = await api.stub.ListUsage(request)
        listed.append([written.request_id for written in answer.usage_records])
        if not answer.next_page_token:
            return listed
        request.page_token = answer.next_page_token


class TestListUsage:
    @pytest.mark.parametrize("size", [1, 3, 4, 10, 11])
    async def test_pages_through_everything_once_newest_first(self, api: Api, size: int) -> None:
        ids = await fill(api, 10)
        assert await pages(api, size) == [ids[start : start + size] for start in range(0, 10, size)]

    async def test_of_nothing_is_one_empty_page(self, api: Api) -> None:
        assert await pages(api, 10) == [[]]

    async def test_stays_stable_while_more_is_recorded(self, api: Api) -> None:
        ids = await fill(api, 6)
        first = await api.stub.ListUsage(service.ListUsageRequest(page_size=3))
        api.clock.ms += 1_000
        await api.stub.RecordUsage(record("newer"))
        rest = await api.stub.ListUsage(service.ListUsageRequest(page_size=9, page_token=first.next_page_token))
        assert [written.request_id for page in (first, rest) for written in page.usage_records] == ids

    async def test_filters_by_attributes(self, api: Api) -> None:
        ids = await fill(api, 10)
        odd = [each for each in ids if int(each[1:]) % 2]
        assert await pages(api, 2, attributes={"project": "acme"}) == [odd[:2], odd[2:4], odd[4:]]
        assert await pages(api, 10, attributes={"project": "acme", "user": "ann"}) == [odd]
        assert await pages(api, 10, attributes={"user": "bob"}) == [[]]

    async def test_filters_by_time(self, api: Api) -> None:
        ids = await fill(api, 9)
        second = time(NOW_MS + 1_000)
        third = time(NOW_MS + 2_000)
        assert await pages(api, 10, from_time=second) == [ids[:6]]
        assert await pages(api, 10, until_time=third) == [ids[3:]]
        assert await pages(api, 10, from_time=second, until_time=third) == [ids[3:6]]
        assert await pages(api, 10, from_time=time(NOW_MS + 1_000, nanos=1)) == [ids[:3]]
        assert await pages(api, 10, until_time=time(NOW_MS + 1_000, nanos=1)) == [ids[3:]]

    async def test_has_a_hundred_on_a_page_and_a_thousand_at_most(self, api: Api) -> None:
        for number in range(1_001):
            await api.enforcer.end_unheld((await _some_record(api))._replace(request_id=f"r{number}"))
        assert len((await api.stub.ListUsage(service.ListUsageRequest())).usage_records) == 100
        assert len((await api.stub.ListUsage(service.ListUsageRequest(page_size=5_000))).usage_records) == 1_000

    @pytest.mark.parametrize(
        "limits", [(limit(amount=HELD_NANOS), limit(amount=1, name="watched", action=Action.SHADOW))]
    )
    async def test_shows_what_became_of_each_reservation(self, api: Api) -> None:
        await api.stub.Reserve(reserve("expired"))
        await api.stub.Reserve(reserve("denied"))
        await api.expire()
        await api.stub.Reserve(reserve("released", counted(attributes={"project": "umbrella"})))
        await api.stub.Release(release("released"))
        await api.stub.Reserve(reserve("settled", counted(attributes={"project": "umbrella"})))
        await api.stub.Settle(settle("settled"))
        answer = await api.stub.ListUsage(service.ListUsageRequest())
        listed = {written.request_id: written for written in answer.usage_records}
        assert {request_id: written.outcome for request_id, written in listed.items()} == {
            "expired": usage_pb2.OUTCOME_EXPIRED,
            "denied": usage_pb2.OUTCOME_DENIED,
            "released": usage_pb2.OUTCOME_RELEASED,
            "settled": usage_pb2.OUTCOME_SERVED,
        }
        assert list(listed["denied"].denied_by) == ["budget"]
        assert listed["denied"].decision == verdict_pb2.DECISION_DENY
        assert list(listed["settled"].shadow_denied_by) == ["watched"]
        assert nanos(listed["expired"].actual_cost) == HELD_NANOS
        assert listed["expired"].HasField("error")
        assert {request_id: written.HasField("usage") for request_id, written in listed.items()} == {
            "expired": False,
            "denied": False,
            "released": False,
            "settled": True,
        }

    async def test_a_page_token_is_good_for_the_same_question_only(self, api: Api) -> None:
        await fill(api, 4)
        first = await api.stub.ListUsage(service.ListUsageRequest(page_size=2))
        token = first.next_page_token
        for request in (
            service.ListUsageRequest(page_token=token, attributes=ACME),
            service.ListUsageRequest(page_token=token, from_time=time(NOW_MS)),
            service.ListUsageRequest(page_token=token, until_time=time(NOW_MS)),
            service.ListUsageRequest(page_token=token[:-4]),
            service.ListUsageRequest(page_token=token[:8]),
            service.ListUsageRequest(page_token="garbage ☃"),
        ):
            failed = await failure(api.stub.ListUsage(request))
            assert (failed.reason, failed.metadata["field"]) == ("FIELD_INVALID", "page_token")


async def _some_record(api: Api) -> Record:
    if not api.seen.records:
        await api.stub.RecordUsage(record())
    return api.seen.records[0]

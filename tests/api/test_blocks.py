"""Blocks and amounts that operators set, as callers of the service see them."""

from __future__ import annotations

from policyd.core.money import NANOS_PER_USD
from policyd.core.record import Outcome
from policyd.core.runtime import Block, Kind, Override, Piece
from policyd.enforcer.runtime_state import item_of
from policyd.v1 import policy_service_pb2 as service
from policyd.v1.verdict_pb2 import BLOCK_KIND_FREEZE, DECISION_ALLOW, DECISION_DENY
from tests.api.messages import ACME, at_ms, check, counted, nanos, reserve
from tests.api.serving import NOW_MS, Api, balance


async def put(api: Api, *pieces: Piece) -> None:
    await api.store.set_state([item_of(piece) for piece in pieces], now_ms=NOW_MS)


FREEZE = Block(Kind.FREEZE, "project=acme", "a loop", NOW_MS, NOW_MS + 30_000)


async def test_a_check_says_what_blocks(api: Api) -> None:
    await put(api, FREEZE)
    verdict = (await api.stub.CheckBudget(check(counted()))).verdict
    assert verdict.decision == DECISION_DENY
    assert verdict.block.kind == BLOCK_KIND_FREEZE
    assert (verdict.block.scope, verdict.block.reason) == ("project=acme", "a loop")
    assert at_ms(verdict.block.expires_at) == NOW_MS + 30_000
    assert verdict.retry_after.seconds == 30
    assert not verdict.denials
    assert not verdict.HasField("estimate")


async def test_a_reservation_is_denied_and_recorded(api: Api) -> None:
    await put(api, Block(Kind.BLOCK, "", "closed", NOW_MS))
    answer = await api.stub.Reserve(reserve())
    assert (answer.verdict.decision, answer.reservation_id) == (DECISION_DENY, "")
    assert (answer.verdict.block.scope, answer.verdict.block.reason) == ("all", "closed")
    assert not answer.verdict.HasField("retry_after")
    (record,) = api.seen.records
    assert (record.outcome, record.denied_by) == (Outcome.DENIED, ("block:all",))
    assert await balance(api) == (0, 0)


async def test_others_pass(api: Api) -> None:
    await put(api, FREEZE)
    other = service.CheckBudgetRequest(model_request=counted(attributes={"project": "zeta"}))
    assert (await api.stub.CheckBudget(other)).verdict.decision == DECISION_ALLOW


async def test_a_budget_shows_the_amount_that_applies(api: Api) -> None:
    await put(api, Override("budget", "project=acme", 7 * NANOS_PER_USD, NOW_MS))
    (report,) = (await api.stub.GetBudget(service.GetBudgetRequest(attributes=ACME))).limits
    assert (nanos(report.limit), nanos(report.remaining)) == (7 * NANOS_PER_USD, 7 * NANOS_PER_USD)

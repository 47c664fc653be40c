"""How a request is refused that falls under a block or a freeze, in each provider's own error shape."""

from __future__ import annotations

import json

import pytest

from policyd.core.policy import FailureMode
from policyd.core.record import Outcome
from policyd.core.runtime import Block, Kind
from policyd.enforcer.runtime_state import item_of
from tests.builders import NOW_MS, World, policy
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.trying_stores import failing
from tests.ext_proc.wire import chat, messages, request_headers


async def refused(world: World, block: Block, *, path: str = wire.CHAT_PATH, body: bytes | None = None) -> Envoy:
    """The exchange of a request of `ann`'s once the block is set."""
    await world.store.set_state([item_of(block)], now_ms=NOW_MS)
    envoy = Envoy(world)
    sent = body or chat()
    await envoy.request(request_headers(sent, path=path, x_policyd_user="ann"), [sent])
    await envoy.close()
    assert not envoy.upstream.body
    return envoy


async def test_by_a_block(world: World) -> None:
    envoy = await refused(world, Block(Kind.BLOCK, "user=ann", "call the office", NOW_MS))
    assert envoy.client.status == 403
    error = json.loads(envoy.client.body)["error"]
    assert error["code"] == "blocked"
    assert error["message"] == "Requests of user=ann are blocked: call the office"
    assert error["policyd"] == {
        "reason": "blocked",
        "request_id": "pd-1",
        "block": {"scope": "user=ann", "reason": "call the office", "expires_at": None},
    }
    assert envoy.client.headers["x-should-retry"] == "false"
    assert envoy.client.headers["x-policyd-decision"] == "deny"
    assert "retry-after" not in envoy.client.headers


async def test_by_a_freeze_that_ends(world: World) -> None:
    envoy = await refused(world, Block(Kind.FREEZE, "", "a loop", NOW_MS, NOW_MS + 30_000))
    assert wire.decision_fields(envoy.client.body)["reason"] == "frozen"
    assert wire.decision_fields(envoy.client.body)["block"] == {
        "scope": "all",
        "reason": "a loop",
        "expires_at": "2026-05-15T12:01:15.000Z",
    }
    assert envoy.client.headers["retry-after"] == "30"
    # Not even where the wait is short: no SDK is to try by itself what an operator has stopped.
    assert envoy.client.headers["x-should-retry"] == "false"


async def test_in_anthropics_shape(world: World) -> None:
    block = Block(Kind.BLOCK, "user=ann", "call the office", NOW_MS)
    envoy = await refused(world, block, path=wire.MESSAGES_PATH, body=messages())
    assert envoy.client.status == 403
    assert json.loads(envoy.client.body)["error"]["type"] == "permission_error"


@pytest.mark.parametrize("kind", [Kind.BLOCK, Kind.FREEZE])
async def test_the_record_names_it(world: World, kind: Kind) -> None:
    await refused(world, Block(kind, "user=ann", "call the office", NOW_MS))
    record = world.record
    assert (record.outcome, record.decision, record.status) == (Outcome.DENIED, "deny", 403)
    assert record.denied_by == (f"{kind}:user=ann",)
    assert (record.model, record.attributes["user"]) == ("gpt-4o", "ann")
    assert await world.spent() == 0


@pytest.mark.parametrize("failure_mode", FailureMode)
async def test_where_the_state_cannot_be_read_it_is_refused(failure_mode: FailureMode) -> None:
    world = World(policy(failure_mode=failure_mode), wrap=failing("state"))
    await world.store.set_state([item_of(Block(Kind.BLOCK, "user=bob", "why", NOW_MS))], now_ms=NOW_MS)
    envoy, body = Envoy(world), chat()
    await envoy.request(request_headers(body), [body])
    assert envoy.client.status == 503
    assert not envoy.upstream.body
    await envoy.close()
    assert world.record.error == "the disk is full"

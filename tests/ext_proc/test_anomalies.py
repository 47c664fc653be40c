"""Anomalies through Envoy: what a client of a request, or of a session, is told."""

from __future__ import annotations

import json

from policyd.core.anomalies import Anomaly, Repetition, SpendingVelocity
from policyd.core.policy import Refusal
from policyd.core.record import Outcome
from policyd.core.rules import RuleAction
from tests.builders import USD, World, limit, policy
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.session_rig import CREATED, USAGE, SessionRig, audio, done
from tests.ext_proc.wire import chat, request_headers

LOOP = Anomaly("loop", Repetition(2, 600), RuleAction.DENY, event_every_seconds=3600, refusal=Refusal("Enough."))


async def asked(world: World, body: bytes) -> Envoy:
    envoy = Envoy(world)
    await envoy.request(request_headers(body), [body])
    return envoy


async def test_a_repeated_request_is_refused_and_not_to_be_retried() -> None:
    world = World(policy(limit(), anomalies=(LOOP,)))
    assert (await asked(world, chat())).upstream.body
    envoy = await asked(world, chat())
    assert not envoy.upstream.body
    assert (envoy.client.status, envoy.client.headers["x-should-retry"]) == (429, "false")
    assert envoy.client.headers["x-policyd-rules"] == "anomaly:loop"
    assert json.loads(envoy.client.body)["error"]["message"] == "Enough."
    told = wire.decision_fields(envoy.client.body)
    assert (told["reason"], told["rule"]) == ("anomaly_detected", "anomaly:loop")
    (record,) = world.seen.records
    assert (record.outcome, record.denied_by, record.rules) == (Outcome.DENIED, ("anomaly:loop",), ("anomaly:loop",))
    assert (await asked(world, chat("Something else."))).upstream.body


async def test_a_session_that_spends_too_fast_is_cut() -> None:
    fast = Anomaly("fast", SpendingVelocity(USD // 1000), RuleAction.DENY, event_every_seconds=3600)
    world = World(policy(limit(), anomalies=(fast,)))
    rig = SessionRig(world)
    await rig.open()
    assert rig.refusal is None
    await rig.answer(CREATED, audio(1_500), done(USAGE))
    error = rig.client.messages[-1]["error"]
    assert (error["policyd"]["reason"], error["policyd"]["rule"]) == ("anomaly_detected", "anomaly:fast")
    assert (rig.client.close_code, rig.client.ended) == (1008, True)
    await rig.close()

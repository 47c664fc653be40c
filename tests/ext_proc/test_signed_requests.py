"""Requests that their client signed go on as they were signed, or not at all."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from policyd.core.policy import Action, Metric, Policy, Unbounded
from policyd.core.record import Outcome
from policyd.ext_proc.messages import BodyMode
from policyd.ext_proc.signing import is_signed
from tests.builders import World, limit, policy
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import chat, request_headers

SIGNED = {"x_amz_date": "20260515T120045Z"}
CONVERSE = "/model/amazon.nova-lite-v1%3A0/converse"
BOUNDED = b'{"messages":[{"role":"user","content":[{"text":"Hi"}]}],"inferenceConfig":{"maxTokens":5}}'
UNBOUNDED = b'{"messages":[{"role":"user","content":[{"text":"Hi"}]}]}'

MODES = pytest.mark.parametrize("mode", [mode for mode in BodyMode if mode is not BodyMode.NONE])


async def sent(
    body: bytes,
    *,
    mode: BodyMode = BodyMode.BUFFERED,
    under: Policy | None = None,
    path: str = CONVERSE,
    headers: Mapping[str, str] = SIGNED,
) -> tuple[Envoy, World]:
    world = World(under or policy())
    envoy = Envoy(world, request_mode=mode, provider="aws")
    await envoy.request(request_headers(body, path=path, **headers), [body])
    return envoy, world


@pytest.mark.parametrize(
    ("headers", "query", "signed"),
    [
        ({}, "", False),
        ({"x-amz-date": "20260515T120045Z"}, "", True),
        ({}, "a=1&X-Amz-Signature=0f", True),
        ({}, "a=X-Amz-Signature=0f", False),
    ],
)
def test_who_signs_says_when_or_sends_the_signature_in_the_query(
    headers: dict[str, str], query: str, signed: bool
) -> None:
    assert is_signed(headers, query) is signed


@MODES
async def test_a_signed_request_goes_on_to_the_byte(mode: BodyMode) -> None:
    envoy, _ = await sent(BOUNDED, mode=mode, path=f"{CONVERSE}?b=2&a=1")
    assert envoy.upstream.ended
    assert envoy.upstream.body == BOUNDED
    assert envoy.upstream.headers[":path"] == f"{CONVERSE}?b=2&a=1"


@MODES
@pytest.mark.parametrize(
    ("body", "under", "path", "advice"),
    [
        (
            UNBOUNDED,
            policy(unbounded=Unbounded.SET_MAXIMUM, default_max_output_tokens=25),
            CONVERSE,
            "give a maximum of at most 25 output tokens",
        ),
        (b'{"tier":"free",' + BOUNDED[1:], policy(), CONVERSE, "leave out tier"),
        (chat(stream=True, max_tokens=5), policy(), "/v1/chat/completions", "ask for usage in the stream"),
        (BOUNDED, policy(), f"{CONVERSE}?project_id=apollo", "send identity in headers"),
    ],
)
async def test_what_policy_would_have_to_change_is_refused_with_advice_and_costs_nothing(
    mode: BodyMode, body: bytes, under: Policy, path: str, advice: str
) -> None:
    envoy, world = await sent(body, mode=mode, under=under, path=path)
    await envoy.close()
    assert envoy.client.status == 400
    assert envoy.upstream.body == b""
    assert b'"reason":"request_signed"' in envoy.client.body
    assert advice in envoy.client.body.decode()
    assert (world.record.outcome, world.record.error) == (Outcome.REJECTED, "request_signed")
    assert await world.spent() == 0
    # It is the signature that is in the way.
    unsigned, _ = await sent(body, mode=mode, under=under, path=path, headers={})
    assert unsigned.upstream.ended


@MODES
async def test_a_limit_that_would_clamp_refuses_it(mode: BodyMode) -> None:
    under = policy(limit(Metric.OUTPUT_TOKENS, 4, action=Action.CLAMP))
    envoy, world = await sent(BOUNDED, mode=mode, under=under)
    assert envoy.client.status == 402
    assert world.record.denied_by == ("budget",)
    unsigned, _ = await sent(BOUNDED, mode=mode, under=under, headers={})
    assert unsigned.upstream.body == BOUNDED.replace(b":5}", b":4}")


async def test_a_free_endpoint_is_refused_too_where_its_query_would_have_to_change() -> None:
    envoy, _ = await sent(b"{}", path="/model/amazon.nova-lite-v1%3A0/count-tokens?project_id=apollo")
    assert envoy.client.status == 400


@pytest.mark.parametrize(
    ("asked", "passed"), [({}, "identity"), ({"accept_encoding": "gzip"}, "gzip")], ids=["unsaid", "said"]
)
async def test_the_encoding_that_a_signature_may_cover_is_left_as_it_is(asked: dict[str, str], passed: str) -> None:
    envoy, _ = await sent(BOUNDED, headers=SIGNED | asked)
    assert envoy.upstream.headers["accept-encoding"] == passed


async def test_identity_is_stripped_from_its_headers_all_the_same() -> None:
    envoy, _ = await sent(BOUNDED, headers=SIGNED | {"x_policyd_project": "apollo"})
    assert envoy.upstream.ended
    assert "x-policyd-project" not in envoy.upstream.headers

"""What limits change in a request that does not fit: what goes upstream, what the client is told, what is charged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from policyd.core.policy import Action, FailureMode, Match, Metric
from policyd.core.record import Outcome
from policyd.core.usage import Usage
from policyd.ext_proc.messages import BodyMode, Effect
from tests.builders import World, limit, policy, price_of
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import chat, messages, reply_headers, request_headers

READABLE = [mode for mode in BodyMode if mode is not BodyMode.NONE]

CLAMP = limit(Metric.OUTPUT_TOKENS, 60, name="short", action=Action.CLAMP, min_output_tokens=20)
SWITCH = limit(
    amount=1, name="dear", match=Match({"model": ("gpt-4o",)}), action=Action.SWITCH_MODEL, switch_to="gpt-4o-mini"
)
WARN = limit(amount=1, name="soft", action=Action.WARN)


def broken(*_: object, **__: object) -> list[Effect]:
    raise ValueError("a defect")


async def answered(envoy: Envoy, body: bytes) -> None:
    await envoy.response(reply_headers(length=len(body)), [body])
    await envoy.close()


@pytest.mark.parametrize("mode", READABLE)
class TestClamp:
    async def test_a_clients_maximum_is_lowered(self, mode: BodyMode) -> None:
        world = World(policy(CLAMP))
        envoy = Envoy(world, request_mode=mode)
        body = chat(max_tokens=1000, temperature=0.5)
        await envoy.request(request_headers(body), [body])
        assert envoy.upstream.body == body.replace(b"1000", b"60")
        await answered(envoy, wire.chat_reply())
        told = envoy.client.headers
        assert (told["x-policyd-clamped-by"], told["x-policyd-max-output-tokens"]) == ("short", "60")
        assert told["x-policyd-estimated-output-tokens"] == "60"
        assert (world.record.outcome, world.record.clamped_by) == (Outcome.SERVED, ("short",))
        assert await world.spent("short") == wire.CHAT_USED.output

    async def test_what_cannot_be_changed_by_a_defect_never_passes_as_it_was(
        self, monkeypatch: pytest.MonkeyPatch, mode: BodyMode
    ) -> None:
        """Not under `failure_mode: open` either: it was held for as it would have been changed."""
        world = World(policy(CLAMP, failure_mode=FailureMode.OPEN))
        envoy = Envoy(world, request_mode=mode)
        monkeypatch.setattr("policyd.ext_proc.request.RequestSide.forward", broken)
        body = chat(max_tokens=1000)
        await envoy.request(request_headers(body), [body])
        assert envoy.client.status == 503
        assert not envoy.upstream.body
        await envoy.close()
        assert world.record.outcome is Outcome.FAILED
        assert await world.spent("short") == 0
        assert (await world.books()).open_reservations == 0

    async def test_a_request_without_a_maximum_is_given_one(self, mode: BodyMode) -> None:
        envoy = Envoy(World(policy(CLAMP)), request_mode=mode)
        body = chat()
        await envoy.request(request_headers(body), [body])
        assert json.loads(envoy.upstream.body)["max_completion_tokens"] == 60
        await answered(envoy, wire.chat_reply())

    async def test_too_little_is_left(self, mode: BodyMode) -> None:
        world = World(policy(replace(CLAMP, amount=19)))
        envoy = Envoy(world, request_mode=mode)
        body = chat(max_tokens=1000)
        await envoy.request(request_headers(body), [body])
        assert envoy.client.status == 402
        assert not envoy.upstream.body
        (told,) = wire.decision_fields(envoy.client.body)["limits"]
        assert (told["name"], told["requested"], told["remaining"]) == ("short", 1000, 19)
        assert "x-policyd-clamped-by" not in envoy.client.headers
        assert world.record.denied_by == ("short",)


async def test_an_anthropic_request_is_clamped() -> None:
    envoy = Envoy(World(policy(CLAMP)))
    body = messages()
    await envoy.request(request_headers(body, path=wire.MESSAGES_PATH), [body])
    assert envoy.upstream.body == body.replace(b'"max_tokens":100', b'"max_tokens":60')
    await answered(envoy, wire.message_reply())


@pytest.mark.parametrize("mode", READABLE)
class TestSwitch:
    async def test_the_cheaper_model_serves(self, mode: BodyMode) -> None:
        world = World(policy(SWITCH, limit()))
        envoy = Envoy(world, request_mode=mode)
        body = chat(max_tokens=100, stream=True)
        await envoy.request(request_headers(body), [body])
        forwarded = json.loads(envoy.upstream.body)
        # Beside the edits that every stream gets.
        assert forwarded == json.loads(body) | {"model": "gpt-4o-mini", "stream_options": {"include_usage": True}}
        stream = [event.replace(b"gpt-4o-2024-08-06", b"gpt-4o-mini-2024-07-18") for event in wire.chat_stream()]
        await envoy.response(wire.SSE, stream)
        await envoy.close()
        told = envoy.client.headers
        assert (told["x-policyd-switched-by"], told["x-policyd-model"]) == ("dear", "gpt-4o-mini")
        record = world.record
        assert (record.model, record.requested_model, record.switched_by) == ("gpt-4o-mini", "gpt-4o", ("dear",))
        assert record.response_model == "gpt-4o-mini-2024-07-18"
        assert await world.spent() == price_of("gpt-4o-mini").cost_nanos(wire.CHAT_USED)

    async def test_a_model_in_the_path_stays(self, mode: BodyMode) -> None:
        world = World(policy(replace(SWITCH, match=Match(), switch_to="gemini-2.5-flash-lite")))
        envoy = Envoy(world, request_mode=mode)
        body = wire.to_json({"contents": [{"parts": [{"text": "Hi."}]}], "model": "gemini-2.5-pro"})
        path = "/v1beta/models/gemini-2.5-pro:generateContent"
        await envoy.request(request_headers(body, path=path), [body])
        assert envoy.client.status == 402
        assert (world.record.denied_by, world.record.requested_model) == (("dear",), None)


async def test_what_the_switched_model_is_held_is_what_its_provider_may_charge() -> None:
    world = World(policy(SWITCH, limit()))
    envoy = Envoy(world)
    body = chat(max_tokens=100)
    await envoy.request(request_headers(body), [body])
    held = int(envoy.exchange._verdict.record.maximum.input_tokens)  # type: ignore[union-attr]
    assert (await world.books()).reserved["budget"] == price_of("gpt-4o-mini").cost_nanos(Usage(input=held, output=100))
    await answered(envoy, wire.chat_reply())


async def test_a_warning_is_told_and_lets_pass() -> None:
    world = World(policy(WARN, replace(WARN, name="soft-too")))
    envoy = Envoy(world)
    body = chat()
    await envoy.request(request_headers(body), [body])
    assert envoy.upstream.body == body
    await answered(envoy, wire.chat_reply())
    assert envoy.client.headers["x-policyd-warned-by"] == "soft, soft-too"
    assert envoy.client.headers["x-policyd-decision"] == "allow"
    assert (world.record.warned_by, world.record.denied_by) == (("soft", "soft-too"), ())

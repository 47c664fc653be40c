"""The request's side: what is forwarded and what is refused, in every mode that Envoy can show a body in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest

from policyd.core.errors import AttributeMissing
from policyd.core.policy import FailureMode, Metric, Policy, Unbounded, UnknownEndpoint
from policyd.core.record import Outcome
from policyd.core.usage import Usage
from policyd.ext_proc import messages as m
from policyd.ext_proc.messages import BodyMode
from policyd.ext_proc.request import decimal
from policyd.ext_proc.settings import ExchangeSettings
from tests.builders import World, limit, policy, price_of
from tests.ext_proc import wire
from tests.ext_proc.by_hand import ByHand, denied
from tests.ext_proc.envoy_model import BUFFER_BYTES_MAX, Envoy
from tests.ext_proc.wire import chat, effect_names, messages, request_headers

READABLE = [mode for mode in BodyMode if mode is not BodyMode.NONE]
"""The modes in which policyd sees a body."""

FULL_DUPLEX = BodyMode.FULL_DUPLEX_STREAMED

PRICE = price_of("gpt-4o")

DEFECTS_BEFORE_IT_IS_DECIDED = (
    "policyd.tokens.counter.TokenCounter.count_prompt",
    "policyd.enforcer.deciding.entries",
    "policyd.enforcer.deciding.verdict_on",  # it is held by then
)


class Panic(BaseException):
    """What a library of Rust raises, and no `Exception`."""


class TestEffects:
    """What each outcome makes of a withheld request, effect by effect."""

    @pytest.mark.parametrize(
        ("mode", "at_headers", "at_first_piece"),
        [
            (BodyMode.BUFFERED, ["HeadersReply"], None),
            (BodyMode.BUFFERED_PARTIAL, ["HeadersReply"], None),
            (BodyMode.STREAMED, ["HeadersReply"], ["BodyReply"]),
            (FULL_DUPLEX, [], []),
            (BodyMode.NONE, ["ImmediateReply", "Report"], None),
        ],
    )
    def test_until_the_body_is_whole(
        self, mode: BodyMode, at_headers: list[str], at_first_piece: list[str] | None
    ) -> None:
        it = ByHand(request_mode=mode)
        assert effect_names(it.receive(it.headers())) == at_headers
        if at_first_piece is not None:
            assert effect_names(it.receive(m.RequestBody(b"{", end_of_stream=False))) == at_first_piece

    @pytest.mark.parametrize("mode", READABLE)
    @pytest.mark.parametrize(
        ("outcome", "replies", "concluded"),
        [
            ("allowed", "forwarded", []),
            ("denied", "answered", ["Report"]),
            ("rejected", "answered", ["Report"]),
            ("failed closed", "answered", ["Report"]),
            ("failed open", "forwarded", []),
        ],
    )
    def test_once_it_is_decided(self, mode: BodyMode, outcome: str, replies: str, concluded: list[str]) -> None:
        failure_mode = FailureMode.OPEN if outcome == "failed open" else FailureMode.CLOSED
        it = ByHand(World(policy(failure_mode=failure_mode)), request_mode=mode)
        it.receive(it.headers(), m.RequestBody(chat(), end_of_stream=True))
        match outcome:
            case "allowed":
                it.receive(it.decided())
            case "denied":
                it.receive(m.Decided(denied(it.decided().verdict)))
            case "rejected":
                it.receive(m.Rejected(AttributeMissing("who are you")))
            case _:
                it.receive(m.Failed("StoreUnavailable"))
                if failure_mode is FailureMode.OPEN:
                    assert effect_names(it.effects) == ["ChargeMaximum"]
                    it.receive(m.Ended(it.verdict().record))
        forwarded = ["HeadersReply", "StreamedBody"] if mode is FULL_DUPLEX else ["BodyReply"]
        expected = forwarded if replies == "forwarded" else ["ImmediateReply"]
        assert effect_names(it.effects) == [*expected, *concluded]


def pieces(body: bytes) -> list[bytes]:
    """The body as it may come in; buffered it comes whole all the same."""
    return [body[:7], b"", body[7:30], body[30:]]


@pytest.mark.parametrize("mode", READABLE)
class TestOutcomes:
    async def test_allowed(self, world: World, mode: BodyMode) -> None:
        envoy = Envoy(world, request_mode=mode)
        body = chat(max_tokens=20)
        await envoy.request(request_headers(body), pieces(body))
        assert envoy.upstream.ended
        assert envoy.upstream.body == body
        assert envoy.upstream.headers["accept-encoding"] == "identity"
        await envoy.response(wire.reply_headers(), [wire.chat_reply()])
        await envoy.close()
        assert world.record.outcome is Outcome.SERVED
        assert await world.spent() == world.record.actual_cost_nanos

    async def test_denied(self, mode: BodyMode) -> None:
        world = World(policy(limit(amount=1)))
        envoy = Envoy(world, request_mode=mode)
        body = chat()
        await envoy.request(request_headers(body), pieces(body))
        await envoy.close()
        assert envoy.client.status == 402
        assert wire.decision_fields(envoy.client.body)["reason"] == "budget_exceeded"
        assert envoy.client.headers["x-policyd-decision"] == "deny"
        assert envoy.client.headers["content-type"] == "application/json"
        assert envoy.client.headers["x-should-retry"] == "false"
        assert not envoy.upstream.body
        assert (world.record.outcome, world.record.decision, world.record.status) == (Outcome.DENIED, "deny", 402)
        assert world.record.denied_by == ("budget",)
        assert await world.spent() == 0

    async def test_rejected_by_the_enforcer(self, mode: BodyMode) -> None:
        world = World(policy(unbounded=Unbounded.DENY))
        envoy = Envoy(world, request_mode=mode)
        body = chat()
        await envoy.request(request_headers(body), pieces(body))
        await envoy.close()
        assert envoy.client.status == 400
        assert wire.decision_fields(envoy.client.body) == {"reason": "output_unbounded", "request_id": "pd-1"}
        assert not envoy.upstream.body
        assert (world.record.outcome, world.record.error) == (Outcome.REJECTED, "output_unbounded")
        assert world.record.model == "gpt-4o"

    @pytest.mark.parametrize("failure_mode", FailureMode)
    async def test_failed(self, mode: BodyMode, failure_mode: FailureMode) -> None:
        world = World(policy(failure_mode=failure_mode))
        await world.store.close()
        envoy = Envoy(world, request_mode=mode)
        body = chat(stream=True)
        await envoy.request(request_headers(body, x_policyd_user="ann"), pieces(body))
        # Whatever the mode: nothing keeps the charge.
        assert envoy.client.status == 503
        assert envoy.client.headers["retry-after"] == "1"
        assert "x-should-retry" not in envoy.client.headers
        assert wire.decision_fields(envoy.client.body)["reason"] == "policy_unavailable"
        assert not envoy.upstream.body
        assert (world.record.outcome, world.record.decision) == (Outcome.FAILED, "deny")
        assert world.record.error == "the store is closed"
        await envoy.close()

    @pytest.mark.parametrize("kind", [ValueError, Panic])
    @pytest.mark.parametrize("what", DEFECTS_BEFORE_IT_IS_DECIDED)
    async def test_a_defect_where_the_policy_lets_pass(
        self, monkeypatch: pytest.MonkeyPatch, mode: BodyMode, what: str, kind: type[BaseException]
    ) -> None:
        """It passes, its reply is not read, and it is charged the most that it can cost."""
        world = World(policy(failure_mode=FailureMode.OPEN))
        envoy = Envoy(world, request_mode=mode)
        monkeypatch.setattr(what, Mock(side_effect=kind("a defect")))
        body = chat(stream=True, max_tokens=20)
        await envoy.request(request_headers(body, x_policyd_user="ann"), pieces(body))
        assert envoy.upstream.body == body
        assert "x-policyd-user" not in envoy.upstream.headers
        await envoy.response(wire.SSE, wire.chat_stream())
        assert envoy.client.body == b"".join(wire.chat_stream())
        await envoy.close()
        record = world.record
        assert (record.outcome, record.decision, record.error) == (Outcome.UNMETERED, "allow", kind.__name__)
        assert record.usage is not None
        # Where nothing can count it, every byte is taken for a token.
        assert record.usage.input == (len(body) if "counter" in what else 10)
        assert record.usage.output == 20
        assert await world.spent() == record.actual_cost_nanos == PRICE.cost_nanos(record.usage)
        assert world.enforcer.open_reservations == (await world.books()).open_reservations == 0

    async def test_not_json(self, world: World, mode: BodyMode) -> None:
        envoy = Envoy(world, request_mode=mode)
        await envoy.request(request_headers(b"hello world"), [b"hello", b" world"])
        await envoy.close()
        assert envoy.client.status == 400
        error = json.loads(envoy.client.body)["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"].startswith("the body is not JSON")
        assert error["policyd"] == {"reason": "body_unreadable", "request_id": "pd-1"}
        assert not envoy.upstream.body
        assert (world.record.outcome, world.record.status) == (Outcome.REJECTED, 400)

    async def test_not_json_for_anthropic(self, world: World, mode: BodyMode) -> None:
        envoy = Envoy(world, request_mode=mode)
        await envoy.request(request_headers(b"[1]", path=wire.MESSAGES_PATH), [b"[1]"])
        document = json.loads(envoy.client.body)
        assert envoy.client.status == 400
        assert document["type"] == "error"
        assert document["error"]["type"] == "invalid_request_error"
        assert document["error"]["message"] == "the body has to be a JSON object"

    async def test_a_body_that_says_that_it_is_too_large(self, world: World, mode: BodyMode) -> None:
        envoy = Envoy(world, request_mode=mode, settings=ExchangeSettings(request_body_bytes_max=100))
        await envoy.request(request_headers(b"x" * 101), [b"x" * 101])
        assert envoy.client.status == 413
        assert wire.decision_fields(envoy.client.body)["reason"] == "body_too_large"
        # Refused at the headers: not a byte of the body was asked for.
        assert effect_names(envoy.replies) == ["ImmediateReply"]

    async def test_a_body_that_grows_too_large(self, world: World, mode: BodyMode) -> None:
        envoy = Envoy(world, request_mode=mode, settings=ExchangeSettings(request_body_bytes_max=100))
        headers = request_headers(b"")
        del headers["content-length"]
        await envoy.request(headers, [b"x" * 60, b"x" * 60, b"x" * 60])
        assert envoy.client.status == 413
        assert (world.record.outcome, world.record.error) == (Outcome.REJECTED, "body_too_large")

    async def test_a_body_as_large_as_allowed(self, world: World, mode: BodyMode) -> None:
        body = chat()
        envoy = Envoy(world, request_mode=mode, settings=ExchangeSettings(request_body_bytes_max=len(body)))
        await envoy.request(request_headers(body), [body])
        assert envoy.upstream.body == body

    async def test_without_a_body(self, world: World, mode: BodyMode) -> None:
        envoy = Envoy(world, request_mode=mode)
        await envoy.request(request_headers())
        assert envoy.client.status == 400
        assert "no body" in json.loads(envoy.client.body)["error"]["message"]

    async def test_a_compressed_body(self, world: World, mode: BodyMode) -> None:
        body = gzip.compress(chat())
        envoy = Envoy(world, request_mode=mode)
        await envoy.request(request_headers(body, content_encoding="gzip"), [body])
        assert envoy.client.status == 400
        assert "compressed" in json.loads(envoy.client.body)["error"]["message"]

    async def test_an_upgrade(self, world: World, mode: BodyMode) -> None:
        body = chat()
        envoy = Envoy(world, request_mode=mode)
        await envoy.request(request_headers(body, upgrade="websocket", connection="upgrade"), [body])
        assert envoy.client.status == 400
        assert "upgrade" in json.loads(envoy.client.body)["error"]["message"]
        assert not envoy.upstream.body

    async def test_trailers(self, world: World, mode: BodyMode) -> None:
        envoy = Envoy(world, request_mode=mode)
        body = chat()
        await envoy.request(request_headers(body), [body], trailers=True)
        if mode is BodyMode.BUFFERED:
            assert envoy.upstream.body == body
            assert envoy.upstream.ended
        else:
            # A body that trailers end never says that it is whole.
            assert envoy.client.status == (413 if mode is BodyMode.BUFFERED_PARTIAL else 400)
            assert not envoy.upstream.body
        await envoy.close()

    async def test_a_free_endpoint_passes(self, world: World, mode: BodyMode) -> None:
        envoy = Envoy(world, request_mode=mode)
        body = b'{"input": "anything at all"}'
        headers = request_headers(body, path="/v1/moderations?project_id=acme", x_policyd_project="acme")
        await envoy.request(headers, [body])
        assert envoy.upstream.body == body
        assert envoy.upstream.headers[":path"] == "/v1/moderations"
        assert "x-policyd-project" not in envoy.upstream.headers
        await envoy.response(wire.reply_headers(length=2), [b"{}"])
        await envoy.close()
        assert envoy.client.body == b"{}"
        assert (world.record.outcome, world.record.endpoint) == (Outcome.UNMETERED, "moderations")
        assert await world.spent() == 0
        assert world.seen.store_calls[0] == ("append", False)

    @pytest.mark.parametrize("action", UnknownEndpoint)
    async def test_an_unknown_endpoint(self, mode: BodyMode, action: UnknownEndpoint) -> None:
        world = World(policy(unknown_endpoint=action))
        envoy = Envoy(world, request_mode=mode)
        body = b'{"model": "gpt-4o"}'
        await envoy.request(request_headers(body, path="/v1/fine_tuning/jobs"), [body])
        await envoy.close()
        if action is UnknownEndpoint.PASS:
            assert envoy.upstream.body == body
            assert world.record.outcome is Outcome.UNMETERED
        else:
            assert envoy.client.status == 404
            assert wire.decision_fields(envoy.client.body)["reason"] == "endpoint_unknown"
            assert (world.record.outcome, world.record.provider) == (Outcome.REJECTED, "openai")


@pytest.mark.parametrize("path", ["/v1/chat%2Fcompletions", "/v1//chat/completions", "/v1/chat/completions;v=1"])
async def test_another_spelling_of_an_endpoint_that_costs_is_refused_even_where_unknown_ones_pass(path: str) -> None:
    envoy = Envoy(World(policy(unknown_endpoint=UnknownEndpoint.PASS)))
    await envoy.request(request_headers(chat(), path=path), [chat()])
    assert envoy.client.status == 404
    assert wire.decision_fields(envoy.client.body)["reason"] == "endpoint_unknown"


async def forwarded(
    mode: BodyMode, policy: Policy, body: bytes, chunks: Sequence[bytes] | None = None, **headers: str
) -> Envoy:
    """What goes upstream of a request that is allowed."""
    envoy = Envoy(World(policy), request_mode=mode)
    await envoy.request(request_headers(body, **headers), chunks or [body])
    assert envoy.upstream.ended, envoy.client
    return envoy


@pytest.mark.parametrize("mode", READABLE)
class TestEdits:
    async def test_nothing_is_changed_without_need(self, mode: BodyMode) -> None:
        body = (
            b' {"model" : "gpt-4o",\r\n"messages":[{"role":"user","content":"caf\\u00e9 \xc3\xa9"}], "seed": 1e2 } \n'
        )
        envoy = await forwarded(mode, policy(), body)
        assert envoy.upstream.body == body
        if mode is BodyMode.BUFFERED:
            # Nor is it sent back to Envoy.
            assert envoy.replies[-1] == m.BodyReply(response=False)

    async def test_usage_is_asked_for(self, mode: BodyMode) -> None:
        body = chat(stream=True)
        envoy = await forwarded(mode, policy(), body)
        assert envoy.upstream.body == body.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)

    async def test_usage_that_is_asked_for_already(self, mode: BodyMode) -> None:
        body = chat(stream=True, stream_options={"include_usage": True})
        assert (await forwarded(mode, policy(), body)).upstream.body == body

    async def test_a_maximum_is_set(self, mode: BodyMode) -> None:
        body = chat()
        sets = policy(unbounded=Unbounded.SET_MAXIMUM, default_max_output_tokens=50)
        envoy = await forwarded(mode, sets, body)
        assert envoy.upstream.body == body.replace(b"{", b'{"max_completion_tokens":50,', 1)

    async def test_a_maximum_of_the_clients_own_stays(self, mode: BodyMode) -> None:
        body = chat(max_tokens=5000)
        sets = policy(unbounded=Unbounded.SET_MAXIMUM, default_max_output_tokens=50)
        assert (await forwarded(mode, sets, body)).upstream.body == body

    async def test_identity_is_stripped(self, mode: BodyMode) -> None:
        body = chat(tier="gold", user="ann", stream=True)
        envoy = await forwarded(
            mode,
            policy(),
            body,
            path=f"{wire.CHAT_PATH}?a=1&project_id=acme&b=%20&project_id=other",
            x_policyd_project="acme",
            x_policyd_user="bob",
            x_other="kept",
        )
        upstream = envoy.upstream
        assert upstream.headers[":path"] == f"{wire.CHAT_PATH}?a=1&b=%20"
        assert not [name for name in upstream.headers if name.startswith("x-policyd-")]
        assert upstream.headers["x-other"] == "kept"
        stripped = chat(user="ann", stream=True)
        assert upstream.body == stripped.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)

    async def test_identity_is_attributed(self, mode: BodyMode) -> None:
        world = World()
        body = chat(tier="gold", user="ann")
        envoy = Envoy(world, request_mode=mode)
        await envoy.request(request_headers(body, path=f"{wire.CHAT_PATH}?project_id=acme"), [body])
        await envoy.close()
        assert world.record.attributes == {"project": "acme", "user": "ann", "tier": "gold"}

    async def test_a_long_body(self, mode: BodyMode) -> None:
        body = chat("word " * 40_000, stream=True)
        envoy = await forwarded(mode, policy(limit(Metric.REQUESTS, 1)), body, [body[:100_000], body[100_000:]])
        assert envoy.upstream.body == body.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)


async def test_a_body_over_envoys_buffer_is_answered_by_envoy(world: World) -> None:
    envoy = Envoy(world)
    body = chat("x" * BUFFER_BYTES_MAX)
    await envoy.request(request_headers(body), [body])
    await envoy.close()
    assert (envoy.client.status, envoy.client.body) == (413, b"Payload Too Large")
    assert (world.record.outcome, world.record.status) == (Outcome.REJECTED, 413)
    assert await world.spent() == 0


@pytest.mark.parametrize("failure_mode", FailureMode)
async def test_a_reply_of_envoys_own_before_any_request(failure_mode: FailureMode) -> None:
    world = World(policy(failure_mode=failure_mode))
    envoy = Envoy(world)
    await envoy.response({":status": "401"}, [b"who are you"])
    await envoy.close()
    assert (envoy.client.status, envoy.client.body) == (401, b"who are you")
    assert (world.record.outcome, world.record.status) == (Outcome.REJECTED, 401)


async def test_a_provider_that_answers_before_the_body_is_whole(world: World) -> None:
    """The headers of a STREAMED request are upstream already."""
    it = ByHand(world, request_mode=BodyMode.STREAMED)
    it.receive(it.headers(), m.RequestBody(b"{", end_of_stream=False))
    effects = it.receive(m.ResponseHeaders({":status": "401"}, end_of_stream=False))
    assert effect_names(effects) == ["HeadersReply", "Report"]


async def test_a_body_over_the_buffer_of_buffered_partial_is_refused(world: World) -> None:
    envoy = Envoy(world, request_mode=BodyMode.BUFFERED_PARTIAL)
    body = chat("x" * BUFFER_BYTES_MAX)
    await envoy.request(request_headers(body), [body])
    assert envoy.client.status == 413
    assert "Envoy's buffer" in json.loads(envoy.client.body)["error"]["message"]


@pytest.mark.parametrize(
    ("request_mode", "response_mode"),
    [(BodyMode.NONE, BodyMode.STREAMED), (BodyMode.BUFFERED, BodyMode.NONE), (BodyMode.NONE, BodyMode.NONE)],
)
class TestWithoutBodies:
    async def test_a_metered_request_is_refused(
        self, world: World, request_mode: BodyMode, response_mode: BodyMode
    ) -> None:
        envoy = Envoy(world, request_mode=request_mode, response_mode=response_mode)
        body = chat()
        await envoy.request(request_headers(body), [body])
        assert envoy.client.status == 500
        assert wire.decision_fields(envoy.client.body)["reason"] == "misconfigured"
        assert (world.record.outcome, world.record.decision) == (Outcome.FAILED, "deny")

    async def test_a_free_one_passes(self, world: World, request_mode: BodyMode, response_mode: BodyMode) -> None:
        envoy = Envoy(world, request_mode=request_mode, response_mode=response_mode)
        await envoy.request(request_headers(path="/v1/models", method="GET"))
        await envoy.response(wire.reply_headers(), [b"{}"])
        assert envoy.client.body == b"{}"


@pytest.mark.parametrize("allow_mode_override", [True, False])
@pytest.mark.parametrize("response_mode", list(BodyMode))
@pytest.mark.parametrize("request_mode", list(BodyMode))
async def test_a_free_endpoint_passes_whatever_envoy_shows(
    world: World, request_mode: BodyMode, response_mode: BodyMode, allow_mode_override: bool
) -> None:
    envoy = Envoy(
        world, request_mode=request_mode, response_mode=response_mode, allow_mode_override=allow_mode_override
    )
    body = b'{"input": "anything at all"}'
    await envoy.request(request_headers(body, path="/v1/moderations"), [body[:10], body[10:]], trailers=True)
    await envoy.response(wire.reply_headers(length=4), [b"{ ", b" }"], trailers=True)
    await envoy.close()
    assert envoy.upstream.body == body
    assert envoy.client.body == b"{  }"
    assert await world.spent() == 0


async def test_a_body_in_full_duplex_goes_in_pieces(world: World) -> None:
    envoy = Envoy(world, request_mode=FULL_DUPLEX)
    body = chat("x" * 200_000, max_tokens=1)
    await envoy.request(request_headers(body), [body])
    sizes = [len(reply.body) for reply in envoy.replies if isinstance(reply, m.StreamedBody)]
    assert envoy.upstream.body == body
    assert len(sizes) == 4
    assert max(sizes) == 65_536


def broken(body: bytes, *_: Any, **__: Any) -> bytes:
    raise ValueError("a defect")


@pytest.mark.parametrize("mode", READABLE)
@pytest.mark.parametrize("failure_mode", FailureMode)
async def test_a_defect_after_the_hold_returns_it_or_charges_it(
    monkeypatch: pytest.MonkeyPatch, mode: BodyMode, failure_mode: FailureMode
) -> None:
    world = World(policy(failure_mode=failure_mode))
    envoy = Envoy(world, request_mode=mode)
    monkeypatch.setattr("policyd.providers.openai.chat.OpenAIChat.edit_request", broken)
    body = chat()
    await envoy.request(request_headers(body), [body[:9], body[9:]])
    await envoy.close()
    if failure_mode is not FailureMode.OPEN:
        assert envoy.client.status == 503
        assert (world.record.outcome, world.record.decision, world.record.status) == (Outcome.FAILED, "deny", 503)
        assert await world.spent() == 0
    else:
        assert envoy.upstream.body == body
        assert (world.record.outcome, world.record.decision) == (Outcome.UNMETERED, "allow")
        assert await world.spent() == PRICE.cost_nanos(Usage(input=10, output=4096))
    assert world.record.error == "ValueError"


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, FULL_DUPLEX])
@pytest.mark.parametrize("failure_mode", FailureMode)
def test_a_failure_amid_the_body_is_refused(mode: BodyMode, failure_mode: FailureMode) -> None:
    """Whatever the mode: nobody knows yet what it would be charged."""
    it = ByHand(World(policy(failure_mode=failure_mode)), request_mode=mode)
    body = chat()
    refusal, report = it.receive(it.headers(body), m.RequestBody(body[:5], end_of_stream=False), m.Failed("a defect"))
    assert isinstance(refusal, m.ImmediateReply)
    assert refusal.status == 503
    assert isinstance(report, m.Report)
    assert it.receive(m.RequestBody(body[5:], end_of_stream=True)) == []


@pytest.mark.parametrize(
    ("path", "provider", "expected"),
    [
        (wire.CHAT_PATH, None, "openai"),
        ("/groq/openai/v1/chat/completions", None, "groq"),
        (wire.CHAT_PATH, "mistral", "mistral"),
        (wire.MESSAGES_PATH, None, "anthropic"),
    ],
)
async def test_who_serves(world: World, path: str, provider: str | None, expected: str) -> None:
    envoy = Envoy(world, provider=provider)
    body = messages() if path is wire.MESSAGES_PATH else chat()
    await envoy.request(request_headers(body, path=path), [body])
    await envoy.close()
    assert world.record.provider == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("17", 17), ("9" * 15, 10**15 - 1), ("9" * 16, -1), ("", -1), ("-1", -1), ("1.0", -1), ("\u0663", -1)],
)
def test_a_number_in_a_header(text: str, number: int) -> None:
    assert decimal(text, otherwise=-1) == number


HOSTILE = [
    ("more parameters than are read", {"path": f"{wire.CHAT_PATH}?{'a&' * 2000}"}, chat(), 400),
    ("a path that is not UTF-8", {"path": "/v1/\udcff"}, chat(), 404),
    ("an attribute that is not UTF-8", {"x_policyd_user": "\udcff"}, chat(), 400),
    ("an endless attribute", {"x_policyd_user": "a" * 257}, chat(), 400),
    ("no path", {"path": ""}, chat(), 404),
    ("an endless model", {}, chat(model="m" * 257), 400),
    ("a model with control characters", {}, chat(model="gpt-4o\n"), 400),
    ("a contradiction", {}, chat().replace(b"{", b'{"model":"gpt-3.5-turbo",', 1), 400),
    ("an escaped contradiction", {}, chat()[:-1] + b',"m\\u006fdel":"x"}', 400),
    ("nesting without end", {}, chat()[:-1] + b',"a":' + b"[" * 100_000, 400),
    ("a model that is half a character", {}, chat(model="m").replace(b'"m"', b'"\\ud800"'), 400),
]


@pytest.mark.parametrize("failure_mode", FailureMode)
@pytest.mark.parametrize(("headers", "body", "status"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
async def test_what_a_client_sends_is_never_a_failure_of_policyd(
    headers: dict[str, str], body: bytes, status: int, failure_mode: FailureMode
) -> None:
    """Else a client could pass unmetered wherever the policy says `failure_mode: open`."""
    world = World(policy(limit(Metric.REQUESTS, 1, per=("model", "user")), failure_mode=failure_mode))
    envoy = Envoy(world)
    await envoy.request(request_headers(body, **headers), [body])
    await envoy.close()
    assert envoy.client.status == status
    assert wire.decision_fields(envoy.client.body)["request_id"] == "pd-1"
    assert not envoy.upstream.body
    assert world.record.outcome is Outcome.REJECTED

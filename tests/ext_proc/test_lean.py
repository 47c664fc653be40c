"""An exchange in one message: the lean profile's request, by hand and as Envoy's bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import pytest
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from policyd.core.api_keys import format_key
from policyd.core.errors import BodyUnreadable, ProtocolError
from policyd.core.policy import ApiKeys, FailureMode, Unbounded, UnknownEndpoint
from policyd.core.record import Outcome
from policyd.core.runtime import ApiKey
from policyd.ext_proc import lean
from policyd.ext_proc import messages as m
from policyd.ext_proc.codec import Decoder
from policyd.ext_proc.driver import Driver
from policyd.ext_proc.lean import HOLD_MARK, TABLE, LeanExchange
from policyd.ext_proc.reply_encoding import HOLD_NAMESPACE, encode
from policyd.ext_proc.settings import ExchangeSettings
from policyd.ext_proc.states import State
from policyd.providers.base import RawRequest
from policyd.providers.registry import OPENAI_CHAT
from policyd.providers.vendors import OPENAI
from tests.builders import World, limit, policy
from tests.ext_proc import wire
from tests.ext_proc.by_hand import at_once, denied
from tests.ext_proc.test_exchange_table import EVENTS

S = State
KEY = format_key(bytes(32))


def whole(
    body: bytes | None = None,
    *,
    path: str = wire.CHAT_PATH,
    request_mode: m.BodyMode = m.BodyMode.BUFFERED,
    response_mode: m.BodyMode = m.BodyMode.NONE,
    provider: str = "openai",
    **headers: str,
) -> m.WholeRequest:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    head = m.RequestHeaders(
        {":path": path, ":method": "POST", **named},
        end_of_stream=False,
        request_body_mode=request_mode,
        response_body_mode=response_mode,
        provider=provider,
    )
    return m.WholeRequest(head, wire.chat() if body is None else body, end_of_stream=True)


def exchange(world: World, request_id: str = "pd-1") -> LeanExchange:
    return LeanExchange(
        request_id=request_id,
        began_ms=world.clock.now_ms(),
        policy=world.policy,
        settings=ExchangeSettings(),
        count_text=lambda text, provider, model: len(text),
    )


async def carried_out(world: World, *events: m.Event, request_id: str = "pd-1") -> list[m.Reply]:
    """What Envoy is answered to these events."""
    driver = Driver(exchange(world, request_id), world.enforcer)
    replies: list[m.Reply] = []

    async def send(reply: m.Reply) -> None:
        replies.append(reply)

    for event in events:
        await driver.handle(event, send)
    return replies


async def granted(world: World, request_id: str, *, fingerprint: str = "") -> None:
    """Holds what a plain request of the lean profile may cost."""
    if not fingerprint:
        (reply,) = await carried_out(world, whole(), request_id=request_id)
        assert isinstance(reply, m.MarkedBody)
        return
    it = exchange(world, request_id)
    (decide,) = it.receive(whole())
    assert isinstance(decide, m.Decide)
    assert (await world.enforcer.reserve(decide.ask, fingerprint=fingerprint)).decision.allowed


# --- the decision ---


async def test_a_request_passes_with_its_hold(world: World) -> None:
    (reply,) = await carried_out(world, whole(), m.Closed())
    assert isinstance(reply, m.MarkedBody)
    assert reply.body is None
    assert reply.marks[HOLD_MARK] == reply.marks["x-policyd-request-id"] == "pd-1"
    assert reply.marks["x-policyd-decision"] == "allow"
    books = await world.books()
    assert (books.open_reservations, world.enforcer.open_reservations) == (1, 0)
    assert not world.seen.records


async def test_a_request_that_does_not_fit_is_refused() -> None:
    world = World(policy(limit(amount=1)))
    (reply,) = await carried_out(world, whole())
    assert isinstance(reply, m.ImmediateReply)
    assert reply.status == 402
    assert world.record.outcome is Outcome.DENIED
    assert await world.spent() == 0


async def test_a_stream_is_asked_for_its_usage(world: World) -> None:
    (reply,) = await carried_out(world, whole(wire.chat(stream=True)))
    assert isinstance(reply, m.MarkedBody)
    assert reply.body is not None
    facts = OPENAI_CHAT.read_request(RawRequest(reply.body), vendor=OPENAI)
    assert facts.streamed
    assert facts.usage_requested


async def test_limits_change_the_body() -> None:
    world = World(policy(unbounded=Unbounded.SET_MAXIMUM, default_max_output_tokens=77))
    (reply,) = await carried_out(world, whole(wire.chat(user="ann", tier="gold")))
    assert isinstance(reply, m.MarkedBody)
    assert reply.body is not None
    assert b"77" in reply.body
    assert b"gold" not in reply.body


async def test_identity_comes_from_the_headers_that_are_told(world: World) -> None:
    await carried_out(world, whole(x_policyd_project="rockets"))
    assert (await world.store.get("pd-1")).record.attributes["project"] == "rockets"


async def test_a_client_that_goes_while_it_is_decided_is_charged_nothing(world: World) -> None:
    it = exchange(world)
    (decide,) = it.receive(whole())
    assert isinstance(decide, m.Decide)
    assert it.receive(m.Closed()) == []
    (finish,) = it.receive(m.Decided(await world.enforcer.reserve(decide.ask)))
    assert isinstance(finish, m.Finish)
    await world.enforcer.end(finish.verdict.record, finish.verdict.decision.estimate, finish.ending)
    assert await world.spent() == 0


async def test_an_api_key_is_looked_up() -> None:
    world = World(policy(api_keys=ApiKeys.REQUIRED))
    (reply,) = await carried_out(world, whole(authorization=f"Bearer {KEY}"))
    assert isinstance(reply, m.ImmediateReply)
    assert reply.status == 401


# --- what the profile cannot do ---


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (whole(path="/v1/responses"), 500, "cannot be metered in the lean profile"),
        (whole(path="/v1/fine_tuning/jobs"), 404, "not an endpoint"),
        (whole(path="/v1/chat/completions?project_id=x"), 500, "to change the request's path"),
        (whole(b"no json"), 400, "JSON"),
        (whole(response_mode=m.BodyMode.STREAMED), 500, "processing_mode"),
        (whole(request_mode=m.BodyMode.FULL_DUPLEX_STREAMED), 500, "processing_mode"),
        (whole(x_policyd_user="ann,bob"), 400, "x-policyd-user"),
        (
            whole(
                wire.messages(context_management={"edits": [{"type": "compact_20260112"}]}),
                path="/v1/messages",
                provider="anthropic",
            ),
            400,
            "in a list",
        ),
    ],
)
async def test_what_is_refused(world: World, request_: m.WholeRequest, status: int, said: str) -> None:
    (reply,) = await carried_out(world, request_)
    assert isinstance(reply, m.ImmediateReply)
    assert reply.status == status
    assert said in reply.body.decode()
    assert await world.spent() == 0


async def test_a_stream_may_list_what_it_costs(world: World) -> None:
    body = wire.messages(stream=True, context_management={"edits": [{"type": "compact_20260112"}]})
    (reply,) = await carried_out(world, whole(body, path="/v1/messages", provider="anthropic"))
    assert isinstance(reply, m.MarkedBody)


async def test_what_the_policy_lets_pass_unmetered_has_no_hold() -> None:
    world = World(policy(unknown_endpoint=UnknownEndpoint.PASS))
    replies = await carried_out(world, whole(path="/v1/fine_tuning/jobs"))
    assert replies == [m.MarkedBody(None, {})]
    assert world.record.outcome is Outcome.UNMETERED


# --- the table ---


class Case(NamedTuple):
    state: State
    kind: type[m.Event]
    following: State
    event: Callable[[World], m.Event] | None = None
    failure_mode: FailureMode = FailureMode.CLOSED
    api_keys: ApiKeys = ApiKeys.OFF
    body: bytes = wire.chat()
    """Of a request that is authenticated."""


def decided(world: World) -> m.Event:
    (decide,) = exchange(world, "pd-2").receive(whole())
    assert isinstance(decide, m.Decide)
    return m.Decided(at_once(world.enforcer.reserve(decide.ask)))


def refused(world: World) -> m.Event:
    event = decided(world)
    assert isinstance(event, m.Decided)
    return m.Decided(denied(event.verdict))


def with_key(body: bytes) -> m.Event:
    return whole(body, authorization=f"Bearer {KEY}")


CASES = [
    Case(S.IDLE, m.WholeRequest, S.DECIDING, lambda _: whole()),
    Case(S.IDLE, m.WholeRequest, S.AUTHENTICATING, lambda _: with_key(b"{}"), api_keys=ApiKeys.REQUIRED),
    Case(S.IDLE, m.WholeRequest, S.ENDED, lambda _: whole(b"")),
    Case(S.IDLE, m.Failed, S.ENDED),
    Case(S.IDLE, m.Closed, S.ENDED),
    Case(S.AUTHENTICATING, m.Identified, S.DECIDING, api_keys=ApiKeys.REQUIRED),
    Case(S.AUTHENTICATING, m.Identified, S.ENDED, api_keys=ApiKeys.REQUIRED, body=b"no json"),
    Case(S.AUTHENTICATING, m.Rejected, S.ENDED, api_keys=ApiKeys.REQUIRED),
    Case(S.AUTHENTICATING, m.Failed, S.ENDED, failure_mode=FailureMode.OPEN, api_keys=ApiKeys.REQUIRED),
    Case(S.AUTHENTICATING, m.Closed, S.ENDED, api_keys=ApiKeys.REQUIRED),
    Case(S.DECIDING, m.Decided, S.ENDED, decided),
    Case(S.DECIDING, m.Rejected, S.ENDED),
    Case(S.DECIDING, m.Failed, S.ENDED),
    Case(S.DECIDING, m.Failed, S.CHARGING, failure_mode=FailureMode.OPEN),
    Case(S.DECIDING, m.Closed, S.ABANDONED),
    Case(S.CHARGING, m.Ended, S.ENDED, failure_mode=FailureMode.OPEN),
    Case(S.CHARGING, m.Rejected, S.ENDED, failure_mode=FailureMode.OPEN),
    Case(S.CHARGING, m.Failed, S.ENDED, failure_mode=FailureMode.OPEN),
    Case(S.CHARGING, m.Closed, S.ENDED, failure_mode=FailureMode.OPEN),
    Case(S.ABANDONED, m.Decided, S.SETTLING, decided),
    Case(S.ABANDONED, m.Decided, S.ENDED, refused),
    Case(S.ABANDONED, m.Rejected, S.ENDED),
    Case(S.ABANDONED, m.Failed, S.ENDED),
    Case(S.ABANDONED, m.Closed, S.ABANDONED),
    Case(S.SETTLING, m.Ended, S.ENDED),
    Case(S.SETTLING, m.Failed, S.ENDED),
    Case(S.SETTLING, m.Closed, S.SETTLING),
    Case(S.ENDED, m.Identified, S.ENDED),
    Case(S.ENDED, m.Rejected, S.ENDED),
    Case(S.ENDED, m.Ended, S.ENDED),
    Case(S.ENDED, m.Failed, S.ENDED),
    Case(S.ENDED, m.Closed, S.ENDED),
]


def brought_to(state: State, world: World, body: bytes = b"{}") -> LeanExchange:
    it = exchange(world)
    match state:
        case S.AUTHENTICATING:
            it.receive(with_key(body))
        case S.DECIDING:
            it.receive(whole())
        case S.CHARGING:
            brought = brought_to(S.DECIDING, world)
            brought.receive(m.Failed("a defect"))
            return brought
        case S.ABANDONED:
            brought = brought_to(S.DECIDING, world)
            brought.receive(m.Closed())
            return brought
        case S.SETTLING:
            brought = brought_to(S.ABANDONED, world)
            brought.receive(decided(world))
            return brought
        case S.ENDED:
            it.receive(m.Closed())
        case _:
            pass
    assert it.state is state
    return it


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.state}-{case.kind.__name__}-{case.following}")
def test_a_row(case: Case) -> None:
    world = World(policy(failure_mode=case.failure_mode, api_keys=case.api_keys))
    it = brought_to(case.state, world, case.body)
    event: m.Event = EVENTS[case.kind] if case.event is None else case.event(world)
    if isinstance(event, m.Identified):
        event = m.Identified(ApiKey("digest", "bot", {}, 0))
    it.receive(event)
    assert it.state is case.following


def test_the_rows_above_are_the_table() -> None:
    rows = {(state, kind, following) for (state, kind), row in TABLE.items() for following in row.following}
    assert {(case.state, case.kind, case.following) for case in CASES} == rows
    assert len(CASES) == len(rows)


STATES = tuple(dict.fromkeys(state for state, _ in TABLE))


@pytest.mark.parametrize(
    ("state", "kind"),
    [(state, kind) for state in STATES for kind in get_args(m.Event) if (state, kind) not in TABLE],
    ids=lambda it: getattr(it, "__name__", str(it)),
)
def test_a_missing_row_is_an_error(state: State, kind: type[m.Event]) -> None:
    api_keys = ApiKeys.REQUIRED if state is S.AUTHENTICATING else ApiKeys.OFF
    it = brought_to(state, World(policy(failure_mode=FailureMode.OPEN, api_keys=api_keys)))
    event = decided(World()) if kind is m.Decided else EVENTS[kind]
    with pytest.raises(ProtocolError, match=f"{kind.__name__} cannot come while {state}"):
        it.receive(event)
    assert it.state is state


@pytest.mark.parametrize("kind", [m.Failed, m.Closed])
def test_a_failure_and_a_hang_up_have_a_row_in_every_state(kind: type[m.Event]) -> None:
    assert {state for state, found in TABLE if found is kind} == set(STATES)


def test_the_picture_names_every_state() -> None:
    picture = "\n".join(line for line in (lean.__doc__ or "").splitlines() if line.startswith("    "))
    assert {State(name.lower()) for name in re.findall(r"\b[A-Z_]{4,}\b", picture)} == set(STATES)


def test_closed_a_failure_is_refused() -> None:
    reply, report = brought_to(S.DECIDING, World()).receive(m.Failed("StoreUnavailable"))
    assert isinstance(report, m.Report)
    assert report.record.error == "StoreUnavailable"
    assert isinstance(reply, m.ImmediateReply)
    assert reply.status == 503


def test_open_it_passes_once_it_is_charged() -> None:
    it = brought_to(S.DECIDING, World(policy(failure_mode=FailureMode.OPEN)))
    (charge,) = it.receive(m.Failed("a defect"))
    assert isinstance(charge, m.ChargeMaximum)
    assert charge.error == "a defect"
    assert it.receive(EVENTS[m.Ended]) == [m.MarkedBody(None, {})]


def test_a_refusal_by_the_enforcer_is_worded() -> None:
    it = brought_to(S.DECIDING, World())
    reply, _ = it.receive(m.Rejected(BodyUnreadable("no")))
    assert isinstance(reply, m.ImmediateReply)
    assert reply.status == 400


# --- Envoy's bytes ---


def request_message(**attributes: str) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest(request_body=pb.HttpBody(body=wire.chat(), end_of_stream=True))
    message.protocol_config.request_body_mode = processing_mode_pb2.ProcessingMode.BUFFERED
    told: Any = message.attributes["envoy.filters.http.ext_proc"]
    told.update({"request.path": wire.CHAT_PATH, "request.method": "POST", **attributes})
    return message


def test_a_first_message_with_a_body_is_a_whole_request() -> None:
    message = request_message(**{"request.headers['x-policyd-user']": "ann", "request.host": "api.openai.com"})
    event = Decoder(provider="openai").event(message.SerializeToString())
    assert isinstance(event, m.WholeRequest)
    assert event.head.headers == {
        ":path": wire.CHAT_PATH,
        ":method": "POST",
        ":authority": "api.openai.com",
        "x-policyd-user": "ann",
    }
    assert (event.head.request_body_mode, event.head.response_body_mode) == (m.BodyMode.BUFFERED, m.BodyMode.NONE)
    assert (event.body, event.head.provider) == (wire.chat(), "openai")


def test_a_body_behind_its_headers_is_none() -> None:
    message = pb.ProcessingRequest(request_body=pb.HttpBody(body=b"{}", end_of_stream=True))
    assert isinstance(Decoder(provider=None).event(message.SerializeToString()), m.RequestBody)


def test_marks_become_dynamic_metadata() -> None:
    reply = pb.ProcessingResponse.FromString(encode(m.MarkedBody(b"new", {HOLD_MARK: "pd-1", "x-a": "b"})))
    assert reply.request_body.response.body_mutation.body == b"new"
    assert dict(reply.dynamic_metadata[HOLD_NAMESPACE].items()) == {HOLD_MARK: "pd-1", "x-a": "b"}
    unchanged = pb.ProcessingResponse.FromString(encode(m.MarkedBody(None, {})))
    assert unchanged.HasField("request_body")
    assert not unchanged.request_body.response.HasField("body_mutation")

"""The exchange's table: every row is reached and leads where it says; every missing pair is an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, get_args

import pytest

from policyd.core.errors import BodyUnreadable, ProtocolError
from policyd.core.policy import ApiKeys, FailureMode
from policyd.core.record import Outcome, Record
from policyd.core.runtime import ApiKey
from policyd.ext_proc import exchange
from policyd.ext_proc import messages as m
from policyd.ext_proc.exchange import TABLE
from policyd.ext_proc.states import State
from policyd.ext_proc.table import Row
from tests.builders import World, policy
from tests.ext_proc import wire
from tests.ext_proc.by_hand import KEY, LONG_PIECE, ByHand, denied

S = State

EVENTS: dict[type[m.Event], m.Event] = {
    m.RequestHeaders: m.RequestHeaders(wire.request_headers(b"{}"), end_of_stream=False),
    m.RequestBody: m.RequestBody(b"{}", end_of_stream=True),
    m.WholeRequest: m.WholeRequest(
        m.RequestHeaders(wire.request_headers(b"{}"), end_of_stream=False), b"{}", end_of_stream=True
    ),
    m.RequestTrailers: m.RequestTrailers(),
    m.RequestTimedOut: m.RequestTimedOut(),
    m.ResponseHeaders: m.ResponseHeaders(wire.SSE, end_of_stream=False),
    m.ResponseBody: m.ResponseBody(b"", end_of_stream=True),
    m.ResponseTrailers: m.ResponseTrailers(),
    m.Closed: m.Closed(),
    m.Identified: m.Identified(ApiKey("digest", "bot", {}, 0)),
    m.Rejected: m.Rejected(BodyUnreadable("no")),
    m.Failed: m.Failed("StoreUnavailable"),
    m.Extended: m.Extended(0),
    m.Ended: m.Ended(Record("pd-1", 0, Outcome.SERVED, "allow", "openai", "chat.completions", "gpt-4o", {})),
}
"""One event of each type; `Decided` needs the request that was decided."""


class Case(NamedTuple):
    """An event in a state, and the state that follows."""

    state: State
    kind: type[m.Event]
    following: State
    event: Callable[[ByHand], m.Event] | None = None
    """Makes the event; `None`: the one in `EVENTS`."""
    failure_mode: FailureMode = FailureMode.CLOSED
    request_mode: m.BodyMode = m.BodyMode.BUFFERED
    api_keys: ApiKeys = ApiKeys.OFF
    path: str = wire.CHAT_PATH
    """Where a request goes that is authenticated."""


def allowed(by_hand: ByHand) -> m.Event:
    return m.Decided(by_hand.verdict())


def refused(by_hand: ByHand) -> m.Event:
    return m.Decided(denied(by_hand.verdict()))


def failed_with_hold(by_hand: ByHand) -> m.Event:
    """The request was granted, and could not be sent on."""
    by_hand.exchange._verdict, by_hand.exchange._holding = by_hand.verdict(), True
    return EVENTS[m.Failed]


OPEN, STREAMED = FailureMode.OPEN, m.BodyMode.STREAMED

CASES = [
    Case(S.IDLE, m.RequestHeaders, S.READING_REQUEST),
    Case(S.IDLE, m.RequestHeaders, S.PASSING, lambda it: it.headers(None, path="/v1/models", method="GET")),
    Case(S.IDLE, m.RequestHeaders, S.ENDED, lambda it: it.headers(path="/v1/fine_tuning/jobs")),
    Case(
        S.IDLE,
        m.RequestHeaders,
        S.AUTHENTICATING,
        lambda it: it.headers(authorization=f"Bearer {KEY}"),
        api_keys=ApiKeys.OPTIONAL,
    ),
    Case(S.IDLE, m.ResponseHeaders, S.PASSING),
    Case(S.IDLE, m.Failed, S.ENDED, failure_mode=OPEN),
    Case(S.IDLE, m.Closed, S.ENDED),
    Case(S.AUTHENTICATING, m.Identified, S.READING_REQUEST, api_keys=ApiKeys.REQUIRED),
    Case(S.AUTHENTICATING, m.Identified, S.PASSING, path="/v1/messages/count_tokens", api_keys=ApiKeys.REQUIRED),
    Case(S.AUTHENTICATING, m.Identified, S.ENDED, path="/v1/fine_tuning/jobs", api_keys=ApiKeys.REQUIRED),
    Case(S.AUTHENTICATING, m.Rejected, S.ENDED, api_keys=ApiKeys.REQUIRED),
    Case(S.AUTHENTICATING, m.Failed, S.ENDED, failure_mode=OPEN, api_keys=ApiKeys.REQUIRED),
    Case(S.AUTHENTICATING, m.Closed, S.ENDED, api_keys=ApiKeys.REQUIRED),
    Case(S.READING_REQUEST, m.RequestBody, S.DECIDING, lambda _: m.RequestBody(wire.chat(), end_of_stream=True)),
    Case(S.READING_REQUEST, m.RequestBody, S.ENDED),
    Case(
        S.READING_REQUEST,
        m.RequestBody,
        S.READING_REQUEST,
        lambda _: m.RequestBody(b"{", end_of_stream=False),
        request_mode=STREAMED,
    ),
    Case(S.READING_REQUEST, m.RequestTrailers, S.ENDED),
    Case(S.READING_REQUEST, m.RequestTimedOut, S.ENDED),
    Case(S.READING_REQUEST, m.ResponseHeaders, S.PASSING),
    Case(S.READING_REQUEST, m.Failed, S.ENDED, failure_mode=OPEN),
    Case(S.READING_REQUEST, m.Closed, S.ENDED),
    Case(S.DECIDING, m.Decided, S.FORWARDED, allowed),
    Case(S.DECIDING, m.Decided, S.ENDED, refused),
    Case(S.DECIDING, m.Rejected, S.ENDED),
    Case(S.DECIDING, m.Failed, S.ENDED),
    Case(S.DECIDING, m.Failed, S.CHARGING, failure_mode=OPEN),
    Case(S.DECIDING, m.Failed, S.PASSING, failed_with_hold, failure_mode=OPEN),
    Case(S.DECIDING, m.Closed, S.ABANDONED),
    Case(S.CHARGING, m.Ended, S.PASSING, failure_mode=OPEN),
    Case(S.CHARGING, m.Rejected, S.ENDED, failure_mode=OPEN),
    Case(S.CHARGING, m.Failed, S.ENDED, failure_mode=OPEN),
    Case(S.CHARGING, m.Closed, S.ENDED, failure_mode=OPEN),
    Case(S.ABANDONED, m.Decided, S.SETTLING, allowed),
    Case(S.ABANDONED, m.Decided, S.ENDED, refused),
    Case(S.ABANDONED, m.Rejected, S.ENDED),
    Case(S.ABANDONED, m.Failed, S.ENDED),
    Case(S.ABANDONED, m.Closed, S.ABANDONED),
    Case(S.FORWARDED, m.RequestTrailers, S.FORWARDED),
    Case(S.FORWARDED, m.ResponseHeaders, S.METERING),
    Case(S.FORWARDED, m.ResponseHeaders, S.SETTLING, lambda _: m.ResponseHeaders({":status": "500"}, True)),
    Case(S.FORWARDED, m.Failed, S.SETTLING),
    Case(S.FORWARDED, m.Closed, S.SETTLING),
    Case(S.METERING, m.ResponseBody, S.METERING, lambda _: m.ResponseBody(b"data: ", end_of_stream=False)),
    Case(S.METERING, m.ResponseBody, S.TOPPING_UP, lambda _: LONG_PIECE),
    Case(S.METERING, m.ResponseBody, S.SETTLING),
    Case(S.METERING, m.ResponseTrailers, S.SETTLING),
    Case(S.METERING, m.Failed, S.SETTLING),
    Case(S.METERING, m.Closed, S.SETTLING),
    Case(S.TOPPING_UP, m.Extended, S.METERING, lambda _: m.Extended(100)),
    Case(S.TOPPING_UP, m.Extended, S.TOPPING_UP, lambda _: m.Extended(1)),
    Case(S.TOPPING_UP, m.Extended, S.SETTLING),
    Case(S.TOPPING_UP, m.Failed, S.SETTLING),
    Case(S.TOPPING_UP, m.Closed, S.SETTLING),
    Case(S.SETTLING, m.Ended, S.ENDED),
    Case(S.SETTLING, m.Failed, S.ENDED),
    Case(S.SETTLING, m.Extended, S.SETTLING),
    Case(S.SETTLING, m.Closed, S.SETTLING),
    Case(S.PASSING, m.RequestBody, S.PASSING),
    Case(S.PASSING, m.RequestTrailers, S.PASSING),
    Case(S.PASSING, m.ResponseHeaders, S.PASSING),
    Case(S.PASSING, m.ResponseBody, S.PASSING),
    Case(S.PASSING, m.ResponseTrailers, S.PASSING),
    Case(S.PASSING, m.Ended, S.PASSING),
    Case(S.PASSING, m.Failed, S.PASSING),
    Case(S.PASSING, m.Closed, S.ENDED),
    Case(S.ENDED, m.Identified, S.ENDED),
    Case(S.ENDED, m.Rejected, S.ENDED),
    Case(S.ENDED, m.RequestBody, S.ENDED),
    Case(S.ENDED, m.RequestTrailers, S.ENDED),
    Case(S.ENDED, m.ResponseHeaders, S.ENDED),
    Case(S.ENDED, m.ResponseBody, S.ENDED),
    Case(S.ENDED, m.ResponseTrailers, S.ENDED),
    Case(S.ENDED, m.Ended, S.ENDED),
    Case(S.ENDED, m.Failed, S.ENDED),
    Case(S.ENDED, m.Closed, S.ENDED),
]


def by_hand(case: Case) -> ByHand:
    """An exchange in the state of `case`."""
    state = case.state
    world = World(policy(default_max_output_tokens=1, failure_mode=case.failure_mode, api_keys=case.api_keys))
    exchange = ByHand(world, request_mode=case.request_mode).bring_to(state, path=case.path)
    if state is S.PASSING:
        # A body comes after its headers.
        exchange.receive(EVENTS[m.ResponseHeaders])
    return exchange


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.state}-{case.kind.__name__}-{case.following}")
def test_a_row(case: Case) -> None:
    exchange = by_hand(case)
    exchange.receive(case.event(exchange) if case.event is not None else EVENTS[case.kind])
    assert exchange.state is case.following


def test_the_rows_above_are_the_table() -> None:
    rows = {(state, kind, following) for (state, kind), row in TABLE.items() for following in row.following}
    assert {(case.state, case.kind, case.following) for case in CASES} == rows
    assert len(CASES) == len(rows)


MISSING = [(state, kind) for state in State for kind in get_args(m.Event) if (state, kind) not in TABLE]


@pytest.mark.parametrize(("state", "kind"), MISSING, ids=lambda it: getattr(it, "__name__", str(it)))
def test_a_missing_row_is_an_error_and_changes_nothing(state: State, kind: type[m.Event]) -> None:
    api_keys = ApiKeys.OPTIONAL if state is S.AUTHENTICATING else ApiKeys.OFF
    exchange = by_hand(Case(state, kind, state, api_keys=api_keys, failure_mode=OPEN))
    event = allowed(exchange) if kind is m.Decided else EVENTS[kind]
    with pytest.raises(ProtocolError, match=f"{kind.__name__} cannot come while {state}"):
        exchange.receive(event)
    assert exchange.state is state


def test_a_failure_has_a_row_in_every_state() -> None:
    assert {state for state, kind in TABLE if kind is m.Failed} == set(State)


def test_a_hang_up_has_a_row_in_every_state() -> None:
    assert {state for state, kind in TABLE if kind is m.Closed} == set(State)


PICTURE = {
    S.IDLE: {S.AUTHENTICATING, S.READING_REQUEST, S.PASSING, S.ENDED},
    S.AUTHENTICATING: {S.READING_REQUEST, S.PASSING, S.ENDED},
    S.READING_REQUEST: {S.DECIDING, S.PASSING, S.ENDED},
    S.DECIDING: {S.FORWARDED, S.CHARGING, S.ABANDONED, S.PASSING, S.ENDED},
    S.CHARGING: {S.PASSING, S.ENDED},
    S.ABANDONED: {S.SETTLING, S.ENDED},
    S.FORWARDED: {S.METERING, S.SETTLING},
    S.METERING: {S.TOPPING_UP, S.SETTLING},
    S.TOPPING_UP: {S.METERING, S.SETTLING},
    S.SETTLING: {S.ENDED},
    S.PASSING: {S.ENDED},
    S.ENDED: set(),
}
"""What the picture at the module's head shows: from each state where it leads."""


def test_the_picture_agrees_with_the_table() -> None:
    edges: dict[State, set[State]] = {state: set() for state in State}
    for (state, _), row in TABLE.items():
        edges[state] |= row.following - {state}
    assert edges == PICTURE


def test_the_picture_shows_every_state_and_every_straight_arrow_of_it_is_in_the_table() -> None:
    before, _, glossary = (exchange.__doc__ or "").partition("    IDLE             ")
    picture = "\n".join(line for line in before.splitlines() if line.startswith("    "))
    assert {State(name.lower()) for name in re.findall(r"\b[A-Z_]{4,}\b", picture)} == set(State)
    explained = re.findall(r"^    ([A-Z_]+) +\S", f"    IDLE  {glossary}", re.MULTILINE)
    assert [State(name.lower()) for name in explained] == list(State)
    arrows = re.findall(r"(?=\b([A-Z_]+) (<?)-+> ([A-Z_]+)\b)", picture)
    assert len(arrows) >= 5
    for start, both_ways, end in arrows:
        assert State(end.lower()) in PICTURE[State(start.lower())]
        assert not both_ways or State(start.lower()) in PICTURE[State(end.lower())]


def test_a_handler_cannot_lead_where_its_row_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    key = (S.IDLE, m.Closed)
    monkeypatch.setitem(TABLE, key, Row(TABLE[key].handle, frozenset({S.PASSING})))
    it = ByHand()
    with pytest.raises(ProtocolError, match="Closed cannot lead from idle to ended"):
        it.receive(m.Closed())
    assert it.state is S.IDLE

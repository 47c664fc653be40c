"""A client that hangs up, in every state: what is charged, and that no hold stays behind."""

from __future__ import annotations

import pytest

from policyd.core.policy import OnDisconnect
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.ext_proc import messages as m
from policyd.ext_proc.states import State
from tests.builders import COUNTER, World, limit, policy
from tests.ext_proc.by_hand import ByHand, at_once
from tests.ext_proc.wire import DONE, SSE, chat, chat_chunk, chat_reply, reply_headers, usage_chunk

OBSERVED, EXPECTED, MAXIMUM = OnDisconnect.OBSERVED, OnDisconnect.EXPECTED, OnDisconnect.MAXIMUM
COUNTED, REPORTED, NONE = UsageSource.COUNTED, UsageSource.REPORTED, UsageSource.NONE

TEXT = "Hello there, my friend."
SEEN = COUNTER.count_text(TEXT, provider="openai", model="gpt-4o")

INPUT_ONLY = Usage(input=10)
"""Of `chat()`."""
AS_EXPECTED = Usage(input=10, output=75)
"""Of 100 output tokens at most."""
AS_HELD = Usage(input=10, output=100)


def hold(world: World, *, stream: bool = True) -> ByHand:
    """A request that went upstream with a maximum of 100 tokens."""
    it = ByHand(world)
    it.receive(it.headers(), m.RequestBody(chat(stream=stream, max_tokens=100), end_of_stream=True))
    it.receive(it.decided())
    return it


def settle(it: ByHand) -> None:
    """Carries out the question that the exchange ends with."""
    (finish,) = [effect for effect in it.effects if isinstance(effect, m.Finish)]
    it.receive(
        m.Ended(at_once(it.world.enforcer.end(finish.verdict.record, finish.verdict.decision.estimate, finish.ending)))
    )
    assert it.state is State.ENDED


def hang_up(it: ByHand) -> None:
    it.receive(m.Closed())
    settle(it)


def stream_of(*chunks: bytes) -> list[m.Event]:
    return [
        m.ResponseHeaders(SSE, end_of_stream=False),
        *(m.ResponseBody(chunk, end_of_stream=False) for chunk in chunks),
    ]


def document_of(*chunks: bytes, status: int = 200) -> list[m.Event]:
    head = m.ResponseHeaders(reply_headers(status=status), end_of_stream=False)
    return [head, *(m.ResponseBody(chunk, end_of_stream=False) for chunk in chunks)]


TOLD = [chat_chunk({"role": "assistant"}), chat_chunk({"content": TEXT})]
REPLY = chat_reply(usage={"prompt_tokens": 9, "completion_tokens": 12})
REPORTED_USAGE = Usage(input=9, output=12)

UPSTREAM = [
    # What came of the reply; then what each setting charges, and where the numbers come from.
    ("nothing", [], INPUT_ONLY, COUNTED, AS_EXPECTED, NONE),
    ("only headers", stream_of(), INPUT_ONLY, COUNTED, AS_EXPECTED, NONE),
    ("no text yet", stream_of(TOLD[0]), INPUT_ONLY, COUNTED, AS_EXPECTED, NONE),
    ("text", stream_of(*TOLD), Usage(input=10, output=SEEN), COUNTED, AS_EXPECTED, NONE),
    (
        "more text than was expected",
        stream_of(chat_chunk({"content": " hello" * 90})),
        Usage(input=10, output=90),
        COUNTED,
        Usage(input=10, output=90),
        COUNTED,
    ),
    (
        "text in an event that has not ended",
        stream_of(chat_chunk({"content": TEXT}).removesuffix(b"\n\n")),
        Usage(input=10, output=SEEN),
        COUNTED,
        AS_EXPECTED,
        NONE,
    ),
]

COMPLETE = [
    ("usage", stream_of(*TOLD, chat_chunk({}, finish="stop"), usage_chunk())),
    ("usage and the end", stream_of(*TOLD, usage_chunk(), DONE)),
    ("usage in an event that has not ended", stream_of(*TOLD, usage_chunk().removesuffix(b"\n\n"))),
]


def charged(world: World, usage: Usage | None, source: UsageSource, outcome: Outcome = Outcome.DISCONNECTED) -> None:
    record = world.record
    assert (record.usage, record.usage_source, record.outcome) == (usage, source, outcome)
    assert at_once(world.spent()) == record.actual_cost_nanos


@pytest.mark.parametrize("state", [State.IDLE, State.READING_REQUEST])
@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_before_anything_is_held(state: State, on_disconnect: OnDisconnect) -> None:
    world = World(policy(on_disconnect=on_disconnect))
    assert ByHand(world).bring_to(state).receive(m.Closed()) == []
    assert at_once(world.spent()) == 0


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_while_it_is_decided_the_hold_is_returned(on_disconnect: OnDisconnect) -> None:
    world = World(policy(on_disconnect=on_disconnect))
    it = ByHand(world).bring_to(State.DECIDING)
    decided = it.decided()
    assert it.receive(m.Closed()) == []
    assert it.state is State.ABANDONED
    it.receive(decided)
    settle(it)
    charged(world, None, NONE)
    assert at_once(world.spent()) == 0


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_while_it_is_refused_the_refusal_is_reported(on_disconnect: OnDisconnect) -> None:
    world = World(policy(limit(amount=1), on_disconnect=on_disconnect))
    it = ByHand(world).bring_to(State.DECIDING)
    decided = it.decided()
    it.receive(m.Closed())
    (report,) = it.receive(decided)
    assert isinstance(report, m.Report)
    assert (report.record.outcome, report.record.status) == (Outcome.DENIED, None)


@pytest.mark.parametrize("row", UPSTREAM, ids=[row[0] for row in UPSTREAM])
class TestUpstream:
    """The request went upstream, and its usage was not told."""

    def test_observed(self, row: tuple[str, list[m.Event], Usage, UsageSource, Usage, UsageSource]) -> None:
        world = World(policy(on_disconnect=OBSERVED))
        it = hold(world)
        it.receive(*row[1])
        hang_up(it)
        charged(world, row[2], row[3])

    def test_expected(self, row: tuple[str, list[m.Event], Usage, UsageSource, Usage, UsageSource]) -> None:
        world = World(policy(on_disconnect=EXPECTED))
        it = hold(world)
        it.receive(*row[1])
        hang_up(it)
        charged(world, row[4], row[5])

    def test_maximum(self, row: tuple[str, list[m.Event], Usage, UsageSource, Usage, UsageSource]) -> None:
        world = World(policy(on_disconnect=MAXIMUM))
        it = hold(world)
        it.receive(*row[1])
        hang_up(it)
        charged(world, AS_HELD, NONE)


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
@pytest.mark.parametrize("came", [row[1] for row in COMPLETE], ids=[row[0] for row in COMPLETE])
def test_usage_that_is_complete_is_what_is_charged(came: list[m.Event], on_disconnect: OnDisconnect) -> None:
    world = World(policy(on_disconnect=on_disconnect))
    it = hold(world, stream=came[0] == stream_of()[0])
    it.receive(*came)
    hang_up(it)
    charged(world, REPORTED_USAGE, REPORTED, Outcome.SERVED)


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_a_document_that_broke_off_after_its_usage_costs_that(on_disconnect: OnDisconnect) -> None:
    world = World(policy(on_disconnect=on_disconnect))
    it = hold(world)
    it.receive(*document_of(REPLY[:-1]))
    hang_up(it)
    charged(world, REPORTED_USAGE, REPORTED)


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_explicit_zeros_stay_zeros(on_disconnect: OnDisconnect) -> None:
    world = World(policy(on_disconnect=on_disconnect))
    it = hold(world)
    it.receive(*stream_of(*TOLD, usage_chunk({"prompt_tokens": 0, "completion_tokens": 0}), DONE))
    hang_up(it)
    charged(world, Usage(), REPORTED, Outcome.SERVED)


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_a_document_that_broke_off_before_its_usage_is_charged_its_hold(on_disconnect: OnDisconnect) -> None:
    """The client may have read all of its content by then."""
    world = World(policy(on_disconnect=on_disconnect))
    it = hold(world, stream=False)
    it.receive(*document_of(REPLY[: REPLY.index(b'"usage"')]))
    hang_up(it)
    charged(world, AS_HELD, NONE)


def test_a_document_that_envoy_still_buffers_has_shown_the_client_nothing() -> None:
    world = World()
    it = hold(world, stream=False)
    it.receive(m.ResponseHeaders(reply_headers(length=len(REPLY)), end_of_stream=False))
    hang_up(it)
    charged(world, INPUT_ONLY, COUNTED)


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_amid_an_error_of_the_provider_nothing_is_charged(on_disconnect: OnDisconnect) -> None:
    world = World(policy(on_disconnect=on_disconnect))
    it = hold(world)
    it.receive(*document_of(b'{"error": {', status=500))
    hang_up(it)
    charged(world, None, NONE)
    assert world.record.error == "http_500"


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_while_a_top_up_is_asked_for_what_came_is_charged(on_disconnect: OnDisconnect) -> None:
    world = World(policy(default_max_output_tokens=1, on_disconnect=on_disconnect))
    it = ByHand(world).bring_to(State.TOPPING_UP)
    hang_up(it)
    # More came than was expected and than was held at the most.
    text_tokens = COUNTER.count_text("more than one token of text", provider="openai", model="gpt-4o")
    charged(world, Usage(input=10, output=text_tokens), COUNTED)


def test_a_top_up_that_comes_too_late_is_returned_with_the_rest() -> None:
    world = World(policy(default_max_output_tokens=1))
    it = ByHand(world).bring_to(State.TOPPING_UP)
    (top_up,) = it.effects
    assert isinstance(top_up, m.TopUp)
    (finish,) = it.receive(m.Closed())
    granted = at_once(
        world.enforcer.extend(
            "pd-1", top_up.verdict.decision.estimate, wanted_tokens=top_up.wanted_tokens, at_least_tokens=1
        )
    )
    assert granted == top_up.wanted_tokens
    assert it.receive(m.Extended(granted)) == []
    it.effects = [finish]
    settle(it)
    assert at_once(world.spent()) == world.record.actual_cost_nanos


@pytest.mark.parametrize("state", [State.SETTLING, State.ENDED, State.PASSING])
def test_after_the_end_nothing_more_is_done(state: State) -> None:
    it = ByHand().bring_to(state)
    assert it.receive(m.Closed()) == []

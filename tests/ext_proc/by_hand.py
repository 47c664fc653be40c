"""An exchange without anything around it: a test plays Envoy and the enforcer."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from msgspec import structs

from policyd.core.api_keys import format_key
from policyd.enforcer import Verdict
from policyd.ext_proc import messages as m
from policyd.ext_proc.exchange import Exchange
from policyd.ext_proc.settings import ExchangeSettings
from policyd.ext_proc.states import State
from tests.builders import World, policy
from tests.ext_proc import wire

T = TypeVar("T")


def at_once(step: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing, as those over a memory store do."""
    try:
        step.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


class ByHand:
    """Drives an exchange into a state and gives it events.

    One output token is held, so that any text of the reply asks for a top-up.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        request_mode: m.BodyMode = m.BodyMode.BUFFERED,
        settings: ExchangeSettings | None = None,
    ) -> None:
        self.world = world or World(policy(default_max_output_tokens=1))
        self.request_mode = request_mode
        self.counted: list[str] = []
        """The texts that were counted."""
        self.exchange = Exchange(
            request_id="pd-1",
            began_ms=self.world.clock.now_ms(),
            policy=self.world.policy,
            settings=settings or ExchangeSettings(),
            count_text=self._count_text,
        )
        self.effects: list[m.Effect] = []
        """Those of the last event."""

    def _count_text(self, text: str, provider: str, model: str) -> int:
        self.counted.append(text)
        return self.world.counter.count_text(text, provider=provider, model=model)

    @property
    def state(self) -> State:
        return self.exchange.state

    def receive(self, *events: m.Event) -> list[m.Effect]:
        for event in events:
            self.effects = self.exchange.receive(event)
        return self.effects

    def headers(self, body: bytes | None = b"{}", **others: str) -> m.RequestHeaders:
        return m.RequestHeaders(
            wire.request_headers(body, **others), end_of_stream=body is None, request_body_mode=self.request_mode
        )

    def decided(self) -> m.Decided:
        """The enforcer's answer to the question that the exchange asked last."""
        (decide,) = self.effects
        assert isinstance(decide, m.Decide)
        return m.Decided(at_once(self.world.enforcer.reserve(decide.ask)))

    def verdict(self) -> Verdict:
        """What the enforcer would answer to a plain streamed request."""
        return ByHand(self.world, request_mode=self.request_mode).bring_to(State.DECIDING).decided().verdict

    def bring_to(self, state: State, *, path: str = wire.CHAT_PATH) -> ByHand:
        """From IDLE to `state` on the shortest way."""
        match state:
            case State.IDLE:
                pass
            case State.AUTHENTICATING:
                self.receive(self.headers(path=path, authorization=f"Bearer {KEY}"))
            case State.READING_REQUEST:
                self.receive(self.headers())
            case State.DECIDING:
                self.bring_to(State.READING_REQUEST).receive(m.RequestBody(wire.chat(stream=True), end_of_stream=True))
            case State.CHARGING:
                # `failure_mode: open`
                self.bring_to(State.DECIDING).receive(m.Failed("a defect"))
            case State.ABANDONED:
                self.bring_to(State.DECIDING).receive(m.Closed())
            case State.FORWARDED:
                self.bring_to(State.DECIDING).receive(self.decided())
            case State.METERING:
                self.bring_to(State.FORWARDED).receive(m.ResponseHeaders(wire.SSE, end_of_stream=False))
            case State.TOPPING_UP:
                self.bring_to(State.METERING).receive(LONG_PIECE)
            case State.SETTLING:
                self.bring_to(State.FORWARDED).receive(m.Closed())
            case State.PASSING:
                self.receive(self.headers(None, path="/v1/models", method="GET"))
            case State.ENDED:
                self.receive(m.Closed())
        assert self.state is state
        return self


KEY = format_key(bytes(32))
"""Asked about where the policy has API keys."""

LONG_PIECE = m.ResponseBody(wire.chat_chunk({"content": "more than one token of text"}), end_of_stream=False)


def denied(verdict: Verdict) -> Verdict:
    """The same, had the first limit lacked room."""
    decision = verdict.decision._replace(denials=verdict.decision.reports[:1])
    return structs.replace(verdict, decision=decision, record=verdict.record._replace(decision="deny"))

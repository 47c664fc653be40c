"""The clients: each carries out one script, and tells the model what it knows for sure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar, cast

from policyd.api.calls import Context
from policyd.core.errors import ReservationEnded, StoreError
from policyd.core.reservation import State
from policyd.core.runtime import Blocked
from policyd.core.usage import Usage
from policyd.enforcer import RELEASED, Enforcer, Verdict, reported_ending
from policyd.estimator import Ask
from policyd.providers.base import Prompt, RequestFacts
from policyd.v1 import policy_service_pb2 as service
from policyd.v1.model_request_pb2 import ModelRequest, TokenCounts
from policyd.v1.reservation_pb2 import RESERVATION_STATE_RESERVED
from policyd.v1.usage_pb2 import Usage as WireUsage
from policyd.v1.verdict_pb2 import DECISION_ALLOW
from tests.simulation.books import weights
from tests.simulation.model import Model
from tests.simulation.plan import CLIENT_TIMEOUT_SECONDS, MODEL, Finish, Script, Way
from tests.simulation.promises import check
from tests.simulation.replica import Replica, Unreachable
from tests.simulation.wire import NoAnswer, Wire

T = TypeVar("T")

_PROVIDER, _ENDPOINT = "sim", "chat"
_NO_CONTEXT = cast("Context", None)
_BACKOFF_SECONDS = 0.5


class World(Protocol):
    """What clients see of the simulation."""

    @property
    def replicas(self) -> Sequence[Replica]: ...
    @property
    def wire(self) -> Wire: ...
    @property
    def model(self) -> Model: ...

    def now_ms(self) -> int: ...

    def tell(self, who: str, what: str) -> None: ...


class Client:
    def __init__(self, world: World, script: Script) -> None:
        self._world = world
        self._script = script
        self._truth = world.model.truths[script.name]

    async def run(self) -> None:
        script = self._script
        await asyncio.sleep(script.starts_at)
        self._truth.asked_at_ms = self._world.now_ms()
        match script.way:
            case Way.GRPC:
                await self._over_grpc()
            case Way.EXCHANGE:
                await self._through_envoy()
            case Way.REPORT:
                await self._reporting()

    # --- gRPC ---

    async def _over_grpc(self) -> None:
        script, truth = self._script, self._truth
        request = service.ReserveRequest(request_id=script.name, model_request=self._model_request())
        held = await self._ask("Reserve", lambda replica: replica.servicer.Reserve(request, _NO_CONTEXT))
        if held is None:
            return
        if held.verdict.decision != DECISION_ALLOW:
            if held.verdict.HasField("block"):
                self._check_block()
            else:
                check(self._world.model.may_be_refused(script.name), "no refusal without a reason", script.name)
            truth.denied = True
            return
        maximum = held.set_max_output_tokens if held.HasField("set_max_output_tokens") else None
        self._granted(maximum)
        if script.finish is Finish.RELEASE or held.state != RESERVATION_STATE_RESERVED:
            release = service.ReleaseRequest(reservation_id=script.name)
            if await self._ask("Release", lambda replica: replica.servicer.Release(release, _NO_CONTEXT)):
                self._acknowledged(State.RELEASED)
            return
        truth.output_tokens = script.output_tokens if maximum is None else min(script.output_tokens, maximum)
        if script.max_output_tokens is None:
            extend = service.ExtendRequest(
                reservation_id=script.name, wanted_output_tokens=100, at_least_output_tokens=10
            )
            try:
                await self._ask("Extend", lambda replica: replica.servicer.Extend(extend, _NO_CONTEXT))
            except ReservationEnded:
                self._world.tell(script.name, "is too late to extend; it will be charged all the same")
        await asyncio.sleep(script.lasts)
        if script.finish is Finish.SETTLE:
            await self._settle()

    async def _settle(self) -> None:
        script = self._script
        settle = service.SettleRequest(reservation_id=script.name, usage=self._usage())
        settled = await self._ask("Settle", lambda replica: replica.servicer.Settle(settle, _NO_CONTEXT))
        if settled is None:
            return
        self._check_cost(settled.cost)
        self._acknowledged(State.SETTLED)
        if script.repeats:
            release = service.ReleaseRequest(reservation_id=script.name)
            try:
                given_back = await self._ask("Release", lambda replica: replica.servicer.Release(release, _NO_CONTEXT))
            except ReservationEnded:
                return
            check(given_back is None, "every hold ends once", script.name)

    async def _reporting(self) -> None:
        script, truth = self._script, self._truth
        truth.output_tokens = script.output_tokens
        report = service.RecordUsageRequest(
            request_id=script.name,
            provider=_PROVIDER,
            endpoint=_ENDPOINT,
            model=MODEL,
            attributes=script.identity,
            usage=self._usage(),
        )
        recorded = await self._ask("RecordUsage", lambda replica: replica.servicer.RecordUsage(report, _NO_CONTEXT))
        if recorded is not None:
            truth.granted = True
            self._check_cost(recorded.cost)
            self._acknowledged(State.SETTLED)

    async def _ask(self, what: str, call: Callable[[Replica], Coroutine[Any, Any, T]]) -> T | None:
        """The answer, by whichever replica gives one; `None` if none did and the client gave up."""
        answer = None
        for attempt in range(self._script.attempts):
            try:
                answer = await self._ask_once(what, call, attempt)
                if not self._script.repeats:
                    return answer
            except (NoAnswer, Unreachable, StoreError) as error:
                self._world.tell(self._script.name, f"{what}: no answer ({type(error).__name__})")
                if answer is None:
                    await asyncio.sleep(_BACKOFF_SECONDS * 2**attempt)
        return answer

    async def _ask_once(self, what: str, call: Callable[[Replica], Coroutine[Any, Any, T]], attempt: int) -> T:
        script, world = self._script, self._world
        replica = world.replicas[script.replicas[attempt % len(script.replicas)]]
        world.tell(script.name, f"{what} to {replica.name}")
        answer = await world.wire.call(
            f"{script.name} {what}",
            lambda: replica.serve(call),
            timeout_seconds=CLIENT_TIMEOUT_SECONDS,
        )
        world.tell(script.name, f"{what} is answered")
        return answer

    def _model_request(self) -> ModelRequest:
        script = self._script
        counts = TokenCounts(model=MODEL, input_tokens=script.input_tokens, max_output_tokens=script.max_output_tokens)
        return ModelRequest(provider=_PROVIDER, endpoint=_ENDPOINT, attributes=script.identity, counts=counts)

    def _usage(self) -> WireUsage:
        return WireUsage(input=self._script.input_tokens, output=self._truth.output_tokens or 0)

    def _check_cost(self, cost: Any) -> None:
        used = weights(input_tokens=self._script.input_tokens, output_tokens=self._truth.output_tokens or 0)
        nanos = cost.units * 10**9 + cost.nanos
        check(nanos in used.values(), "everybody is told what was charged", (self._script.name, nanos))

    # --- through Envoy ---

    async def _through_envoy(self) -> None:
        replica = self._world.replicas[self._script.replicas[0]]
        try:
            await replica.serve(lambda replica: self._exchange(replica.enforcer))
        except Unreachable:
            self._world.tell(self._script.name, f"lost {replica.name}")
        except StoreError as error:
            self._world.tell(self._script.name, f"failed: {error}")

    async def _exchange(self, enforcer: Enforcer) -> None:
        """What `policyd.ext_proc` does for one exchange."""
        script, truth = self._script, self._truth
        self._world.tell(script.name, "comes through Envoy")
        try:
            verdict = await enforcer.reserve(self._envoy_ask(enforcer))
        except Blocked:
            self._check_block()
            return
        if not verdict.decision.allowed:
            check(self._world.model.may_be_refused(script.name), "no refusal without a reason", script.name)
            await enforcer.end_unheld(verdict.record)
            truth.denied = True
            return
        self._granted(verdict.max_output_tokens)
        enforcer.keep_alive(script.name)
        ending = RELEASED
        if script.finish is not Finish.RELEASE:
            truth.output_tokens = await self._streamed(enforcer, verdict)
            ending = reported_ending(Usage(input=script.input_tokens, output=truth.output_tokens))
        self._world.tell(script.name, "its reply has ended")
        enforcer.let_go(script.name)
        await enforcer.end(verdict.record, verdict.decision.estimate, ending)
        self._acknowledged(State.RELEASED if ending is RELEASED else State.SETTLED)

    async def _streamed(self, enforcer: Enforcer, verdict: Verdict) -> int:
        """The output tokens of a reply that is topped up as it grows, and cut where it cannot be.

        A client that vanishes hangs up in the middle.
        """
        script, truth = self._script, self._truth
        held = verdict.decision.estimate.maximum.output_tokens
        generated = script.output_tokens if script.finish is Finish.SETTLE else script.output_tokens // 2
        if verdict.max_output_tokens is not None:
            generated = min(generated, verdict.max_output_tokens)
        truth.output_tokens = min(held, generated)
        await asyncio.sleep(script.lasts / 2)
        while held < generated:
            try:
                granted = await enforcer.extend(
                    script.name, verdict.decision.estimate, wanted_tokens=max(held, 1), at_least_tokens=1
                )
            except (StoreError, ReservationEnded):
                granted = 0
            if not granted:
                break
            held += granted
            truth.output_tokens = min(held, generated)
        await asyncio.sleep(script.lasts / 2)
        return min(held, generated)

    def _envoy_ask(self, enforcer: Enforcer) -> Ask:
        script = self._script
        facts = RequestFacts(model=MODEL, streamed=True, prompt=Prompt(()), max_output_tokens=script.max_output_tokens)
        return Ask(
            request_id=script.name,
            provider=_PROVIDER,
            endpoint=_ENDPOINT,
            facts=facts,
            identity=script.identity,
            policy=enforcer.policy,
            input_tokens=script.input_tokens,
            reread=lambda edits: replace(facts, max_output_tokens=edits.max_output_tokens),
        )

    def _granted(self, maximum: int | None) -> None:
        """The client was told that it may go on, with its output lowered to `maximum` if there is one."""
        row = self._world.model.row_of(self._script.name)
        bound = self._script.max_output_tokens
        told = maximum if maximum is not None else bound
        check(told in (None, row.output_tokens_max), "who is clamped is told so", (self._script.name, told))
        self._truth.granted = True

    def _check_block(self) -> None:
        asked_at_ms = self._truth.asked_at_ms or 0
        blocked = self._world.model.state.was_blocked(self._script.identity, since_ms=asked_at_ms)
        check(blocked, "nobody is refused by a block that is not there", self._script.name)

    def _acknowledged(self, ending: State) -> None:
        self._world.model.acknowledged(self._script.name, ending)
        self._world.tell(self._script.name, f"knows that it is {ending}")

"""`policyd.v1.PolicyService` over the enforcer that Envoy's exchanges go through too."""

from __future__ import annotations

from typing import Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio  # type: ignore[attr-defined]  # its stubs know the thread server alone
from grpc_reflection.v1alpha import reflection

from policyd.api import digest, reading, writing
from policyd.api.calls import Calls, Context
from policyd.core.reservation import State
from policyd.core.runtime import Blocked
from policyd.enforcer import RELEASED, Enforcer, reported_ending
from policyd.v1 import policy_service_pb2 as service
from policyd.v1 import policy_service_pb2_grpc, verdict_pb2

SERVICE = service.DESCRIPTOR.services_by_name["PolicyService"]

SERVICE_NAME: str = SERVICE.full_name
"""What health answers for beside the whole server, whose name is empty."""


class PolicyServicer(policy_service_pb2_grpc.PolicyServiceServicer):
    """Answers the calls. What each promises stands in `proto/policyd/v1/policy_service.proto`.

    A method raises what `policyd.api.errors` has a status for, and knows nothing of gRPC.
    """

    def __init__(self, enforcer: Enforcer) -> None:
        self._enforcer = enforcer

    async def CheckBudget(self, request: service.CheckBudgetRequest, context: Context) -> service.CheckBudgetResponse:
        ask = reading.ask(request.model_request, self._enforcer.policy)
        try:
            decision = await self._enforcer.check(ask)
        except Blocked as refused:
            return service.CheckBudgetResponse(verdict=self._block_verdict(refused))
        return service.CheckBudgetResponse(verdict=writing.verdict(decision))

    async def EstimateCost(
        self, request: service.EstimateCostRequest, context: Context
    ) -> service.EstimateCostResponse:
        estimate = await self._enforcer.estimate(reading.ask(request.model_request, self._enforcer.policy))
        return service.EstimateCostResponse(estimate=writing.estimate(estimate))

    async def Reserve(self, request: service.ReserveRequest, context: Context) -> service.ReserveResponse:
        request_id = reading.identifier(request.request_id, "request_id")
        ttl_seconds = reading.ttl_seconds(request)
        ask = reading.ask(request.model_request, self._enforcer.policy, request_id=request_id)
        fingerprint = digest.fingerprint(request)
        try:
            verdict = await self._enforcer.reserve(ask, fingerprint=fingerprint, ttl_seconds=ttl_seconds)
        except Blocked as refused:
            await self._enforcer.end_blocked(ask, refused.block)
            return service.ReserveResponse(verdict=self._block_verdict(refused))
        if verdict.expires_at_ms is None:
            await self._enforcer.end_unheld(verdict.record)
            return service.ReserveResponse(verdict=writing.verdict(verdict.decision))
        return service.ReserveResponse(
            verdict=writing.verdict(verdict.decision),
            reservation_id=request_id,
            expires_at=writing.timestamp(verdict.expires_at_ms),
            repeated=verdict.earlier is not None,
            state=writing.state(verdict.earlier or State.RESERVED),
            set_max_output_tokens=verdict.max_output_tokens,
            set_model=verdict.decision.changes.model,
        )

    async def Extend(self, request: service.ExtendRequest, context: Context) -> service.ExtendResponse:
        wanted = reading.within(request.wanted_output_tokens, "wanted_output_tokens", 0, reading.UNITS_MAX)
        at_least = wanted
        if request.HasField("at_least_output_tokens"):
            at_least = reading.within(request.at_least_output_tokens, "at_least_output_tokens", 0, wanted)
        granted, expires_at_ms = await self._enforcer.extend_held(
            reading.identifier(request.reservation_id, "reservation_id"),
            wanted_tokens=wanted,
            at_least_tokens=at_least,
            ttl_seconds=reading.ttl_seconds(request),
        )
        return service.ExtendResponse(granted_output_tokens=granted, expires_at=writing.timestamp(expires_at_ms))

    async def Settle(self, request: service.SettleRequest, context: Context) -> service.SettleResponse:
        ended = await self._enforcer.end_held(
            reading.identifier(request.reservation_id, "reservation_id"),
            reported_ending(
                reading.usage(request),
                status=reading.http_status(request),
                response_model=reading.text(request.model, "model") if request.HasField("model") else None,
                terms=reading.terms(request.terms, "terms"),
            ),
        )
        return service.SettleResponse(
            state_before=writing.state(ended.found), cost=writing.money(ended.record.actual_cost_nanos or 0)
        )

    async def Release(self, request: service.ReleaseRequest, context: Context) -> service.ReleaseResponse:
        reservation_id = reading.identifier(request.reservation_id, "reservation_id")
        ended = await self._enforcer.end_held(reservation_id, RELEASED)
        return service.ReleaseResponse(state_before=writing.state(ended.found))

    async def RecordUsage(self, request: service.RecordUsageRequest, context: Context) -> service.RecordUsageResponse:
        ended = await self._enforcer.record_usage(
            reading.served_ask(request, self._enforcer.policy),
            reading.usage(request),
            status=reading.http_status(request),
            fingerprint=digest.fingerprint(request),
        )
        return service.RecordUsageResponse(
            cost=writing.money(ended.record.actual_cost_nanos or 0), repeated=ended.repeated
        )

    async def GetBudget(self, request: service.GetBudgetRequest, context: Context) -> service.GetBudgetResponse:
        policy = self._enforcer.policy
        identity = reading.identity(request.attributes, "attributes", policy)
        reports = await self._enforcer.budget(policy, {**identity, **reading.request_attributes(request)})
        return service.GetBudgetResponse(limits=map(writing.limit_report, reports))

    async def ListUsage(self, request: service.ListUsageRequest, context: Context) -> service.ListUsageResponse:
        wanted = reading.usage_filter(request)
        cursor = digest.cursor(request)
        try:
            page = await self._enforcer.usage(wanted, limit=reading.page_size(request.page_size), cursor=cursor)
        except ValueError:
            raise digest.bad_page_token() from None
        return service.ListUsageResponse(
            usage_records=map(writing.usage_record, page.records),
            next_page_token=digest.page_token(request, page.next_cursor),
        )

    def _block_verdict(self, refused: Blocked) -> verdict_pb2.Verdict:
        return writing.block_verdict(refused.block, now_ms=self._enforcer.now_ms())


def add_policy_service(server: grpc.aio.Server, enforcer: Enforcer) -> Calls:
    """Makes `server` answer PolicyService. Once it has stopped, what is returned has to be finished: its last calls."""
    calls = Calls()
    calls.add_to(server, SERVICE, PolicyServicer(enforcer))
    return calls


class HealthServicer(Protocol):
    """The standard health service, `grpc.health.v1.Health`.

    The whole server is SERVING from the start; a service is not known until it is set.
    """

    async def set(self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        """Sets the status of a service by its full name, of the whole server by the empty name."""
        ...

    async def enter_graceful_shutdown(self) -> None:
        """Sets every status to NOT_SERVING, for good."""
        ...


def add_standard_services(server: grpc.aio.Server) -> HealthServicer:
    """Makes `server` answer health, and reflection of all that it serves."""
    servicer: HealthServicer = aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    served = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(served, server)
    return servicer

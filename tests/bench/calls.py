"""The calls of PolicyService that are measured, as another service makes them: with tokens that it counted itself."""

from __future__ import annotations

import uuid

from policyd.v1.model_request_pb2 import ModelRequest, TokenCounts
from policyd.v1.policy_service_pb2 import CheckBudgetRequest, ReserveRequest, ReserveResponse, SettleRequest
from policyd.v1.usage_pb2 import Usage
from tests.bench.grpc_load import GrpcConnection
from tests.bench.load import UnexpectedReply
from tests.bench.traffic import ATTRIBUTES, INPUT_TOKENS, MAX_OUTPUT_TOKENS, MODEL, OUTPUT_TOKENS

_SERVICE = "/policyd.v1.PolicyService"

_MODEL_REQUEST = ModelRequest(
    attributes=ATTRIBUTES,
    provider="openai",
    endpoint="chat.completions",
    counts=TokenCounts(model=MODEL, input_tokens=INPUT_TOKENS, max_output_tokens=MAX_OUTPUT_TOKENS),
)
_CHECK_BUDGET = CheckBudgetRequest(model_request=_MODEL_REQUEST).SerializeToString()
_USAGE = Usage(input=INPUT_TOKENS, output=OUTPUT_TOKENS)


def check_budget_request() -> bytes:
    return _CHECK_BUDGET


def reserve_request(reservation_id: str) -> bytes:
    return ReserveRequest(request_id=reservation_id, model_request=_MODEL_REQUEST).SerializeToString()


def settle_request(reservation_id: str) -> bytes:
    return SettleRequest(reservation_id=reservation_id, usage=_USAGE).SerializeToString()


async def check_budget(connection: GrpcConnection) -> int:
    """One call that changes nothing."""
    await connection.call(f"{_SERVICE}/CheckBudget", _CHECK_BUDGET)
    return 1


async def reserve_and_settle(connection: GrpcConnection) -> int:
    """A hold, and the charge that ends it."""
    reservation_id = uuid.uuid4().hex
    answer = await connection.call(f"{_SERVICE}/Reserve", reserve_request(reservation_id))
    if ReserveResponse.FromString(answer).reservation_id != reservation_id:
        raise UnexpectedReply("a reservation was refused: the policy of the benchmark should have room for all")
    await connection.call(f"{_SERVICE}/Settle", settle_request(reservation_id))
    return 2

"""Every reason that a call can fail for: what brings it about, and that nothing else does."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2

from policyd.api.errors import status_of
from policyd.core import errors
from policyd.core.grouping import Grouping, Tiers
from policyd.core.policy import Unbounded, UnknownModel, UnknownModelAction
from policyd.core.reservation import TRANSITIONS, Event, State
from policyd.v1 import model_request_pb2 as requests
from policyd.v1 import policy_service_pb2 as service
from policyd.v1 import usage_pb2
from policyd.v1.error_reason_pb2 import ErrorReason
from tests.api.messages import chat, check, counted, extend, record, release, reserve, seconds, settle, with_body
from tests.api.serving import TURNED_AWAY, Api, failure, limit, raising, raw_call

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

Call = Callable[[Api], Awaitable[Awaitable[object]]]


@dataclass(frozen=True)
class Case:
    """One way to a reason: `call` prepares and makes the call that fails."""

    reason: str
    code: grpc.StatusCode
    call: Call
    metadata: dict[str, str]


CASES: list[Case] = []


def case(reason: str, code: grpc.StatusCode, **metadata: str) -> Callable[[Call], Call]:
    def register(call: Call) -> Call:
        CASES.append(Case(reason, code, call, metadata))
        return call

    return register


@case("FIELD_INVALID", INVALID_ARGUMENT, field="ttl", expected="1 s to 1 h")
async def invalid_field(api: Api) -> Awaitable[object]:
    return api.stub.Reserve(reserve(ttl_seconds=0.5))


@case("ACCESS_DENIED", grpc.StatusCode.UNAUTHENTICATED)
async def without_access(api: Api) -> Awaitable[object]:
    return api.stub.CheckBudget(check(counted()), metadata=(("authorization", TURNED_AWAY),))


@case("MESSAGE_UNREADABLE", INVALID_ARGUMENT, message="policyd.v1.ReserveRequest")
async def unreadable_message(api: Api) -> Awaitable[object]:
    return raw_call(api, "Reserve", b"\xff\xff\xff")


@case("BODY_UNREADABLE", INVALID_ARGUMENT)
async def unreadable_body(api: Api) -> Awaitable[object]:
    return api.stub.CheckBudget(check(with_body(b'{"model": "gpt-4o", "messages": [')))


@case("ATTRIBUTE_INVALID", INVALID_ARGUMENT)
async def invalid_attribute(api: Api) -> Awaitable[object]:
    return api.stub.CheckBudget(check(counted(attributes={"project": "a\nb"})))


@case("ATTRIBUTE_MISSING", INVALID_ARGUMENT)
async def missing_attribute(api: Api) -> Awaitable[object]:
    api.policy = replace(api.policy, strict=True, limits=(limit(per=("user",)),))
    return api.stub.CheckBudget(check(counted()))


@case("TIER_UNKNOWN", INVALID_ARGUMENT)
async def unknown_tier(api: Api) -> Awaitable[object]:
    api.policy = replace(api.policy, grouping=Grouping(tiers=Tiers(("free", "pro"))))
    return api.stub.CheckBudget(check(counted(attributes={"tier": "gold"})))


@case("OUTPUT_UNBOUNDED", INVALID_ARGUMENT)
async def unbounded_output(api: Api) -> Awaitable[object]:
    api.policy = replace(api.policy, unbounded=Unbounded.DENY)
    return api.stub.CheckBudget(check(counted(1_000, None)))


@case("MODEL_UNPRICED", FAILED_PRECONDITION)
async def unpriced_model(api: Api) -> Awaitable[object]:
    api.policy = replace(api.policy, unknown_model=UnknownModel(UnknownModelAction.DENY, None))
    return api.stub.CheckBudget(check(counted(model="of-tomorrow")))


@case("RESERVATION_NOT_FOUND", grpc.StatusCode.NOT_FOUND, reservation_id="r9")
async def unknown_reservation(api: Api) -> Awaitable[object]:
    return api.stub.Settle(settle("r9"))


@case("RESERVATION_NOT_FOUND", grpc.StatusCode.NOT_FOUND, reservation_id="r1")
async def forgotten_reservation(api: Api) -> Awaitable[object]:
    await api.stub.Reserve(reserve())
    await api.stub.Release(release())
    await api.expire()
    return api.stub.Release(release())


@case("RESERVATION_ALREADY_SETTLED", FAILED_PRECONDITION, reservation_id="r1")
async def settled_reservation(api: Api) -> Awaitable[object]:
    await api.stub.Reserve(reserve())
    await api.stub.Settle(settle())
    return api.stub.Release(release())


@case("RESERVATION_ALREADY_RELEASED", FAILED_PRECONDITION, reservation_id="r1")
async def released_reservation(api: Api) -> Awaitable[object]:
    await api.stub.Reserve(reserve())
    await api.stub.Release(release())
    return api.stub.Settle(settle())


@case("RESERVATION_EXPIRED", FAILED_PRECONDITION, reservation_id="r1")
async def expired_reservation(api: Api) -> Awaitable[object]:
    await api.stub.Reserve(reserve())
    await api.expire()
    return api.stub.Extend(extend())


@case("REQUEST_ID_REUSED", grpc.StatusCode.ALREADY_EXISTS, request_id="r1")
async def reused_request_id(api: Api) -> Awaitable[object]:
    await api.stub.Reserve(reserve())
    return api.stub.Reserve(reserve(request=counted(1)))


@case("STORE_UNAVAILABLE", UNAVAILABLE)
async def closed_store(api: Api) -> Awaitable[object]:
    await api.store.close()
    return api.stub.Reserve(reserve())


@case("STORE_FAILED", UNAVAILABLE)
async def failed_store(api: Api) -> Awaitable[object]:
    api.troubles["reserve"] = raising(errors.StoreError("the store could not commit"))
    return api.stub.Reserve(reserve())


@case("INTERNAL", grpc.StatusCode.INTERNAL)
async def defect(api: Api) -> Awaitable[object]:
    api.troubles["reserve"] = raising(KeyError("the prompt of a user"))
    return api.stub.Reserve(reserve())


@pytest.mark.parametrize("case_", CASES, ids=lambda each: each.call.__name__)
async def test_every_reason(api: Api, case_: Case) -> None:
    failed = await failure(await case_.call(api))
    assert (failed.reason, failed.code) == (case_.reason, case_.code)
    assert failed.metadata == case_.metadata
    assert failed.message


def test_no_reason_is_without_a_case() -> None:
    promised = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 - an enum wrapper is no mapping
    assert {each.reason for each in CASES} == promised


def test_the_examples_in_the_contract_are_true() -> None:
    """Each reason's comment shows the code, the reason and the metadata that its cases have."""
    for each in CASES:
        code, info = EXAMPLES[f"ERROR_REASON_{each.reason}"]
        assert (code, info["reason"], info["domain"]) == (each.code.name, each.reason, "policyd")
        assert info.get("metadata", {}).keys() == each.metadata.keys()


def examples() -> dict[str, tuple[str, Any]]:
    """The examples in `error_reason.proto` by the name of the value: the code and the `ErrorInfo`."""
    found = {}
    for comment, name in re.findall(r"((?: *//.*\n)+) *(ERROR_REASON_\w+) =", PROTO.read_text()):
        text = re.sub(r"^ *// ?", "", comment, flags=re.MULTILINE)
        if example := re.search(r"Example: (\w+)\n(.*)", text, re.DOTALL):
            found[name] = example[1], json.loads(example[2])
    return found


PROTO = Path(__file__).parents[2] / "proto" / "policyd" / "v1" / "error_reason.proto"
EXAMPLES = examples()


async def test_a_defect_shows_its_caller_nothing_and_its_log_no_content(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="policyd"):
        failed = await failure(await defect(api))
    assert failed.message == "policyd could not carry out the call; its log says why"
    (logged,) = (entry.getMessage() for entry in caplog.records if entry.name.startswith("policyd"))
    assert "KeyError" in logged
    assert "in Reserve" in logged
    assert "prompt" not in logged


MET_BY_NO_CALL = {
    errors.BodyTooSlow,
    errors.BodyTooLarge,
    errors.EndpointUnknown,
    errors.KeyForbidden,
    errors.KeyInvalid,
    errors.ProviderKeyMissing,
    errors.RequestSigned,
    errors.ProtocolError,
    errors.ConfigError,
    errors.StaleState,
}


def test_every_error_has_a_status() -> None:
    def leaves(kind: type[errors.PolicydError]) -> Iterator[type[errors.PolicydError]]:
        for below in kind.__subclasses__():
            if below.__module__ == errors.__name__:
                yield from leaves(below) if below.__subclasses__() else iter((below,))

    kinds: set[type[errors.PolicydError]] = {errors.StoreError, *leaves(errors.PolicydError)}
    # A defect is INTERNAL, of the store too.
    for kind in kinds - MET_BY_NO_CALL - {errors.ReservationEnded, errors.StoreDefect}:
        assert status_of(kind("what happened")).code != code_pb2.INTERNAL, kind


def test_every_end_that_stands_in_the_way_has_a_reason() -> None:
    missing = {(state, event) for state in State for event in Event if (state, event) not in TRANSITIONS}
    for state, event in missing:
        status = status_of(errors.ReservationEnded("r1", state=state, event=event))
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert str(state).upper() in info.reason


A_BODY = requests.RequestBody(content=b'{"model": "gpt-4o", "messages": []}')
LONG = "x" * 300
MANY = {f"a{number}": "x" for number in range(65)}


def at_path(path: str) -> requests.RequestBody:
    return requests.RequestBody(path=path, content=A_BODY.content)


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("request_id", reserve("")),
        ("request_id", reserve("x" * 129)),
        ("request_id", reserve("a\u200bb")),
        ("ttl", reserve(ttl_seconds=3600.000000001)),
        ("ttl", reserve(ttl_seconds=0)),
        ("ttl", reserve(ttl_seconds=-5)),
        ("model_request.provider", check(requests.ModelRequest())),
        ("model_request.provider", check(requests.ModelRequest(provider=LONG))),
        ("model_request.endpoint", check(requests.ModelRequest(provider="openai", counts=requests.TokenCounts()))),
        ("model_request.endpoint", check(requests.ModelRequest(provider="openai", endpoint=LONG, body=A_BODY))),
        ("model_request", check(requests.ModelRequest(provider="openai", endpoint="messages"))),
        ("model_request.attributes", check(counted(attributes=MANY))),
        ("model_request.attributes", check(counted(attributes={"Project": "acme"}))),
        ("model_request.attributes", check(counted(attributes={"model": "gpt-4o"}))),
        ("model_request.counts.model", check(counted(model=""))),
        ("model_request.counts.model", check(counted(model=LONG))),
        ("model_request.counts.input_tokens", check(counted(-1))),
        ("model_request.counts.input_tokens", check(counted(100_000_001))),
        ("model_request.counts.max_output_tokens", check(counted(1, -1))),
        ("model_request.counts.max_output_tokens", check(counted(1, 100_000_001))),
        ("model_request.counts.choices", check(counted(choices=0))),
        ("model_request.counts.choices", check(counted(choices=129))),
        ("model_request.counts.cache_write", check(counted(cache_write=9))),
        ("model_request.counts.terms", check(counted(terms={"": "x"}))),
        ("model_request.counts.terms", check(counted(terms={str(number): "x" for number in range(17)}))),
        ("model_request.body.path", check(requests.ModelRequest(provider="google", body=A_BODY))),
        ("model_request.body.path", check(requests.ModelRequest(provider="openai", body=at_path("/v1/pictures")))),
        ("model_request.body.path", check(requests.ModelRequest(provider="openai", body=at_path("/v1/moderations")))),
        ("reservation_id", settle("")),
        ("reservation_id", release("")),
        ("reservation_id", extend("")),
        ("usage", service.SettleRequest(reservation_id="r1")),
        ("usage.output", settle(usage={"output": -1})),
        ("usage.web_searches", settle(usage={"web_searches": 1_000_001})),
        ("usage.characters", settle(usage={"characters": 100_000_001})),
        ("model", settle(model="")),
        ("terms", settle(terms={"x": ""})),
        ("status", settle(status=99)),
        ("status", settle(status=600)),
        ("wanted_output_tokens", extend(wanted=-1)),
        ("wanted_output_tokens", extend(wanted=100_000_001)),
        ("at_least_output_tokens", extend(wanted=5, at_least_output_tokens=6)),
        ("at_least_output_tokens", extend(wanted=5, at_least_output_tokens=-1)),
        ("ttl", extend(ttl=seconds(3601))),
        ("request_id", record("")),
        ("model", record(model="")),
        ("usage", service.RecordUsageRequest(request_id="u", provider="p", endpoint="e", model="m")),
        ("usage.input", record(usage={"input": 100_000_001})),
        ("terms", record(terms={"x": LONG})),
        ("status", record(status=0)),
        ("attributes", record(attributes={"": "x"})),
        ("attributes", service.GetBudgetRequest(attributes=MANY)),
        ("provider", service.GetBudgetRequest(provider="")),
        ("model", service.GetBudgetRequest(model=LONG)),
        ("endpoint", service.GetBudgetRequest(endpoint="\n")),
        ("attributes", service.ListUsageRequest(attributes={"provider": "openai"})),
        ("from_time", service.ListUsageRequest(from_time=Timestamp(seconds=2**62))),
        ("until_time", service.ListUsageRequest(until_time=Timestamp(nanos=-1))),
        ("page_size", service.ListUsageRequest(page_size=-1)),
        ("page_token", service.ListUsageRequest(page_token="x")),
    ],
)
async def test_a_field_that_cannot_be_is_named(api: Api, field: str, request_: Message) -> None:
    await api.stub.Reserve(reserve("r1"))
    method = getattr(api.stub, type(request_).__name__.removesuffix("Request"))
    failed = await failure(method(request_))
    assert (failed.code, failed.reason) == (INVALID_ARGUMENT, "FIELD_INVALID")
    assert failed.metadata["field"] == field
    assert failed.message == f"{field}: expected {failed.metadata['expected']}"


async def test_no_input_however_long_breaks_the_answer(api: Api) -> None:
    """The status travels in trailers, which are smaller than a message."""
    long = "é" * 100_000
    for call in (
        api.stub.CheckBudget(check(chat(model=long))),
        api.stub.CheckBudget(check(chat(stream=long))),
        api.stub.CheckBudget(check(counted(model=long))),
        api.stub.CheckBudget(check(counted(attributes={"project": long}))),
        api.stub.CheckBudget(check(counted(attributes={long: "acme"}))),
        api.stub.Settle(settle(long)),
        api.stub.ListUsage(service.ListUsageRequest(page_token=long)),
    ):
        assert (await failure(call)).code == INVALID_ARGUMENT


async def test_what_is_refused_holds_and_records_nothing(api: Api) -> None:
    await failure(api.stub.Reserve(reserve(request=with_body(b"[]"))))
    await failure(api.stub.RecordUsage(record(usage=usage_pb2.Usage(input=-1))))
    assert not (await api.stub.ListUsage(service.ListUsageRequest())).usage_records
    assert not api.seen.records

"""From an error to the `google.rpc.Status` that the caller gets: one table, the only one.

Every status has exactly one `ErrorInfo`. An error that the table lacks is a defect of policyd, or met at Envoy's edge
alone: it is INTERNAL, and its words stay here.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.any_pb2 import Any as PackedMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from policyd.core.errors import (
    AttributeInvalid,
    AttributeMissing,
    BodyUnreadable,
    ModelUnpriced,
    OutputUnbounded,
    PolicydError,
    ReservationEnded,
    ReservationError,
    ReservationMismatch,
    ReservationNotFound,
    StoreError,
    StoreUnavailable,
    TierUnknown,
    Unjournalled,
)
from policyd.core.reservation import State
from policyd.v1 import error_reason_pb2 as reasons
from policyd.v1.error_reason_pb2 import ErrorReason

DOMAIN = "policyd"
"""The domain of every `ErrorInfo`."""


class FieldInvalid(PolicydError):
    """A field of a call has a value that it cannot have."""

    def __init__(self, field: str, *, expected: str) -> None:
        super().__init__(f"{field}: expected {expected}")
        self.field = field
        self.expected = expected


class MessageUnreadable(PolicydError):
    """The bytes of a call are not the message that its method takes."""

    def __init__(self, message_name: str) -> None:
        super().__init__(f"the call does not hold a {message_name}")
        self.message_name = message_name


class AccessDenied(PolicydError):
    """The caller has shown no bearer token that is good here."""

    def __init__(self) -> None:
        super().__init__("authorization: expected a bearer token that policyd knows")


_STATUSES: Mapping[type[PolicydError], tuple[int, ErrorReason.ValueType]] = {
    FieldInvalid: (code_pb2.INVALID_ARGUMENT, reasons.ERROR_REASON_FIELD_INVALID),
    AccessDenied: (code_pb2.UNAUTHENTICATED, reasons.ERROR_REASON_ACCESS_DENIED),
    MessageUnreadable: (code_pb2.INVALID_ARGUMENT, reasons.ERROR_REASON_MESSAGE_UNREADABLE),
    BodyUnreadable: (code_pb2.INVALID_ARGUMENT, reasons.ERROR_REASON_BODY_UNREADABLE),
    AttributeInvalid: (code_pb2.INVALID_ARGUMENT, reasons.ERROR_REASON_ATTRIBUTE_INVALID),
    AttributeMissing: (code_pb2.INVALID_ARGUMENT, reasons.ERROR_REASON_ATTRIBUTE_MISSING),
    TierUnknown: (code_pb2.INVALID_ARGUMENT, reasons.ERROR_REASON_TIER_UNKNOWN),
    OutputUnbounded: (code_pb2.INVALID_ARGUMENT, reasons.ERROR_REASON_OUTPUT_UNBOUNDED),
    ModelUnpriced: (code_pb2.FAILED_PRECONDITION, reasons.ERROR_REASON_MODEL_UNPRICED),
    ReservationNotFound: (code_pb2.NOT_FOUND, reasons.ERROR_REASON_RESERVATION_NOT_FOUND),
    ReservationMismatch: (code_pb2.ALREADY_EXISTS, reasons.ERROR_REASON_REQUEST_ID_REUSED),
    Unjournalled: (code_pb2.UNAVAILABLE, reasons.ERROR_REASON_STORE_UNAVAILABLE),
    StoreUnavailable: (code_pb2.UNAVAILABLE, reasons.ERROR_REASON_STORE_UNAVAILABLE),
    StoreError: (code_pb2.UNAVAILABLE, reasons.ERROR_REASON_STORE_FAILED),
}

_ENDED: Mapping[str, ErrorReason.ValueType] = {
    State.SETTLED: reasons.ERROR_REASON_RESERVATION_ALREADY_SETTLED,
    State.RELEASED: reasons.ERROR_REASON_RESERVATION_ALREADY_RELEASED,
    State.EXPIRED: reasons.ERROR_REASON_RESERVATION_EXPIRED,
}
"""The reason of a `ReservationEnded`, by the state that stands in the way. Always FAILED_PRECONDITION."""


def status_of(error: Exception) -> status_pb2.Status:
    """The status that a caller gets for `error`."""
    found = _code_and_reason(error)
    if found is None:
        return _status(
            code_pb2.INTERNAL,
            reasons.ERROR_REASON_INTERNAL,
            "policyd could not carry out the call; its log says why",
            {},
        )
    code, reason = found
    return _status(code, reason, str(error), _metadata(error))


def is_defect(error: Exception) -> bool:
    """Whether `error` has no status of its own, so that the caller learns nothing of it but that it happened."""
    return _code_and_reason(error) is None


def _code_and_reason(error: Exception) -> tuple[int, ErrorReason.ValueType] | None:
    if isinstance(error, ReservationEnded):
        return code_pb2.FAILED_PRECONDITION, _ENDED[error.state]
    return _STATUSES.get(type(error)) if isinstance(error, PolicydError) else None


def _metadata(error: Exception) -> dict[str, str]:
    match error:
        case FieldInvalid(field=field, expected=expected):
            return {"field": field, "expected": expected}
        case MessageUnreadable(message_name=name):
            return {"message": name}
        case ReservationMismatch(reservation_id=request_id):
            return {"request_id": request_id}
        case ReservationError(reservation_id=reservation_id):
            return {"reservation_id": reservation_id}
        case _:
            return {}


def _status(code: int, reason: ErrorReason.ValueType, message: str, metadata: Mapping[str, str]) -> status_pb2.Status:
    name = ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
    detail = PackedMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=name, domain=DOMAIN, metadata=metadata))
    return status_pb2.Status(code=code, message=message, details=[detail])

"""Digests of calls: whether a call is the one that came before."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256

from google.protobuf.message import Message

from policyd.api.errors import FieldInvalid
from policyd.v1 import policy_service_pb2 as service

_FILTER_DIGEST_BYTES = 8


def fingerprint(request: service.ReserveRequest | service.RecordUsageRequest) -> str:
    """Equal for equal calls. The request id in it makes equal prompts of different calls unequal."""
    return _digest(request).hex()


def page_token(request: service.ListUsageRequest, cursor: str) -> str:
    """The token of the page at `cursor`, good for calls that ask for the same records as `request`."""
    return urlsafe_b64encode(_filter_digest(request) + cursor.encode()).decode() if cursor else ""


def cursor(request: service.ListUsageRequest) -> str:
    """The cursor in the call's page token, empty for the first page.

    Raises `FieldInvalid` for a token that no call with the same filter has given.
    """
    if not request.page_token:
        return ""
    try:
        token = urlsafe_b64decode(request.page_token)
        digest, found = token[:_FILTER_DIGEST_BYTES], token[_FILTER_DIGEST_BYTES:].decode()
    except ValueError:
        raise bad_page_token() from None
    if digest != _filter_digest(request) or not found:
        raise bad_page_token()
    return found


def bad_page_token() -> FieldInvalid:
    return FieldInvalid("page_token", expected="next_page_token of a call with the same attributes and times")


def _filter_digest(request: service.ListUsageRequest) -> bytes:
    wanted = service.ListUsageRequest()
    wanted.CopyFrom(request)
    wanted.ClearField("page_size")
    wanted.ClearField("page_token")
    return _digest(wanted)[:_FILTER_DIGEST_BYTES]


def _digest(message: Message) -> bytes:
    return sha256(message.SerializeToString(deterministic=True)).digest()

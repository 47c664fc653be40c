"""Refusals in Bedrock's own error shape. boto3 raises its natural exceptions."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest

from policyd.providers.base import ErrorInfo
from policyd.providers.framing.event_stream import EventStreamFramer, encode_message
from policyd.providers.registry import BEDROCK_CONVERSE, BEDROCK_INVOKE
from tests.providers.test_errors import EXACT, answering, error

WIRES = pytest.mark.parametrize("wire", [BEDROCK_CONVERSE, BEDROCK_INVOKE], ids=lambda wire: wire.name)

ERRORS = [
    (400, "ValidationException", "validationException"),
    (401, "AccessDeniedException", "validationException"),
    (402, "ServiceQuotaExceededException", "throttlingException"),
    (403, "AccessDeniedException", "validationException"),
    (404, "ResourceNotFoundException", "validationException"),
    (413, "ValidationException", "validationException"),
    (429, "ThrottlingException", "throttlingException"),
    (500, "InternalServerException", "internalServerException"),
    (502, "InternalServerException", "modelStreamErrorException"),
    (503, "ServiceUnavailableException", "serviceUnavailableException"),
]

MESSAGE = {"role": "user", "content": [{"text": "Hi"}]}
MODEL = "amazon.nova-lite-v1:0"


@WIRES
@pytest.mark.parametrize(("status", "name", "event"), ERRORS)
def test_errors(wire: Any, status: int, name: str, event: str) -> None:
    numbers = {"reason": "limit_exceeded", "remaining_usd": float(EXACT), "limits": [{"name": "a"}]}
    shown = {"message": "The budget is spent: 1.00 of 1.00 USD.", "policyd": numbers}
    assert json.loads(wire.error_body(error(status))) == {"__type": name, **shown}
    (frame,) = EventStreamFramer().feed(wire.error_event(error(status)))
    assert frame.event == event
    assert json.loads(frame.data) == shown


@WIRES
def test_money_is_printed_to_the_last_digit(wire: Any) -> None:
    for written in (wire.error_body(error(402)), wire.error_event(error(402))):
        assert f'"remaining_usd":{EXACT}'.encode() in written


@WIRES
def test_a_long_message_is_one_event(wire: Any) -> None:
    (frame,) = EventStreamFramer().feed(wire.error_event(ErrorInfo(402, "r", "two\nlines " * 10_000)))
    assert json.loads(frame.data)["message"] == "two\nlines " * 10_000


@pytest.fixture
def bedrock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a client for the server at an address."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "k")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return lambda address: boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=address)


@pytest.mark.parametrize(("status", "name", "_"), ERRORS)
def test_boto3_raises_its_natural_exception(bedrock: Any, status: int, name: str, _: str) -> None:
    with answering(status, BEDROCK_CONVERSE.error_body(error(status))) as address:
        client = bedrock(address)
        with pytest.raises(getattr(client.exceptions, name)) as caught:
            client.converse(modelId=MODEL, messages=[MESSAGE])
        with pytest.raises(getattr(client.exceptions, name)):
            client.invoke_model(modelId=MODEL, body=b"{}")
    response: Any = caught.value.response
    assert response["Error"]["Message"].startswith("The budget is spent")
    assert response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_boto3_raises_in_a_stream_that_ends_with_an_error(bedrock: Any) -> None:
    headers = {":event-type": "messageStart", ":content-type": "application/json", ":message-type": "event"}
    body = encode_message(headers, b'{"role":"assistant"}') + BEDROCK_CONVERSE.error_event(error(402))
    with answering(200, body, content_type="application/vnd.amazon.eventstream") as address:
        client = bedrock(address)
        events = iter(client.converse_stream(modelId=MODEL, messages=[MESSAGE])["stream"])
        assert next(events) == {"messageStart": {"role": "assistant"}}
        with pytest.raises(Exception, match="The budget is spent") as caught:
            next(events)
    assert type(caught.value).__name__ == "EventStreamError"
    assert caught.value.response["Error"]["Code"] == "throttlingException"  # type: ignore[attr-defined]

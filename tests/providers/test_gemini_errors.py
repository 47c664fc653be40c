"""Refusals in the error shape of Google's APIs."""

from __future__ import annotations

import json

import msgspec
import pytest

from policyd.providers.base import ErrorInfo, WireFormat
from policyd.providers.framing.json_array import JsonArrayFramer
from policyd.providers.framing.sse import SseFramer
from policyd.providers.registry import GEMINI_EMBEDDINGS, GEMINI_GENERATE, GEMINI_INTERACTIONS

WIRES = (GEMINI_GENERATE, GEMINI_EMBEDDINGS, GEMINI_INTERACTIONS)
EXACT = "12345678901234567.000000001"


def error(status: int) -> ErrorInfo:
    numbers = {"remaining_usd": msgspec.Raw(EXACT.encode()), "limits": [{"name": "a"}]}
    return ErrorInfo(status, "limit_exceeded", "The budget\n\nis spent.", numbers)


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (400, "INVALID_ARGUMENT"),
        (402, "RESOURCE_EXHAUSTED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (413, "INVALID_ARGUMENT"),
        (418, "FAILED_PRECONDITION"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (502, "INTERNAL"),
        (503, "UNAVAILABLE"),
    ],
)
@pytest.mark.parametrize("wire", [GEMINI_GENERATE, GEMINI_EMBEDDINGS], ids=lambda wire: wire.name)
def test_bodies(wire: WireFormat, status: int, word: str) -> None:
    body = json.loads(wire.error_body(error(status)))
    assert body["error"] == {
        "code": status,
        "message": "The budget\n\nis spent.",
        "status": word,
        "details": [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "LIMIT_EXCEEDED", "domain": "policyd"}
        ],
        "policyd": {"remaining_usd": float(EXACT), "limits": [{"name": "a"}]},
    }


def test_the_code_of_an_interactions_error_is_a_word_because_the_sdk_takes_no_number() -> None:
    assert json.loads(GEMINI_INTERACTIONS.error_body(error(402)))["error"] == {
        "code": "limit_exceeded",
        "message": "The budget\n\nis spent.",
        "policyd": {"remaining_usd": float(EXACT), "limits": [{"name": "a"}]},
    }


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_money_is_printed_to_the_last_digit(wire: WireFormat) -> None:
    for written in (wire.error_body(error(402)), wire.error_event(error(402))):
        assert f'"remaining_usd":{EXACT}'.encode() in written


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_events_are_whole_events(wire: WireFormat) -> None:
    (frame,) = SseFramer().feed(wire.error_event(error(402)))
    assert json.loads(frame.data)["error"]["policyd"]["limits"] == [{"name": "a"}]
    assert frame.event == ("error" if wire is GEMINI_INTERACTIONS else "")


def test_the_error_comes_first_in_a_streams_event_because_the_sdk_looks_no_further() -> None:
    assert GEMINI_GENERATE.error_event(error(402)).startswith(b'data: {"error":{')


def test_a_stream_that_is_one_array_can_end_with_an_error() -> None:
    framer = JsonArrayFramer()
    passed = framer.feed(b'[{"candidates":[]}')[0].raw
    assert json.loads(passed + framer.end_with(GEMINI_GENERATE.error_body(error(402))))[1]["error"]["code"] == 402

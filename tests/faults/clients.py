"""Clients beside the load: many at once, patient, rude, or in the middle of a stream when something breaks.

Each function blocks. Each request has a session of its own, under the project whose budget never ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Final

from tests.e2e import raw
from tests.e2e.load import MAX_TOKENS
from tests.faults.provider import SESSION
from tests.faults.stage import WIDE

THROUGH: Final = "through"
"""What the sessions of the streams begin with that are open from before a fault until after it."""
STREAMS_THROUGH = 20
LONG_STREAM = {"x-sim-output-tokens": "20", "x-sim-chunk-delay-ms": "250"}
"""Five seconds: longer than the longest outage."""

PATIENT_EACH = 50
SLOW_REPLY = {"x-sim-delay-ms": "3000", "x-sim-chunk-delay-ms": "150"}
"""Longer than a hold lives, before the first byte."""

HANGERS_UP = 1_000
BEGUN_TOGETHER = 50
"""As many as are decided well within Envoy's patience."""
ENDLESS_STREAM = {"x-sim-output-tokens": str(MAX_TOKENS), "x-sim-chunk-delay-ms": "3000"}

END = b"data: [DONE]\n\n"


def begin_streams(address: str, connections: ExitStack) -> Sequence[HTTPResponse]:
    """Streams of which all have begun."""
    asked = _ask_together(address, connections, name=THROUGH, count=STREAMS_THROUGH, stream=True, script=LONG_STREAM)
    return [_begun(each) for each in asked]


def read_to_the_end(streams: Iterable[HTTPResponse]) -> None:
    """Raises `AssertionError` where a stream breaks off."""
    for stream in streams:
        try:
            body = stream.read()
        except (OSError, HTTPException) as error:
            raise AssertionError(f"a stream broke off: {error!r}") from error
        assert body.endswith(END), f"a stream was cut: {body[-200:]!r}"


def wait_for_slow_replies(address: str) -> None:
    """Documents and streams that take their time; raises `AssertionError` unless all come."""
    with ExitStack() as connections:
        asked = [
            *_ask_together(address, connections, name="document", count=PATIENT_EACH, stream=False, script=SLOW_REPLY),
            *_ask_together(address, connections, name="stream", count=PATIENT_EACH, stream=True, script=SLOW_REPLY),
        ]
        statuses = {raw.read(each.getresponse()).status for each in asked}
    assert statuses == {200}, f"slow replies came as {statuses}"


def hang_up(address: str) -> None:
    """`HANGERS_UP` leave together, each in the middle of its stream."""
    with ExitStack() as connections:
        for first in range(0, HANGERS_UP, BEGUN_TOGETHER):
            asked = _ask_together(
                address,
                connections,
                name=f"hanger-up-{first}",
                count=BEGUN_TOGETHER,
                stream=True,
                script=ENDLESS_STREAM,
            )
            for each in asked:
                _begun(each)


def _begun(connection: HTTPConnection) -> HTTPResponse:
    """The reply, of which the first bytes have come."""
    reply = connection.getresponse()
    assert (reply.status, len(reply.read(100))) == (200, 100), f"a stream did not begin: {reply.status}"
    return reply


def _ask_together(
    address: str, connections: ExitStack, *, name: str, count: int, stream: bool, script: Mapping[str, str]
) -> Sequence[HTTPConnection]:
    """Sends so many requests, each on a connection of its own, and waits for no reply."""
    body = raw.chat(max_tokens=MAX_TOKENS, stream=stream)
    asked = [connections.enter_context(raw.connected(address)) for _ in range(count)]
    for number, connection in enumerate(asked):
        headers = {"x-policyd-project": WIDE, SESSION: f"{name}-{number}", **script}
        raw.send_only(connection, body=body, headers=headers)
    return asked

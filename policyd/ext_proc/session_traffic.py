"""The bytes of a session, both ways: cut into units, and kept in the order in which they came until they may pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from policyd.ext_proc import messages as m
from policyd.providers.framing.websocket import Kind, Unit, Violation, WebSocketFramer
from policyd.providers.realtime import NOTHING_RECEIVED, Received


@dataclass(frozen=True, slots=True)
class Passing:
    """What is about to pass, and what it says if it is the provider's."""

    from_client: bool
    unit: Unit
    received: Received = NOTHING_RECEIVED

    @property
    def is_clients_message(self) -> bool:
        return self.from_client and self.unit.kind is Kind.MESSAGE

    @property
    def effect(self) -> m.Effect:
        return m.StreamedBody(response=not self.from_client, body=self.unit.raw, end_of_stream=False)


class Traffic:
    def __init__(self) -> None:
        self._framers = {True: WebSocketFramer(from_client=True), False: WebSocketFramer(from_client=False)}
        """By whether they read what comes from the client."""
        self._ended_sides: set[bool] = set()
        """Whose bytes have ended, in the same terms, and have not been told to the other side."""
        self.waiting: deque[tuple[bool, Unit]] = deque()
        """What has come and has not been read: whether it is from the client, and what."""
        self.passing: Passing | None = None
        """What was read, and waits for what the enforcer was asked."""
        self.provider_has_spoken = False
        """Whether anything of the provider's has come, beside the answer to the handshake."""

    def take(self, event: m.RequestBody | m.ResponseBody) -> None:
        from_client = isinstance(event, m.RequestBody)
        self.provider_has_spoken = self.provider_has_spoken or not from_client
        self.waiting += [(from_client, unit) for unit in self._framers[from_client].feed(event.chunk)]
        if event.end_of_stream:
            self._ended_sides.add(from_client)

    @property
    def is_closed(self) -> bool:
        """Whether either side has said that it closes."""
        return any(framer.is_closed for framer in self._framers.values())

    def violations(self) -> Iterator[tuple[bool, Violation]]:
        """What was against the protocol, and whether the client did it."""
        for from_client, framer in self._framers.items():
            if framer.violation is not None:
                yield from_client, framer.violation

    def received_unread(self) -> Iterator[bytes]:
        """The provider's messages that have come and were not read."""
        return (unit.data for from_client, unit in self.waiting if not from_client and unit.kind is Kind.MESSAGE)

    def tell_ends(self) -> list[m.Effect]:
        """Tells each side, once, that the other one's bytes have ended."""
        ended = [m.StreamedBody(response=not side, body=b"", end_of_stream=True) for side in sorted(self._ended_sides)]
        self._ended_sides.clear()
        return list(ended)

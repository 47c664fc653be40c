"""One gRPC call, as its handler sees it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from policyd.h2rpc.codes import Status
from policyd.h2rpc.headers import Headers, RequestHead
from policyd.h2rpc.messages import MessageReader


class Handler(Protocol):
    """What a service gives for a call. Its methods are called in the event loop, one at a time, and must not block.

    One that raises ends its call with INTERNAL; the error is logged by its type and place, without what it says.
    """

    def on_message(self, message: bytes) -> None:
        """A message has come."""
        ...

    def on_half_close(self) -> None:
        """The client sends no more."""
        ...

    def on_cancelled(self) -> None:
        """The call is over before it was finished: the client gave up, its time was up, or its connection broke.

        Nothing that is sent from now on goes anywhere. Not called once `Call.finish` was.
        """
        ...

    def on_writable(self) -> None:
        """What was sent has left, after `Call.send` said that it had not."""
        ...


class _NoHandler:
    """What stands for the handler of a call that has none."""

    def on_message(self, message: bytes) -> None: ...

    def on_half_close(self) -> None: ...

    def on_cancelled(self) -> None: ...

    def on_writable(self) -> None: ...


_NO_HANDLER: Final[Handler] = _NoHandler()


class CallOwner(Protocol):
    """What a call needs of its connection."""

    def send(self, call: Call, message: bytes) -> bool: ...

    def finish(self, call: Call, status: Status, message: str) -> None: ...

    def resume_reading(self, call: Call) -> None: ...


class Call:
    """A call, until it is finished or cancelled; after that its methods do nothing."""

    __slots__ = (
        "_owner",
        "handler",
        "head",
        "is_over",
        "reader",
        "reading",
        "started",
        "stream_id",
        "waiting",
        "window",
    )

    def __init__(self, owner: CallOwner, stream_id: int, head: RequestHead, *, message_bytes_max: int) -> None:
        self._owner = owner
        self.stream_id = stream_id
        self.head = head
        self.reader = MessageReader(message_bytes_max=message_bytes_max)
        self.waiting: deque[bytes | None] = deque()
        """Messages that came while nothing is read, and `None` for the client's end."""
        self.window = 0
        """Bytes that came while nothing is read."""
        self.reading = True
        self.started = False
        """Whether the reply has begun."""
        self.is_over = False
        self.handler = _NO_HANDLER

    def let_go(self) -> Handler:
        """The handler, which is the call's no more: each holds the other, and would stay until garbage is collected."""
        handler, self.handler = self.handler, _NO_HANDLER
        return handler

    @property
    def metadata(self) -> Headers:
        """Names in lower case, and values."""
        return self.head.headers

    def get(self, name: str) -> str | None:
        """The first value of a name in the metadata."""
        return self.head.get(name)

    def send(self, message: bytes) -> bool:
        """Sends a message; whether it has left. If not, `Handler.on_writable` follows when it has.

        A handler that goes on all the same is not stopped, and what it sends is kept until it leaves: one that answers
        more than it is asked should wait.
        """
        return self.is_over or self._owner.send(self, message)

    def finish(self, status: Status = Status.OK, message: str = "") -> None:
        """Ends the call, after what was sent. `message` is for people, at most 1,024 characters."""
        if not self.is_over:
            self._owner.finish(self, status, message)

    def pause_reading(self) -> None:
        """No message comes to the handler until `resume_reading`; the client may send a window full ahead."""
        self.reading = False

    def resume_reading(self) -> None:
        """What came meanwhile comes to the handler now, before this returns."""
        if not self.reading and not self.is_over:
            self.reading = True
            self._owner.resume_reading(self)


Service = Callable[[Call], Handler]
"""What is called with each call of a method."""

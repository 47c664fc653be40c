"""Between gRPC and the service: bytes in, bytes or a status out.

gRPC is given no message types. Left to itself it answers bytes that are no message with UNKNOWN and Python's own words;
here they are `MessageUnreadable`, and every error, wherever it comes from, becomes a status in one place.

A call that has begun is finished, whether or not its caller is still there: money that was held or charged is also
recorded and counted. A caller that hung up repeats the call and finds what the first one did.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from grpc_status import rpc_status

from policyd.api.errors import MessageUnreadable, is_defect, status_of
from policyd.eager import Rest

_log = logging.getLogger(__name__)

T = TypeVar("T")

Context = grpc.aio.ServicerContext[Any, Any]

Method = Callable[[Message, Context], Awaitable[Message]]
"""One method of a servicer."""


class Calls:
    """The calls under way."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[Any]] = set()

    def add_to(self, server: grpc.aio.Server, service: ServiceDescriptor, servicer: object) -> None:
        """Makes `server` answer the methods of `service`, all unary, with those of `servicer`."""
        handlers = {
            method.name: grpc.unary_unary_rpc_method_handler(
                self._handler(GetMessageClass(method.input_type), getattr(servicer, method.name))
            )
            for method in service.methods
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))

    async def finish(self) -> None:
        """Returns once no call is under way, those included whose caller is gone. For after the server's own stop."""
        while self._open:
            await asyncio.wait(self._open)

    def _handler(self, message_class: type[Message], method: Method) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(request: bytes, context: Context) -> bytes:
            answer = await self._to_the_end(_answer(message_class, method, request, context))
            if isinstance(answer, status_pb2.Status):
                status = rpc_status.to_status(answer)
                await context.abort(status.code, status.details, status.trailing_metadata)
            return answer

        return handle

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            awaited = work.send(None)
        except StopIteration as done:  # it did not have to wait, so that nobody could have hung up
            answer: T = done.value
            return answer
        task = asyncio.get_running_loop().create_task(Rest(work, awaited))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        return await asyncio.shield(task)


async def _answer(
    message_class: type[Message], method: Method, request: bytes, context: Context
) -> bytes | status_pb2.Status:
    """The method's message, or the status of what it raised."""
    try:
        message = await method(_parsed(message_class, request), context)
        return message.SerializeToString()
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status and no internals
        if is_defect(error):
            _log_defect(error)
        return status_of(error)


def _parsed(message_class: type[Message], request: bytes) -> Message:
    try:
        return message_class.FromString(request)
    except DecodeError:
        raise MessageUnreadable(message_class.DESCRIPTOR.full_name) from None


def _log_defect(error: Exception) -> None:
    # Where, but not what: the message of a foreign exception may quote the prompt that it choked on.
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("a call failed with %s:\n%s", type(error).__name__, where)

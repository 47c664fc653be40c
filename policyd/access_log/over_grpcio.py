"""The access log service on grpc.aio. A stream's next message is read when the one before is settled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from policyd.access_log.settling import METHOD, AccessLogs

Context = grpc.aio.ServicerContext[bytes, bytes]
_END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in grpc-stubs
_NOTHING = b""
"""An empty `StreamAccessLogsResponse`, serialised."""


def handler(logs: AccessLogs) -> grpc.GenericRpcHandler[bytes, bytes]:
    """What is served."""

    async def stream(_: AsyncIterator[bytes], context: Context) -> bytes:
        ended = asyncio.Event()
        logs.opened(ended.set)
        ending = asyncio.ensure_future(ended.wait())
        try:
            while (message := await _next(context, ending)) is not None:
                await asyncio.shield(logs.take(message))
        finally:
            logs.closed(ended.set)
            ending.cancel()
        return _NOTHING

    service, _, name = METHOD[1:].partition("/")
    return grpc.method_handlers_generic_handler(service, {name: grpc.stream_unary_rpc_method_handler(stream)})


async def _next(context: Context, ending: asyncio.Task[bool]) -> bytes | None:
    """The next message; `None` once Envoy has ended the stream, or policyd is to."""
    reading = asyncio.ensure_future(context.read())
    try:
        await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            return None
        message = reading.result()
        return None if message is _END else message
    finally:
        reading.cancel()

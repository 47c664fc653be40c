"""The ext_proc service on grpc.aio: a coroutine a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from policyd.ext_proc import messages as m
from policyd.ext_proc.reply_encoding import encode
from policyd.ext_proc.servicer import METHOD, PROVIDER_METADATA, ExchangeStream, ExternalProcessor, Tls

Context = grpc.aio.ServicerContext[bytes, bytes]
_END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in grpc-stubs


class GrpcioServer:
    """A `policyd.ext_proc.servicer.ExtProcServer`."""

    def __init__(
        self,
        processor: ExternalProcessor,
        *,
        message_bytes_max: int,
        shares_port: bool = False,
        others: Sequence[grpc.GenericRpcHandler[bytes, bytes]] = (),
    ) -> None:
        """`others`: what is served beside it."""
        self._processor = processor
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", message_bytes_max),
                ("grpc.so_reuseport", int(shares_port)),
            ]
        )
        service, _, name = METHOD[1:].partition("/")
        # By hand and without types: the messages are read and written where those of every transport are.
        method = grpc.stream_stream_rpc_method_handler(self._process)
        own = grpc.method_handlers_generic_handler(service, {name: method})
        self._server.add_generic_rpc_handlers((own, *others))

    async def listen(self, host: str, port: int, *, tls: Tls | None = None) -> int:
        return await self._start(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", tls)

    async def listen_unix(self, path: Path) -> None:
        await self._start(f"unix:{path}", None)

    async def stop(self, *, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds)

    async def _start(self, address: str, tls: Tls | None) -> int:
        try:
            port = (
                self._server.add_insecure_port(address)
                if tls is None
                else self._server.add_secure_port(address, tls.grpcio_credentials())
            )
        except RuntimeError as error:
            raise OSError("it is in use or not an address of this machine") from error
        await self._server.start()
        return port

    async def _process(self, _: AsyncIterator[bytes], context: Context) -> None:
        """One gRPC stream, one exchange."""
        provider = next((v for k, v in context.invocation_metadata() or () if k == PROVIDER_METADATA), None)
        stream = self._processor.open(provider=provider if isinstance(provider, str) else None)

        async def send(reply: m.Reply) -> None:
            await context.write(encode(reply))

        try:
            body_due = asyncio.get_running_loop().time() + self._processor.request_body_seconds_max
            while (event := await _next_event(context, stream, body_due=body_due)) is not None:
                await stream.handle(event, send)
                if stream.aborted is not None or stream.is_over or isinstance(event, m.RequestTimedOut):
                    break
        finally:
            # Runs on cancellation too (Envoy reset the stream, or the server stops), when nothing can be awaited here.
            self._processor.close(stream)
        if stream.aborted is not None:
            await context.abort(grpc.StatusCode.INTERNAL, stream.aborted)


async def _next_event(context: Context, stream: ExchangeStream, *, body_due: float) -> m.Event | None:
    """What Envoy says next; `None` once it has closed the stream. `body_due`: when the request has to be whole."""
    try:
        async with asyncio.timeout_at(body_due if stream.awaits_request else None):
            message = await context.read()
    except TimeoutError:
        return m.RequestTimedOut()
    return None if message is _END else stream.event(message)

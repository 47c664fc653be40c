"""Turns away who may not call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from grpc_health.v1 import health
from grpc_status import rpc_status

from policyd.api.errors import AccessDenied, status_of

_OPEN_PATH: Final = f"/{health.SERVICE_NAME}/"
"""Probes have no token."""

_METADATA: Final = "authorization"


class AccessInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs alone
    """Lets a call through whose `authorization` metadata `admit` takes, and every call for health."""

    def __init__(self, admit: Callable[[str | None], bool]) -> None:
        self._admit = admit
        self._denial = grpc.stream_stream_rpc_method_handler(_deny)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        shown = next((value for name, value in handler_call_details.invocation_metadata if name == _METADATA), None)
        shown = shown if isinstance(shown, str) else None
        if handler_call_details.method.startswith(_OPEN_PATH) or self._admit(shown):
            return await continuation(handler_call_details)
        return self._denial


async def _deny(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    status = rpc_status.to_status(status_of(AccessDenied()))
    await context.abort(status.code, status.details, status.trailing_metadata)

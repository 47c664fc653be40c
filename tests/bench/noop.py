"""gRPC servers that decide nothing, as a process of its own: python -m tests.bench.noop

What Envoy's ext_proc and grpc.aio cost by themselves is the floor under every such server in Python. It is written the
plainest way, with an async generator on asyncio's own event loop, and takes an exchange through the very messages and
body modes that policyd takes it through:

    request headers    pass
    request body       passes, whole
    response headers   pass; JSON is asked for whole, a stream in full duplex
    response body      passes, whole or piece by piece
"""

# ruff: noqa: N802 - gRPC methods have the proto's names.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as pb_grpc

from policyd.v1 import policy_service_pb2 as service
from policyd.v1 import policy_service_pb2_grpc as service_grpc
from tests.bench.processes import announce


class ExternalProcessor(pb_grpc.ExternalProcessorServicer):  # type: ignore[misc]
    """Lets everything pass."""

    async def Process(
        self, requests: AsyncIterator[pb.ProcessingRequest], context: Any
    ) -> AsyncIterator[pb.ProcessingResponse]:
        letting_pass = LettingPass()
        async for request in requests:
            yield letting_pass.answer(request)


class LettingPass:
    """What is answered to one exchange, on any transport."""

    def __init__(self) -> None:
        self._streamed = False

    def answer(self, request: pb.ProcessingRequest) -> pb.ProcessingResponse:
        match request.WhichOneof("request"):
            case "request_headers":
                return pb.ProcessingResponse(request_headers=pb.HeadersResponse())
            case "request_body":
                return pb.ProcessingResponse(request_body=pb.BodyResponse())
            case "response_headers":
                self._streamed = _is_stream(request.response_headers)
                mode = _mode(self._streamed)
                return pb.ProcessingResponse(response_headers=pb.HeadersResponse(), mode_override=mode)
            case "response_body":
                return _passed(request.response_body) if self._streamed else _PASS_BODY
            case "response_trailers":
                return pb.ProcessingResponse(response_trailers=pb.TrailersResponse())
            case other:
                raise ValueError(f"Envoy sent {other}, which it was not asked for")


_PASS_BODY = pb.ProcessingResponse(response_body=pb.BodyResponse())


def _is_stream(headers: pb.HttpHeaders) -> bool:
    return any(
        header.key == "content-type" and header.raw_value.startswith(b"text/event-stream")
        for header in headers.headers.headers
    )


def _mode(streamed: bool) -> ProcessingMode:
    return ProcessingMode(
        request_header_mode=ProcessingMode.SEND,
        request_body_mode=ProcessingMode.BUFFERED,
        request_trailer_mode=ProcessingMode.SKIP,
        response_header_mode=ProcessingMode.SEND,
        response_body_mode=ProcessingMode.FULL_DUPLEX_STREAMED if streamed else ProcessingMode.BUFFERED,
        response_trailer_mode=ProcessingMode.SEND if streamed else ProcessingMode.SKIP,
    )


def _passed(body: pb.HttpBody) -> pb.ProcessingResponse:
    """In full duplex nothing passes by itself: the piece is sent back."""
    piece = pb.StreamedBodyResponse(body=body.body, end_of_stream=body.end_of_stream)
    common = pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=piece))
    return pb.ProcessingResponse(response_body=pb.BodyResponse(response=common))


class PolicyService(service_grpc.PolicyServiceServicer):
    """Answers a call with nothing, or with what its caller looks at."""

    async def CheckBudget(self, request: service.CheckBudgetRequest, context: Any) -> service.CheckBudgetResponse:
        return service.CheckBudgetResponse()

    async def Reserve(self, request: service.ReserveRequest, context: Any) -> service.ReserveResponse:
        return service.ReserveResponse(reservation_id=request.request_id)

    async def Settle(self, request: service.SettleRequest, context: Any) -> service.SettleResponse:
        return service.SettleResponse()


async def serve() -> None:
    server = grpc.aio.server()
    pb_grpc.add_ExternalProcessorServicer_to_server(ExternalProcessor(), server)
    service_grpc.add_PolicyServiceServicer_to_server(PolicyService(), server)  # type: ignore[abstract]  # others: never called
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    announce(grpc=f"127.0.0.1:{port}", ext_proc=f"127.0.0.1:{port}")
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve())

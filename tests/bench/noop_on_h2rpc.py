"""The server of noop.py on h2rpc, as a process of its own: python -m tests.bench.noop_on_h2rpc

What is left of a no-op once grpc.aio is gone.
"""

from __future__ import annotations

import asyncio

import uvloop
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from policyd.ext_proc.servicer import METHOD
from policyd.h2rpc import Call, Server
from tests.bench.noop import LettingPass
from tests.bench.processes import announce


class Exchange:
    """Lets everything pass."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._letting_pass = LettingPass()

    def on_message(self, message: bytes) -> None:
        request = pb.ProcessingRequest.FromString(message)
        self._call.send(self._letting_pass.answer(request).SerializeToString())

    def on_half_close(self) -> None:
        self._call.finish()

    def on_cancelled(self) -> None: ...

    def on_writable(self) -> None: ...


async def serve() -> None:
    port = await Server({METHOD: Exchange}).listen("127.0.0.1", 0)
    announce(ext_proc=f"127.0.0.1:{port}")
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())

"""How much Envoy may say at once: it gathers a large reply while it waits for an answer to the reply's headers."""

from __future__ import annotations

import grpc
import pytest

from policyd.config import HostPort, Settings, Transport
from policyd.ext_proc.servicer import METHOD
from policyd.server import Server
from policyd.server.listeners import CHUNK_BYTES_MAX

ANY_PORT = HostPort("127.0.0.1", 0)
SECONDS_MAX = 30


async def replies(address: str, size: int) -> int:
    """How many replies a message of this size has. It is none of Envoy's, and refused as that once it was read."""
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        process = channel.stream_stream(METHOD, request_serializer=bytes, response_deserializer=bytes)
        call = process(iter([b"\xff" * size]), timeout=SECONDS_MAX)
        return len([reply async for reply in call])


@pytest.mark.parametrize("transport", [*Transport], ids=str)
async def test_a_message_is_read_up_to_the_bound(transport: Transport) -> None:
    settings = Settings(
        store_url="memory://",
        grpc_address=ANY_PORT,
        ext_proc_address=ANY_PORT,
        http_address=ANY_PORT,
        transport=transport,
        request_body_bytes_max=1024,
    )
    async with Server(settings) as server:
        assert await replies(server.ext_proc_address, CHUNK_BYTES_MAX) == 1
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await replies(server.ext_proc_address, CHUNK_BYTES_MAX + 1)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

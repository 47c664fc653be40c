"""What stands around Envoy in these tests: an upstream that tells what reached it, an ext_proc server that does the
same and lets everything pass, and a client that sends a path as it is written.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import yaml
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as pb_grpc

from policyd.config import HostPort
from policyd.envoy_config import EnvoySettings, build_bootstrap, parse_upstreams
from policyd.up import EnvoyProcess, find_envoy

LOOPBACK_ANY_PORT = HostPort("127.0.0.1", 0)
NOBODY = HostPort("127.0.0.1", 1)
"""An address that nothing listens on."""
REPLY_SECONDS_MAX = 10

ENVOY_FOLDER = Path(__file__).parents[2] / "envoy"

TLS_FOLDER = Path(__file__).parent / "tls"
CA = TLS_FOLDER / "ca.pem"
"""The authority that signed the certificates beside it; its key was thrown away."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Upstream:
    """A provider of nothing: replies to everything, and remembers it."""

    url: str = ""
    status: int = 200
    seen: list[Seen] = field(default_factory=list)
    server_names: list[str] = field(default_factory=list)
    """The SNI of each TLS connection."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first request."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear it to hold back replies."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _read_head(reader):
                (method, path, _), headers = head
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.seen.append(Seen(method, path, headers, body))
                self.arrived.set()
                await self.go_on.wait()
                writer.write(
                    b"HTTP/1.1 %d -\r\ncontent-length: 2\r\nset-cookie: session=secret\r\n\r\n{}" % self.status
                )
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def upstream(*, certificate: str | None = None) -> AsyncIterator[Upstream]:
    """An upstream on a free port; with `certificate`, the name of one in tls/, it speaks TLS at https://localhost."""
    it = Upstream()
    it.go_on.set()
    tls: ssl.SSLContext | None = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(TLS_FOLDER / f"{certificate}.pem")
        tls.sni_callback = lambda _socket, name, _context: it.server_names.append(str(name))
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    it.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield it
    finally:
        it.go_on.set()
        server.close()


@dataclass(slots=True)
class Exchange:
    """What an ext_proc server was told about one exchange."""

    metadata: Mapping[str, Sequence[str]]
    """Of the gRPC stream."""
    request_headers: Mapping[str, str] = field(default_factory=dict)
    request_body: bytes = b""
    response_headers: Mapping[str, str] = field(default_factory=dict)


class ExtProc(pb_grpc.ExternalProcessorServicer):  # type: ignore[misc]
    """Lets everything pass, and remembers it."""

    def __init__(self, address: HostPort) -> None:
        self.address = address
        self.exchanges: list[Exchange] = []

    async def Process(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        metadata: dict[str, list[str]] = {}
        for key, value in context.invocation_metadata():
            metadata.setdefault(key, []).append(value)
        exchange = Exchange(metadata)
        self.exchanges.append(exchange)
        async for request in requests:
            kind: str = request.WhichOneof("request")
            match kind:
                case "request_headers":
                    exchange.request_headers = _headers(request.request_headers)
                    yield pb.ProcessingResponse(request_headers=pb.HeadersResponse())
                case "request_body":
                    exchange.request_body += request.request_body.body
                    yield pb.ProcessingResponse(request_body=pb.BodyResponse())
                case "response_headers":
                    exchange.response_headers = _headers(request.response_headers)
                    yield pb.ProcessingResponse(response_headers=pb.HeadersResponse())
                case "response_body":
                    yield pb.ProcessingResponse(response_body=pb.BodyResponse())
                case _:
                    raise AssertionError(kind)


@asynccontextmanager
async def ext_proc() -> AsyncIterator[ExtProc]:
    """An ext_proc server on a free port."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    servicer = ExtProc(HostPort("127.0.0.1", server.add_insecure_port("127.0.0.1:0")))
    pb_grpc.add_ExternalProcessorServicer_to_server(servicer, server)
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(None)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


async def request(
    address: HostPort, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Reply:
    """Sends one request, its path to the letter, and reads its reply."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    sent = {"host": "localhost", "connection": "close", "content-length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        async with asyncio.timeout(REPLY_SECONDS_MAX):
            received = await _read_head(reader)
            if received is None:
                raise ConnectionError("closed without a reply")
            (_, status, _), reply_headers = received
            return Reply(int(status), reply_headers, await _read_body(reader, reply_headers))
    finally:
        writer.close()


async def _read_head(reader: asyncio.StreamReader) -> tuple[tuple[str, str, str], dict[str, str]] | None:
    """The three words of the first line, and the headers; `None` at the end of the connection."""
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    one, two, three = [*first.split(" ", 2), ""][:3]
    return (one, two, three), {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers["content-length"]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    return body


def _headers(message: Any) -> dict[str, str]:
    return {header.key: header.raw_value.decode("latin-1") for header in message.headers.headers}


def loopback(*upstreams: str, access_log: bool = False) -> EnvoySettings:
    """Envoy on free ports in front of `upstreams`, NAME=URL each."""
    return EnvoySettings(
        listen_address=LOOPBACK_ANY_PORT,
        admin_address=LOOPBACK_ANY_PORT,
        upstreams=parse_upstreams(upstreams),
        access_log=access_log,
    )


def envoy(settings: EnvoySettings, *, policyd_address: HostPort = NOBODY) -> EnvoyProcess:
    return EnvoyProcess(build_bootstrap(settings, policyd_addresses=[policyd_address]), binary=find_envoy())


def readme_examples() -> list[Any]:
    """The pieces of configuration in envoy/README.md, in order."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (ENVOY_FOLDER / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return [yaml.safe_load(block) for block in blocks]

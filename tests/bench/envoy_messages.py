"""What Envoy sends of one exchange of `traffic`, as the bytes of its ext_proc messages."""

from __future__ import annotations

from collections.abc import Mapping

from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from policyd.envoy_config.listener import ENVOY_VERSION_ATTRIBUTE
from tests.bench import traffic

_MODES = pb.ProtocolConfiguration(request_body_mode=2, response_body_mode=1)
"""BUFFERED and STREAMED, as the default profile has them."""


def request_messages(*, stream: bool) -> list[bytes]:
    """Headers and body; each is answered before the next one comes."""
    body = traffic.request_body(stream=stream)
    headers = {
        ":authority": "gateway.internal",
        ":path": traffic.REQUEST_PATH,
        ":method": "POST",
        ":scheme": "http",
        **{name: value for name, value in traffic.request_headers().items() if name != "authorization"},
        "content-length": str(len(body)),
        "x-forwarded-proto": "http",
        "x-request-id": "6f6ab5ac-8a1e-4a4f-9f0e-1c2b3d4e5f60",
    }
    first = pb.ProcessingRequest(request_headers=_headers(headers), protocol_config=_MODES)
    first.attributes["envoy.filters.http.ext_proc"].update({ENVOY_VERSION_ATTRIBUTE: 40})
    return [
        first.SerializeToString(),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=True)).SerializeToString(),
    ]


def reply_messages() -> list[bytes]:
    """The same of a JSON reply."""
    head, _, body = traffic.http_reply().partition(b"\r\n\r\n")
    return [
        _reply_headers(head),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=body, end_of_stream=True)).SerializeToString(),
    ]


def stream_messages() -> list[bytes]:
    """Headers and events of a streamed reply, which end with a piece that is empty."""
    pieces = [chunk.partition(b"\r\n")[2].removesuffix(b"\r\n") for chunk in traffic.stream_chunks()]
    bodies = [pb.HttpBody(body=piece) for piece in pieces] + [pb.HttpBody(end_of_stream=True)]
    messages = [pb.ProcessingRequest(response_body=body).SerializeToString() for body in bodies]
    return [_reply_headers(traffic.STREAM_HEAD.removesuffix(b"\r\n\r\n")), *messages]


def _reply_headers(head: bytes) -> bytes:
    lines = head.decode().split("\r\n")[1:]
    headers = {":status": "200", **dict(line.split(": ", 1) for line in lines), "server": "envoy"}
    headers.pop("transfer-encoding", None)
    return bytes(pb.ProcessingRequest(response_headers=_headers(headers)).SerializeToString())


def _headers(headers: Mapping[str, str]) -> pb.HttpHeaders:
    told = [base_pb2.HeaderValue(key=name, raw_value=value.encode()) for name, value in headers.items()]
    return pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=told))

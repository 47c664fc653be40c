"""HTTP/1.1 by hand: what no SDK would send, and what an SDK would not show of a reply."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from tests.e2e.sdks import QUESTION

REPLY_SECONDS_MAX = 20

CHAT = "/v1/chat/completions"

Headers = Mapping[str, str] | Sequence[tuple[str, str]]
"""A sequence where a name is repeated."""


@dataclass(frozen=True, slots=True)
class RawReply:
    """A reply that came to its orderly end."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes


def chat(**members: Any) -> bytes:
    """The body of a chat completion request."""
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": QUESTION}], **members}).encode()


def post(address: str, path: str = CHAT, *, body: bytes, headers: Headers = ()) -> RawReply:
    """Raises `http.client.IncompleteRead` for a body that breaks off."""
    with connected(address) as connection:
        return read(send(connection, path, body=body, headers=headers))


@contextmanager
def connected(address: str) -> Iterator[HTTPConnection]:
    """A connection to `HOST:PORT`."""
    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host, int(port), timeout=REPLY_SECONDS_MAX)
    try:
        yield connection
    finally:
        connection.close()


def send(
    connection: HTTPConnection, path: str = CHAT, *, body: bytes, headers: Headers = (), method: str = "POST"
) -> HTTPResponse:
    """The reply, as soon as its headers are there."""
    send_only(connection, path, body=body, headers=headers, method=method)
    return connection.getresponse()


def send_only(
    connection: HTTPConnection, path: str = CHAT, *, body: bytes, headers: Headers = (), method: str = "POST"
) -> None:
    given = list(headers.items() if isinstance(headers, Mapping) else headers)
    connection.putrequest(method, path, skip_accept_encoding=True)
    if not any(name.lower() in {"content-length", "transfer-encoding"} for name, _ in given):
        given.append(("content-length", str(len(body))))
    for name, value in given:
        connection.putheader(name, value.encode())
    connection.endheaders(body)


def read(reply: HTTPResponse) -> RawReply:
    body = reply.read()
    return RawReply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, body)

"""Envoy's protobuf messages as the events of `messages`. No transport: streams are the servicer's.

Header values come as `raw_value`: Envoy fills only that field, and reads the other one only with old settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Reversible

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from policyd.core.errors import ProtocolError
from policyd.ext_proc import messages as m

_BODY_MODES: Mapping[int, m.BodyMode] = {
    getattr(processing_mode_pb2.ProcessingMode, mode.value): mode for mode in m.BodyMode
}
_ATTRIBUTES = "envoy.filters.http.ext_proc"
_ENVOY_MINOR = "xds.node.user_agent_build_version.version.minor_number"
"""The attribute by which Envoy's configuration may tell its version (`request_attributes`)."""
PSEUDO_HEADER_ATTRIBUTES: Mapping[str, str] = {
    ":path": "request.path",
    ":method": "request.method",
    ":authority": "request.host",
}
"""The attributes by which Envoy tells what HTTP/2 has in pseudo-headers."""
_HEADER_ATTRIBUTE = re.compile(r"request\.headers\['([^']+)'\]")
_JWT_AUTHN = "envoy.filters.http.jwt_authn"
"""Where Envoy's filter of that name puts the claims that it has verified (`payload_in_metadata`)."""

_Told = tuple[int | None, Mapping[str, str]]
"""Envoy's version, if it tells it, and its attributes that are text, by Envoy's names."""


class Decoder:
    """Reads the messages of one gRPC stream. The first one tells the body modes for all that follow."""

    def __init__(self, *, provider: str | None) -> None:
        self._provider = provider
        self._request_mode = m.BodyMode.BUFFERED
        self._response_mode = m.BodyMode.STREAMED
        self._mode_fixed = False
        self._has_begun = False

    def event(self, data: bytes) -> m.Event:
        """Raises `ProtocolError` for what is no message, and for a kind of one or a body mode that is not known."""
        try:
            message = pb.ProcessingRequest.FromString(data)
        except DecodeError as error:
            raise ProtocolError("Envoy sent what cannot be read as a message") from error
        if self._has_begun:
            return self._event(message)
        self._has_begun = True
        if not message.HasField("protocol_config"):
            return self._event(message)
        config = message.protocol_config
        self._request_mode = _body_mode(config.request_body_mode)
        self._response_mode = _body_mode(config.response_body_mode)
        in_full_duplex = m.BodyMode.FULL_DUPLEX_STREAMED in (self._request_mode, self._response_mode)
        self._mode_fixed = config.send_body_without_waiting_for_header_response or in_full_duplex
        # A body in the first message of all: the headers were skipped.
        return self._whole_request(message) if message.HasField("request_body") else self._event(message)

    def _event(self, message: pb.ProcessingRequest) -> m.Event:
        match message.WhichOneof("request"):
            case "response_body":  # first, since a stream has many of them
                body = message.response_body
                return m.ResponseBody(body.body, body.end_of_stream)
            case "request_headers":
                told = message.request_headers
                headers = _headers(told.headers.headers)
                return self._request_headers(message, _attributes(message), headers, end_of_stream=told.end_of_stream)
            case "request_body":
                body = message.request_body
                return m.RequestBody(body.body, body.end_of_stream)
            case "request_trailers":
                return m.RequestTrailers()
            case "response_headers":
                answered = message.response_headers
                return m.ResponseHeaders(
                    headers=_headers(answered.headers.headers),
                    end_of_stream=answered.end_of_stream,
                    body_mode=self._response_mode,
                    mode_fixed=self._mode_fixed,
                )
            case "response_trailers":
                return m.ResponseTrailers()
            case other:
                raise ProtocolError(f"Envoy sent a message of an unknown kind ({other})")

    def _request_headers(
        self, message: pb.ProcessingRequest, told: _Told, headers: Mapping[str, str], *, end_of_stream: bool
    ) -> m.RequestHeaders:
        envoy_minor, envoy_attributes = told
        return m.RequestHeaders(
            headers=headers,
            end_of_stream=end_of_stream,
            request_body_mode=self._request_mode,
            response_body_mode=self._response_mode,
            provider=self._provider,
            envoy_minor=envoy_minor,
            envoy_attributes=envoy_attributes,
            claims=_claims(message),
        )

    def _whole_request(self, message: pb.ProcessingRequest) -> m.WholeRequest:
        _, told = attributes = _attributes(message)
        headers = {name: told[attribute] for name, attribute in PSEUDO_HEADER_ATTRIBUTES.items() if attribute in told}
        headers |= {found[1]: value for name, value in told.items() if (found := _HEADER_ATTRIBUTE.fullmatch(name))}
        return m.WholeRequest(
            head=self._request_headers(message, attributes, headers, end_of_stream=False),
            body=message.request_body.body,
            end_of_stream=message.request_body.end_of_stream,
        )


def header_attribute(name: str) -> str:
    """The attribute by which Envoy tells a request's header (`request_attributes`)."""
    return f"request.headers['{name}']"


def _attributes(message: pb.ProcessingRequest) -> _Told:
    """Envoy's version, and those attributes that are text. Envoy leaves out what a request does not have."""
    if _ATTRIBUTES not in message.attributes:
        return None, {}
    minor: int | None = None
    texts: dict[str, str] = {}
    for name, value in message.attributes[_ATTRIBUTES].fields.items():
        if name == _ENVOY_MINOR:
            minor = int(value.number_value)
        elif text := value.string_value:
            texts[name] = text
    return minor, texts


def _claims(message: pb.ProcessingRequest) -> Mapping[str, str]:
    """Of all tokens; of a claim that several have, that of the first, by the names that Envoy's filter gives them."""
    metadata = message.metadata_context.filter_metadata
    if _JWT_AUTHN not in metadata:
        return {}
    claims: dict[str, str] = {}
    for _, token in sorted(metadata[_JWT_AUTHN].fields.items()):
        if token.HasField("struct_value"):
            for path, value in _texts(token.struct_value, prefix=""):
                claims.setdefault(path, value)
    return claims


def _texts(fields: Struct, *, prefix: str) -> Iterator[tuple[str, str]]:
    """The values that can be an attribute, by dotted path: text, whole numbers, true and false. Lists cannot."""
    for name, value in fields.fields.items():
        path = f"{prefix}{name}"
        match value.WhichOneof("kind"):
            case "string_value":
                yield path, value.string_value
            case "bool_value":
                yield path, "true" if value.bool_value else "false"
            case "number_value" if value.number_value.is_integer():
                yield path, str(int(value.number_value))
            case "struct_value":
                yield from _texts(value.struct_value, prefix=f"{path}.")
            case _:
                pass


def _body_mode(number: int) -> m.BodyMode:
    mode = _BODY_MODES.get(number)
    if mode is None:
        raise ProtocolError(f"Envoy is configured with an unknown body mode ({number})")
    return mode


def _headers(headers: Reversible[base_pb2.HeaderValue]) -> dict[str, str]:
    """By lower-case name; of a repeated one the first, so that a client cannot override what a proxy set before."""
    return {
        header.key.lower(): raw.decode("utf-8", "surrogateescape") if (raw := header.raw_value) else header.value
        for header in reversed(headers)
    }

"""Replies to Envoy as the bytes of their protobuf messages, written out piece by piece.

Building the messages as objects costs up to ten times as much. A reply is a few messages inside each other, and a
message is its fields one after the other, each behind its key: the field's number and how its content ends
(protobuf.dev, "Encoding"). The numbers are taken from Envoy's own definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.type.v3 import http_status_pb2
from google.protobuf.struct_pb2 import Struct, Value

from policyd.ext_proc import messages as m

HOLD_NAMESPACE: Final = "policyd"
"""The dynamic metadata in which Envoy keeps what a request of the lean profile was marked with."""

_VARINT, _LENGTH_DELIMITED = 0, 2
_PACKED_TYPES = frozenset({9, 11, 12})
"""Text, messages and bytes, as protobuf's descriptors number them: their length comes first."""

_VARINT_7_BITS_MAX = 0x7F
_VARINT_14_BITS_MAX = 0x3FFF


def _varint(number: int) -> bytes:
    if number <= _VARINT_7_BITS_MAX:
        return _ONE_BYTE[number]
    if number <= _VARINT_14_BITS_MAX:
        return bytes((number & _VARINT_7_BITS_MAX | 0x80, number >> 7))
    encoded = bytearray()
    while number > _VARINT_7_BITS_MAX:
        encoded.append(number & _VARINT_7_BITS_MAX | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_ONE_BYTE: Final = tuple(bytes((number,)) for number in range(_VARINT_7_BITS_MAX + 1))


def _key(message: Any, name: str) -> bytes:
    """What stands before a field of a message."""
    field = message.DESCRIPTOR.fields_by_name[name]
    return _varint(field.number << 3 | (_LENGTH_DELIMITED if field.type in _PACKED_TYPES else _VARINT))


def _keys(*path: tuple[Any, str]) -> tuple[bytes, ...]:
    return tuple(_key(message, name) for message, name in path)


def _field(key: bytes, content: bytes) -> bytes:
    size = len(content)
    return key + (_ONE_BYTE[size] if size <= _VARINT_7_BITS_MAX else _varint(size)) + content


def _nested(keys: tuple[bytes, ...], content: bytes) -> bytes:
    """`content` inside messages that have nothing else in them; `keys` from the outermost on."""
    head = b""
    size = len(content)
    for key in reversed(keys):
        head = key + _varint(len(head) + size) + head
    return head + content


_RESPONSE = pb.ProcessingResponse
_HEADERS: Final = {
    response: _keys((_RESPONSE, f"{side}_headers"), (pb.HeadersResponse, "response"))
    for response, side in ((False, "request"), (True, "response"))
}
_BODY: Final = {
    response: _keys((_RESPONSE, f"{side}_body"), (pb.BodyResponse, "response"))
    for response, side in ((False, "request"), (True, "response"))
}
_UNCHANGED_BODY: Final = {response: _nested(keys, b"") for response, keys in _BODY.items()}
_BODY_MUTATION = _keys((pb.CommonResponse, "body_mutation"))
_STREAMED: Final = {
    response: (*keys, *_BODY_MUTATION, *_keys((pb.BodyMutation, "streamed_response")))
    for response, keys in _BODY.items()
}
_PIECE = _key(pb.StreamedBodyResponse, "body")
_LAST_PIECE = _key(pb.StreamedBodyResponse, "end_of_stream") + b"\x01"
_NEW_BODY = (*_BODY_MUTATION, *_keys((pb.BodyMutation, "body")))
# An empty replacement has to be said as such: an empty `body` means none was given.
_NO_BODY = _nested(_BODY_MUTATION, _key(pb.BodyMutation, "clear_body") + b"\x01")
_HEADER_MUTATION = _key(pb.CommonResponse, "header_mutation")
_SET_HEADER = _key(pb.HeaderMutation, "set_headers")
_REMOVE_HEADER = _key(pb.HeaderMutation, "remove_headers")
_HEADER = _key(base_pb2.HeaderValueOption, "header")
_OVERWRITE = _key(base_pb2.HeaderValueOption, "append_action") + _varint(
    base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
)
_NAME = _key(base_pb2.HeaderValue, "key")
_VALUE = _key(base_pb2.HeaderValue, "raw_value")
_MODE_OVERRIDE = _key(_RESPONSE, "mode_override")
_IMMEDIATE = _key(_RESPONSE, "immediate_response")
_STATUS = _key(pb.ImmediateResponse, "status")
_CODE = _key(http_status_pb2.HttpStatus, "code")
_IMMEDIATE_HEADERS = _key(pb.ImmediateResponse, "headers")
_IMMEDIATE_BODY = _key(pb.ImmediateResponse, "body")
_DETAILS = _field(_key(pb.ImmediateResponse, "details"), b"policyd")
_DYNAMIC_METADATA = _key(_RESPONSE, "dynamic_metadata")
_STRUCT_FIELD = _key(Struct, "fields")
# A map is a list of pairs; these are the keys of both in every map.
_FIELD_NAME, _FIELD_VALUE = _varint(1 << 3 | _LENGTH_DELIMITED), _varint(2 << 3 | _LENGTH_DELIMITED)
_TEXT = _key(Value, "string_value")
_STRUCT = _key(Value, "struct_value")
_TRAILERS: Final = {
    False: _field(_key(_RESPONSE, "request_trailers"), b""),
    True: _field(_key(_RESPONSE, "response_trailers"), b""),
}


def encode(reply: m.Reply) -> bytes:
    """The protobuf message of a reply, serialised."""
    return _WRITERS[type(reply)](reply)


def _headers_reply(reply: m.HeadersReply) -> bytes:
    mutation = _mutation(reply.set_headers, reply.remove_headers)
    common = _field(_HEADER_MUTATION, mutation) if mutation else b""
    mode = b"" if reply.mode is None else _mode_override(reply.mode)
    return _nested(_HEADERS[reply.response], common) + mode


def _body_reply(reply: m.BodyReply) -> bytes:
    if reply.body is None and not reply.set_headers:
        return _UNCHANGED_BODY[reply.response]
    mutation = _mutation(reply.set_headers)
    common = _field(_HEADER_MUTATION, mutation) if mutation else b""
    if reply.body:
        common += _nested(_NEW_BODY, reply.body)
    elif reply.body is not None:
        common += _NO_BODY
    return _nested(_BODY[reply.response], common)


def _marked_body(reply: m.MarkedBody) -> bytes:
    marks = [_struct_field(name, _field(_TEXT, value.encode())) for name, value in reply.marks.items()]
    kept = _struct_field(HOLD_NAMESPACE, _field(_STRUCT, b"".join(marks)))
    return _body_reply(m.BodyReply(response=False, body=reply.body)) + _field(_DYNAMIC_METADATA, kept)


def _struct_field(name: str, value: bytes) -> bytes:
    return _field(_STRUCT_FIELD, _field(_FIELD_NAME, name.encode()) + _field(_FIELD_VALUE, value))


def _streamed_body(reply: m.StreamedBody) -> bytes:
    if reply.body and not reply.end_of_stream:
        return _piece_head(len(reply.body), response=reply.response) + reply.body
    piece = _field(_PIECE, reply.body) if reply.body else b""
    return _nested(_STREAMED[reply.response], piece + _LAST_PIECE if reply.end_of_stream else piece)


@lru_cache(maxsize=1024)
def _piece_head(size: int, *, response: bool) -> bytes:
    """What stands before the `size` bytes of a piece, which is the same for all of that size."""
    return _nested((*_STREAMED[response], _PIECE), bytes(size))[:-size]


def _trailers_reply(reply: m.TrailersReply) -> bytes:
    return _TRAILERS[reply.response]


def _immediate_reply(reply: m.ImmediateReply) -> bytes:
    content = [
        _field(_STATUS, _CODE + _varint(reply.status)),
        _field(_IMMEDIATE_HEADERS, _mutation(reply.headers)) if reply.headers else b"",
        _field(_IMMEDIATE_BODY, reply.body) if reply.body else b"",
        _DETAILS,
    ]
    return _field(_IMMEDIATE, b"".join(content))


_WRITERS: Final[Mapping[type[m.Reply], Callable[[Any], bytes]]] = {
    m.HeadersReply: _headers_reply,
    m.BodyReply: _body_reply,
    m.MarkedBody: _marked_body,
    m.StreamedBody: _streamed_body,
    m.TrailersReply: _trailers_reply,
    m.ImmediateReply: _immediate_reply,
}


def _mutation(set_headers: Mapping[str, str], remove_headers: tuple[str, ...] = ()) -> bytes:
    pieces = [_set_header(name, value) for name, value in set_headers.items()]
    if remove_headers:
        pieces.append(_removed(remove_headers))
    return b"".join(pieces)


def _set_header(name: str, value: str) -> bytes:
    content = value.encode("utf-8", "surrogateescape")
    return _header_head(name, len(content)) + content + _OVERWRITE


@lru_cache(maxsize=1024)
def _header_head(name: str, size: int) -> bytes:
    """What stands before a header's value of `size` bytes, which is the same for all of that size."""
    head = _field(_NAME, name.encode()) + _VALUE + _varint(size)
    header_head = _HEADER + _varint(len(head) + size) + head
    return _SET_HEADER + _varint(len(header_head) + size + len(_OVERWRITE)) + header_head


@lru_cache(maxsize=256)
def _removed(names: tuple[str, ...]) -> bytes:
    return b"".join(_field(_REMOVE_HEADER, name.encode()) for name in names)


@cache
def _mode_override(mode: m.ModeOverride) -> bytes:
    sent, skipped = processing_mode_pb2.ProcessingMode.SEND, processing_mode_pb2.ProcessingMode.SKIP
    modes = processing_mode_pb2.ProcessingMode(
        request_header_mode=sent,
        request_body_mode=mode.request_body.value,
        request_trailer_mode=sent if mode.request_trailers else skipped,
        response_header_mode=sent if mode.response_headers else skipped,
        response_body_mode=mode.response_body.value,
        response_trailer_mode=sent if mode.response_trailers else skipped,
    )
    return _field(_MODE_OVERRIDE, modes.SerializeToString())

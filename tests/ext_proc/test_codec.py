"""Envoy's messages to and from plain types, over the wire's own bytes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.errors import ProtocolError
from policyd.ext_proc import messages as m
from policyd.ext_proc.codec import Decoder
from policyd.ext_proc.messages import BodyMode
from policyd.ext_proc.reply_encoding import encode

OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def headers(*pairs: tuple[str, bytes | str], end_of_stream: bool = False) -> pb.HttpHeaders:
    values = [
        base_pb2.HeaderValue(key=name, **{"raw_value" if isinstance(value, bytes) else "value": value})
        for name, value in pairs
    ]
    return pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=values), end_of_stream=end_of_stream)


def decoded(message: pb.ProcessingRequest, *, provider: str | None = None) -> m.Event:
    """`message` once it has been on the wire."""
    return Decoder(provider=provider).event(message.SerializeToString())


def encoded(reply: m.Reply) -> pb.ProcessingResponse:
    return pb.ProcessingResponse.FromString(encode(reply))


def mutation(set_headers: Mapping[str, str], removed: tuple[str, ...] = ()) -> pb.HeaderMutation:
    options = [
        base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key=name, raw_value=value.encode()), append_action=OVERWRITE
        )
        for name, value in set_headers.items()
    ]
    return pb.HeaderMutation(set_headers=options, remove_headers=removed)


class TestEvents:
    def test_request_headers(self) -> None:
        message = pb.ProcessingRequest(
            request_headers=headers((":path", b"/v1"), ("X-Name", b"caf\xc3\xa9")),
            protocol_config=pb.ProtocolConfiguration(
                request_body_mode=ProcessingMode.STREAMED, response_body_mode=ProcessingMode.BUFFERED
            ),
        )
        assert decoded(message, provider="groq") == m.RequestHeaders(
            headers={":path": "/v1", "x-name": "café"},
            end_of_stream=False,
            request_body_mode=BodyMode.STREAMED,
            response_body_mode=BodyMode.BUFFERED,
            provider="groq",
        )

    def test_what_envoy_tells_and_what_it_has_verified(self) -> None:
        message = pb.ProcessingRequest(request_headers=headers((":path", b"/v1")))
        told = {"source.address": "10.0.0.1:2", "xds.node.user_agent_build_version.version.minor_number": 40}
        message.attributes["envoy.filters.http.ext_proc"].update(told)
        claims = {"sub": "ann", "admin": True, "level": 3.0, "share": 0.5, "groups": ["a"], "realm": {"team": "red"}}
        verified = message.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"]
        verified.update({"b": {"sub": "bob", "iss": "b"}, "a": claims, "c": "text"})
        message.metadata_context.filter_metadata["another.filter"].update({"a": {"sub": "eve", "org": "evil"}})
        event = decoded(message)
        assert isinstance(event, m.RequestHeaders)
        assert event.envoy_attributes == {"source.address": "10.0.0.1:2"}
        assert event.envoy_minor == 40
        expected = {"sub": "ann", "admin": "true", "level": "3", "realm.team": "red", "iss": "b"}
        assert event.claims == expected

    def test_values_in_the_old_field(self) -> None:
        event = decoded(pb.ProcessingRequest(request_headers=headers(("a", "old"), ("b", b""), end_of_stream=True)))
        assert event == m.RequestHeaders(headers={"a": "old", "b": ""}, end_of_stream=True)

    def test_of_a_repeated_header_the_first_counts(self) -> None:
        event = decoded(pb.ProcessingRequest(request_headers=headers(("x-tier", b"free"), ("X-Tier", b"gold"))))
        assert isinstance(event, m.RequestHeaders)
        assert event.headers == {"x-tier": "free"}

    def test_bytes_that_are_not_utf8_survive_the_round_trip(self) -> None:
        event = decoded(pb.ProcessingRequest(request_headers=headers((":path", b"/\xff\xfe\x80"))))
        assert isinstance(event, m.RequestHeaders)
        message = encoded(m.HeadersReply(response=False, set_headers={":path": event.headers[":path"]}))
        (option,) = message.request_headers.response.header_mutation.set_headers
        assert option.header.raw_value == b"/\xff\xfe\x80"

    @pytest.mark.parametrize(
        ("message", "event"),
        [
            (pb.ProcessingRequest(request_body=pb.HttpBody(body=b"a", end_of_stream=True)), m.RequestBody(b"a", True)),
            (pb.ProcessingRequest(request_body=pb.HttpBody(body=b"\xff")), m.RequestBody(b"\xff", False)),
            (pb.ProcessingRequest(request_body=pb.HttpBody()), m.RequestBody(b"", False)),
            (pb.ProcessingRequest(request_trailers=pb.HttpTrailers()), m.RequestTrailers()),
            (pb.ProcessingRequest(response_body=pb.HttpBody(body=b"b")), m.ResponseBody(b"b", False)),
            (pb.ProcessingRequest(response_trailers=pb.HttpTrailers()), m.ResponseTrailers()),
            (
                pb.ProcessingRequest(response_headers=headers((":status", b"200"), end_of_stream=True)),
                m.ResponseHeaders({":status": "200"}, end_of_stream=True),
            ),
        ],
        ids=lambda value: value.WhichOneof("request") if isinstance(value, pb.ProcessingRequest) else "",
    )
    def test_the_others(self, message: pb.ProcessingRequest, event: m.Event) -> None:
        assert decoded(message) == event

    def test_an_unknown_kind(self) -> None:
        with pytest.raises(ProtocolError, match="unknown kind"):
            decoded(pb.ProcessingRequest())

    @pytest.mark.parametrize("field", ["request_body_mode", "response_body_mode"])
    def test_an_unknown_body_mode(self, field: str) -> None:
        config = pb.ProtocolConfiguration(**{field: 17})
        with pytest.raises(ProtocolError, match="unknown body mode \\(17\\)"):
            decoded(pb.ProcessingRequest(request_headers=headers(), protocol_config=config))

    @pytest.mark.parametrize("mode", BodyMode)
    def test_every_body_mode(self, mode: BodyMode) -> None:
        config = pb.ProtocolConfiguration(request_body_mode=mode.value, response_body_mode=mode.value)
        event = decoded(pb.ProcessingRequest(request_headers=headers(), protocol_config=config))
        assert isinstance(event, m.RequestHeaders)
        assert (event.request_body_mode, event.response_body_mode) == (mode, mode)

    def test_the_modes_are_told_in_the_first_message_for_all(self) -> None:
        decoder = Decoder(provider=None)
        config = pb.ProtocolConfiguration(request_body_mode="BUFFERED", response_body_mode="BUFFERED_PARTIAL")
        decoder.event(pb.ProcessingRequest(request_headers=headers(), protocol_config=config).SerializeToString())
        event = decoder.event(pb.ProcessingRequest(response_headers=headers()).SerializeToString())
        assert isinstance(event, m.ResponseHeaders)
        assert (event.body_mode, event.mode_fixed) == (BodyMode.BUFFERED_PARTIAL, False)

    @pytest.mark.parametrize(
        ("config", "fixed"),
        [
            ({"request_body_mode": "BUFFERED", "response_body_mode": "STREAMED"}, False),
            ({"request_body_mode": "FULL_DUPLEX_STREAMED", "response_body_mode": "STREAMED"}, True),
            ({"request_body_mode": "BUFFERED", "response_body_mode": "FULL_DUPLEX_STREAMED"}, True),
            ({"send_body_without_waiting_for_header_response": True}, True),
        ],
    )
    def test_whether_envoy_takes_an_override(self, config: dict[str, str], fixed: bool) -> None:
        event = decoded(
            pb.ProcessingRequest(response_headers=headers(), protocol_config=pb.ProtocolConfiguration(**config))
        )
        assert isinstance(event, m.ResponseHeaders)
        assert event.mode_fixed is fixed


class TestReplies:
    def test_headers(self) -> None:
        reply = m.HeadersReply(response=False, set_headers={":path": "/", "x-é": "ü"}, remove_headers=("b", "c"))
        common = encoded(reply).request_headers.response
        mutation = common.header_mutation
        assert [(each.header.key, each.header.raw_value, each.header.value) for each in mutation.set_headers] == [
            (":path", b"/", ""),
            ("x-é", "ü".encode(), ""),
        ]
        assert {each.append_action for each in mutation.set_headers} == {OVERWRITE}
        assert list(mutation.remove_headers) == ["b", "c"]
        assert common.status == pb.CommonResponse.CONTINUE
        assert not encoded(reply).HasField("mode_override")

    def test_headers_that_stay_as_they_are(self) -> None:
        message = encoded(m.HeadersReply(response=True))
        assert message == pb.ProcessingResponse(response_headers=pb.HeadersResponse(response=pb.CommonResponse()))
        assert message.WhichOneof("response") == "response_headers"

    @pytest.mark.parametrize("mode", BodyMode)
    @pytest.mark.parametrize("shown", [True, False])
    def test_a_mode_override_sets_every_mode(self, mode: BodyMode, shown: bool) -> None:
        override = m.ModeOverride(
            response_body=mode, response_trailers=shown, response_headers=shown, request_body=mode
        )
        send = ProcessingMode.SEND if shown else ProcessingMode.SKIP
        number = ProcessingMode.BodySendMode.Value(mode.value)
        assert encoded(m.HeadersReply(response=True, mode=override)).mode_override == ProcessingMode(
            request_header_mode=ProcessingMode.SEND,
            request_body_mode=number,
            request_trailer_mode=ProcessingMode.SKIP,
            response_header_mode=send,
            response_body_mode=number,
            response_trailer_mode=send,
        )

    @pytest.mark.parametrize("response", [True, False])
    def test_a_body_that_stays(self, response: bool) -> None:
        message = encoded(m.BodyReply(response=response))
        assert message.WhichOneof("response") == ("response_body" if response else "request_body")
        common = (message.response_body if response else message.request_body).response
        assert not common.HasField("body_mutation")
        assert not common.HasField("header_mutation")

    def test_a_body_that_is_replaced(self) -> None:
        message = encoded(m.BodyReply(response=False, body=b"\x00\xff", set_headers={"content-length": "2"}))
        common = message.request_body.response
        assert common.body_mutation.WhichOneof("mutation") == "body"
        assert common.body_mutation.body == b"\x00\xff"
        assert common.header_mutation.set_headers[0].header.raw_value == b"2"

    def test_a_body_that_is_emptied(self) -> None:
        """An empty `body` would mean that there is none given, and Envoy would leave what is there."""
        mutation = encoded(m.BodyReply(response=True, body=b"")).response_body.response.body_mutation
        assert mutation.WhichOneof("mutation") == "clear_body"
        assert mutation.clear_body

    @pytest.mark.parametrize("response", [True, False])
    @pytest.mark.parametrize(("body", "end_of_stream"), [(b"x", False), (b"", True), (b"", False)])
    def test_a_piece_in_full_duplex(self, response: bool, body: bytes, end_of_stream: bool) -> None:
        message = encoded(m.StreamedBody(response, body, end_of_stream))
        assert message.WhichOneof("response") == ("response_body" if response else "request_body")
        mutation = (message.response_body if response else message.request_body).response.body_mutation
        assert mutation.WhichOneof("mutation") == "streamed_response"
        assert (mutation.streamed_response.body, mutation.streamed_response.end_of_stream) == (body, end_of_stream)

    @pytest.mark.parametrize("response", [True, False])
    def test_trailers(self, response: bool) -> None:
        message = encoded(m.TrailersReply(response=response))
        assert message.WhichOneof("response") == ("response_trailers" if response else "request_trailers")

    def test_an_immediate_reply(self) -> None:
        reply = encoded(m.ImmediateReply(402, {"content-type": "application/json"}, b'{"error":{}}')).immediate_response
        assert reply.status.code == 402
        assert reply.body == b'{"error":{}}'
        assert reply.details == "policyd"
        (option,) = reply.headers.set_headers
        assert (option.header.key, option.header.raw_value) == ("content-type", b"application/json")
        assert option.append_action == OVERWRITE

    @given(data=st.data())
    def test_whatever_it_is_it_is_what_protobuf_writes(self, data: st.DataObject) -> None:
        """Lengths of one byte and of several, and each field that may be there or not."""
        texts = st.text(st.characters(codec="utf-8"), max_size=200)
        bodies = st.binary(max_size=300)
        set_headers = data.draw(st.dictionaries(texts, texts, max_size=3))
        response = data.draw(st.booleans())

        removed = tuple(data.draw(st.lists(texts, max_size=3)))
        common = pb.CommonResponse(header_mutation=mutation(set_headers, removed)) if set_headers or removed else None
        side = "response" if response else "request"
        headers = pb.HeadersResponse(response=common or pb.CommonResponse())
        assert encoded(m.HeadersReply(response, set_headers, removed)) == pb.ProcessingResponse(
            **{f"{side}_headers": headers}
        )

        body, ends = data.draw(bodies), data.draw(st.booleans())
        piece = pb.StreamedBodyResponse(body=body, end_of_stream=ends)
        common = pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=piece))
        assert encoded(m.StreamedBody(response, body, ends)) == pb.ProcessingResponse(
            **{f"{side}_body": pb.BodyResponse(response=common)}
        )

        status = data.draw(st.sampled_from([402, 429, 503]))
        immediate = pb.ImmediateResponse(body=body, details="policyd")
        immediate.status.code = status
        if set_headers:
            immediate.headers.CopyFrom(mutation(set_headers))
        assert encoded(m.ImmediateReply(status, set_headers, body)) == pb.ProcessingResponse(
            immediate_response=immediate
        )

    @pytest.mark.parametrize(
        "reply",
        [
            m.HeadersReply(response=True, mode=m.ModeOverride(response_body=BodyMode.NONE)),
            m.BodyReply(response=True, body=b"a"),
            m.StreamedBody(response=True, body=b"a", end_of_stream=True),
            m.TrailersReply(response=True),
            m.ImmediateReply(402, {}, b""),
        ],
    )
    def test_nothing_asks_envoy_to_drain(self, reply: m.Reply) -> None:
        """Newer Envoys read that field's number as another one."""
        assert not encoded(reply).request_drain

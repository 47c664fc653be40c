"""The connection with another implementation as its client, h2: everything arrives, in any windows and pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, TrailersReceived
from h2.settings import SettingCodes, Settings
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policyd.h2rpc import events
from policyd.h2rpc.connection import Connection
from policyd.h2rpc.limits import Limits
from tests.h2rpc.peer import REPLY, REQUEST_HEADERS, TRAILERS

STEPS_MAX = 2000


@dataclass(frozen=True)
class Script:
    """What goes to and fro, and how."""

    requests: list[list[bytes]]
    """The body of each stream, by DATA frame."""
    replies: list[list[bytes]]
    client_settings: dict[SettingCodes, int]
    later_window: int
    server_limits: Limits
    splits: list[int]
    """The sizes of the pieces in which bytes arrive."""
    pad: int | None
    pings: bool
    late_acknowledgements: bool


bodies = st.lists(
    st.builds(lambda size, byte: bytes([byte]) * size, st.sampled_from([1, 5, 300, 3000]), st.integers(0, 255)),
    max_size=4,
)

scripts = st.integers(1, 5).flatmap(
    lambda streams: st.builds(
        Script,
        requests=st.lists(bodies, min_size=streams, max_size=streams),
        replies=st.lists(bodies, min_size=streams, max_size=streams),
        client_settings=st.fixed_dictionaries(
            {
                SettingCodes.INITIAL_WINDOW_SIZE: st.sampled_from([0, 300, 1000, 65_535]),
                SettingCodes.MAX_FRAME_SIZE: st.sampled_from([16_384, 20_000, 2**24 - 1]),
                SettingCodes.HEADER_TABLE_SIZE: st.sampled_from([0, 100, 4096]),
            }
        ),
        later_window=st.sampled_from([300, 5000, 100_000]),
        server_limits=st.builds(
            Limits,
            stream_window_bytes=st.sampled_from([65_535, 70_000]),
            connection_window_bytes=st.sampled_from([65_535, 2**20]),
            frame_bytes_max=st.sampled_from([16_384, 70_000]),
            header_blocks_kept_max=st.sampled_from([0, 1, 256]),
        ),
        splits=st.lists(st.sampled_from([1, 9, 100, 5000, 100_000]), min_size=1, max_size=4),
        pad=st.sampled_from([None, 0, 30]),
        pings=st.booleans(),
        late_acknowledgements=st.booleans(),
    )
)


@dataclass
class Reply:
    content: bytes = b""
    began: bool = False
    trailers: bool = False
    ended: bool = False


@dataclass
class Run:
    script: Script
    client: H2Connection = field(init=False)
    server: Connection = field(init=False)
    received: dict[int, bytes] = field(default_factory=dict)
    """What the server got."""
    replies: dict[int, Reply] = field(default_factory=dict)
    """What the client got."""
    unacknowledged: list[tuple[int, int]] = field(default_factory=list)

    def play(self) -> None:
        script = self.script
        self.client = H2Connection(H2Configuration(client_side=True))
        self.client.local_settings = Settings(client=True, initial_values=script.client_settings)
        self.client.initiate_connection()
        self.server = Connection(script.server_limits)
        splits = cycle(script.splits)
        unsent = {1 + 2 * number: list(body) for number, body in enumerate(script.requests)}
        for stream_id, body in unsent.items():
            self.client.send_headers(stream_id, REQUEST_HEADERS, end_stream=not body)
            self.replies[stream_id] = Reply()
        for step in range(STEPS_MAX):
            self._send(unsent)
            if step == 1:
                self.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: script.later_window})
            if script.pings and step % 3 == 0:
                self.client.ping(b"%08d" % step)
            self._to_server(splits)
            self._to_client(splits)
            if all(reply.ended for reply in self.replies.values()):
                return
        raise AssertionError(f"it hangs: {self.replies}")

    def _send(self, unsent: dict[int, list[bytes]]) -> None:
        pad = self.script.pad
        overhead = 0 if pad is None else pad + 1
        for stream_id, body in unsent.items():
            while body:
                room = min(self.client.local_flow_control_window(stream_id), self.client.max_outbound_frame_size)
                size = min(len(body[0]), room - overhead)
                if size <= 0:
                    break
                piece, body[0] = body[0][:size], body[0][size:]
                if not body[0]:
                    body.pop(0)
                self.client.send_data(stream_id, piece, end_stream=not body, pad_length=pad)

    def _to_server(self, splits: Iterator[int]) -> None:
        for piece in cut(self.client.data_to_send(), splits):
            for event in self.server.receive(piece, now_ms=0):
                match event:
                    case events.RequestReceived(stream_id):
                        self.received[stream_id] = b""
                    case events.DataReceived(stream_id, data, window_bytes):
                        self.received[stream_id] += data
                        self.server.taken(stream_id, window_bytes)
                    case events.RequestEnded(stream_id):
                        self._answer(stream_id)
                    case events.StreamReset():
                        raise AssertionError(event)
                    case events.OutboxEmptied():
                        pass
        assert self.server.fault is None

    def _answer(self, stream_id: int) -> None:
        self.server.send_headers(stream_id, REPLY)
        for chunk in self.script.replies[stream_id // 2]:
            self.server.send_data(stream_id, chunk)
        self.server.end(stream_id, TRAILERS)

    def _to_client(self, splits: Iterator[int]) -> None:
        for piece in cut(self.server.take_output(), splits):
            for event in self.client.receive_data(piece):
                match event:
                    case ResponseReceived():
                        self.replies[event.stream_id].began = True
                    case DataReceived():
                        self.replies[event.stream_id].content += event.data
                        self.unacknowledged.append((event.flow_controlled_length, event.stream_id))
                    case TrailersReceived():
                        self.replies[event.stream_id].trailers = True
                    case StreamEnded():
                        self.replies[event.stream_id].ended = True
                    case _:
                        pass
            if not self.script.late_acknowledgements:
                self._acknowledge()
        self._acknowledge()

    def _acknowledge(self) -> None:
        for length, stream_id in self.unacknowledged:
            self.client.acknowledge_received_data(length, stream_id)
        self.unacknowledged.clear()


def cut(data: bytes, splits: Iterator[int]) -> Sequence[bytes]:
    pieces, at = [], 0
    while at < len(data):
        size = next(splits)
        pieces.append(data[at : at + size])
        at += size
    return pieces


LARGE = Script(
    requests=[[b"x" * 200_000]] * 3,
    replies=[[b"y" * 200_000]] * 3,
    client_settings={},
    later_window=10_000,
    server_limits=Limits(stream_window_bytes=100_000, frame_bytes_max=30_000),
    splits=[50_000, 9],
    pad=None,
    pings=True,
    late_acknowledgements=True,
)


@given(script=scripts)
@example(script=LARGE)
@settings(max_examples=60)
def test_everything_arrives(script: Script) -> None:
    run = Run(script)
    run.play()
    for number, (request, reply) in enumerate(zip(script.requests, script.replies, strict=True)):
        stream_id = 1 + 2 * number
        assert run.received[stream_id] == b"".join(request)
        assert run.replies[stream_id] == Reply(b"".join(reply), began=True, trailers=True, ended=True)
    assert run.server.open_streams == 0

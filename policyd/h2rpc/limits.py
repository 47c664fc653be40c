"""Every bound, in one place, with what happens to a peer that passes it."""

from dataclasses import dataclass
from typing import Final

WINDOW_BYTES_DEFAULT: Final = 65_535
WINDOW_BYTES_MAX: Final = 2**31 - 1
FRAME_BYTES_DEFAULT: Final = 16_384
FRAME_BYTES_MAX: Final = 2**24 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of a server. The defaults suit a proxy that means well, but need not be without faults."""

    connections_max: int = 1024
    """Past it a new connection is closed at once."""
    streams_max: int = 65_536
    """Open streams of a connection, told to the peer. Past it: RST_STREAM with REFUSED_STREAM."""
    frame_bytes_max: int = 16_384
    """The payload of a frame that is taken, told to the peer; 16,384 to 16,777,215. Past it: FRAME_SIZE_ERROR."""
    header_block_bytes_max: int = 16_384
    """A request's headers as they come, in all of their frames. Past it: ENHANCE_YOUR_CALM."""
    header_frames_max: int = 8
    """The frames of one header block. Past it: ENHANCE_YOUR_CALM."""
    header_list_bytes_max: int = 32_768
    """The same headers unpacked, as RFC 9113, 6.5.2 counts them, told to the peer. Past it: ENHANCE_YOUR_CALM."""
    header_blocks_kept_max: int = 256
    """Header blocks whose meaning is remembered. Past it all of them are forgotten."""
    message_bytes_max: int = 4 * 1024 * 1024
    """One message that is received. Past it the call ends with RESOURCE_EXHAUSTED, before the message is stored."""
    stream_window_bytes: int = 1024 * 1024
    """What a peer may send on a stream ahead of what its handler has taken, 65,535 to 2^31-1. Past it:
    FLOW_CONTROL_ERROR."""
    connection_window_bytes: int = 16 * 1024 * 1024
    """What a peer may send on all streams before it hears from the server again, in the same bounds. Past it:
    FLOW_CONTROL_ERROR."""
    received_bytes_max: int = 256 * 1024 * 1024
    """Parts of messages, and messages not yet taken, of a connection's calls. Past it the call whose message it is
    ends with RESOURCE_EXHAUSTED."""
    nuisances_max: int = 10_000
    """Frames at a time that do no work, and as many streams reset before they were answered: see nuisance.py. Far more
    than a proxy sends that loses thousands of clients at once. Past it: ENHANCE_YOUR_CALM."""
    nuisances_per_second: int = 1000
    """How fast they are forgiven."""
    handshake_seconds_max: float = 10
    """How long a peer may take for its preface and its first SETTINGS. Past it the connection is closed."""
    keepalive_seconds: float = 30
    """A connection that is silent for so long is sent a PING; if nothing comes for as long again, it is closed."""
    stall_seconds_max: float = 60
    """How long a peer may read nothing, or give a stream no window, while something waits for it. Past it the
    connection is closed, or the stream reset with CANCEL, within twice that time."""

    def __post_init__(self) -> None:
        """Raises `ValueError` for what HTTP/2 does not allow.

        A window smaller than the default would be allowed; but a peer may pass it before it has heard of it.
        """
        for name, least, most in (
            ("frame_bytes_max", FRAME_BYTES_DEFAULT, FRAME_BYTES_MAX),
            ("stream_window_bytes", WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MAX),
            ("connection_window_bytes", WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MAX),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected {least} to {most}")

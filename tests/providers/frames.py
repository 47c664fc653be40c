"""WebSocket frames as a test needs them: also such as no library would send."""

from __future__ import annotations

TEXT, CONTINUATION, BINARY, CLOSE, PING = 1, 0, 2, 8, 9
FIN = 0x80


def frame(payload: bytes, *, opcode: int = TEXT, first: int | None = None, masked: bool = False) -> bytes:
    """One frame, right or wrong. `first` is the whole first byte."""
    mask = 0x80 if masked else 0
    if len(payload) < 126:
        length = bytes([mask | len(payload)])
    elif len(payload) < 65_536:
        length = bytes([mask | 126]) + len(payload).to_bytes(2)
    else:
        length = bytes([mask | 127]) + len(payload).to_bytes(8)
    key = b"\x01\x02\x03\x04" if masked else b""
    body = bytes(byte ^ key[index % 4] for index, byte in enumerate(payload)) if masked else payload
    return bytes([FIN | opcode if first is None else first]) + length + key + body

"""Replies of a few bytes that stand for gigabytes: read up to a bound, then cut, and charged by their hold."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Iterator
from random import Random

import brotli
import pytest
import zstandard

from policyd.core.record import Outcome, UsageSource
from policyd.ext_proc.encoding import ALLOWANCE_BYTES, PIECE_BYTES_MAX, Decoder, UndecodableReply, decoder
from tests.builders import World
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import COMPRESS, chat, request_headers

MIB = 2**20

BOMB_BYTES = 256 * MIB

MEMORY_BYTES_MAX = 3 * PIECE_BYTES_MAX
"""What a piece may make, what was made of the one before, and a copy on the way."""


def _zeros() -> Iterator[bytes]:
    yield from (bytes(MIB) for _ in range(BOMB_BYTES // MIB))


def _deflated(window_bits: int) -> bytes:
    stream = zlib.compressobj(wbits=window_bits)
    return b"".join(map(stream.compress, _zeros())) + stream.flush()


def _brotli() -> bytes:
    stream = brotli.Compressor(quality=1)
    return b"".join(map(stream.process, _zeros())) + bytes(stream.finish())


def _zstandard() -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return b"".join(map(stream.compress, _zeros())) + stream.flush()


@pytest.fixture(scope="module", params=["gzip", "deflate", "br", "zstd"])
def bomb(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    """A content-encoding, and what stands for `BOMB_BYTES` in it."""
    make = {"gzip": lambda: _deflated(31), "deflate": lambda: _deflated(15), "br": _brotli, "zstd": _zstandard}
    return request.param, make[request.param]()


def feed_all(reading: Decoder, body: bytes, *, piece_bytes: int) -> None:
    for start in range(0, len(body), piece_bytes):
        reading.feed(body[start : start + piece_bytes])


@pytest.mark.parametrize("piece_bytes", [64, 16_384, 2**30], ids=["dribbled", "in pieces", "at once"])
def test_memory_is_bounded(bomb: tuple[str, bytes], piece_bytes: int) -> None:
    encoding, body = bomb
    reading = decoder(encoding)
    assert reading is not None
    tracemalloc.start()
    try:
        with pytest.raises(UndecodableReply, match="more than is read of a reply"):
            feed_all(reading, body, piece_bytes=piece_bytes)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MEMORY_BYTES_MAX


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "document"])
@pytest.mark.parametrize("knows_length", [True, False], ids=["length", "no-length"])
async def test_a_bomb_is_charged_its_hold(
    world: World, bomb: tuple[str, bytes], streamed: bool, knows_length: bool
) -> None:
    encoding, body = bomb
    body = body[: 400 * 1024]
    request = chat(stream=streamed, max_tokens=100)
    envoy = Envoy(world)
    await envoy.request(request_headers(request), [request])
    content_type = "text/event-stream" if streamed else "application/json"
    headers = wire.reply_headers(content_type, content_encoding=encoding)
    if knows_length:
        headers["content-length"] = str(len(body))
    await envoy.response(headers, [body])
    await envoy.close()

    assert envoy.answered
    assert world.record.usage_source is UsageSource.NONE
    assert world.record.actual_cost_nanos == world.record.estimated_cost_nanos == await world.spent()
    # A document passes as it came: nobody here has to decode it for the client.
    assert (envoy.client.body == body) is not streamed
    assert (b"reply_unreadable" in envoy.client.body) is streamed
    assert world.record.outcome is (Outcome.PROVIDER_ERROR if streamed else Outcome.SERVED)


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_model_that_repeats_itself_is_read(encoding: str) -> None:
    """The most repetitive reply there is, as large as the longest that providers serve."""
    plain = wire.chat_chunk({"content": " yes"}) * (ALLOWANCE_BYTES // 256)
    body = COMPRESS[encoding](plain)
    reading = decoder(encoding)
    assert reading is not None
    assert b"".join(reading.feed(body[start : start + 1000]) for start in range(0, len(body), 1000)) == plain


@pytest.mark.parametrize("encoding", COMPRESS)
def test_an_ordinary_reply_may_be_of_any_length(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the allowance only what expands beyond measure is refused."""
    monkeypatch.setattr("policyd.ext_proc.encoding.ALLOWANCE_BYTES", 1024)
    plain = Random(1).randbytes(MIB // 4).hex().encode()
    body = COMPRESS[encoding](plain)
    reading = decoder(encoding)
    assert reading is not None
    assert b"".join(reading.feed(body[start : start + 1000]) for start in range(0, len(body), 1000)) == plain


def test_a_window_of_gigabytes_is_not_given() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = stream.compress(bytes(2 * MIB)) + stream.flush()
    reading = decoder("zstd")
    assert reading is not None
    with pytest.raises(UndecodableReply):
        reading.feed(body)

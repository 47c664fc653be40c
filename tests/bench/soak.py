"""Whether h2rpc's memory stays flat under much traffic, good and bad: `make soak`, or python -m tests.bench.soak

A server of its own process echoes calls. In each round it is sent thousands of them, some with headers never seen
before, some large; streams that are reset at once; connections that break off in the middle, and some that speak
nonsense. What the process holds after each round is compared with what it held after the first ones.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from policyd.config import HostPort, parse_host_port
from policyd.h2rpc import Call, Server, frames
from policyd.h2rpc.messages import prefixed
from policyd.h2rpc.settings import INITIAL_WINDOW_SIZE
from tests.bench.processes import announce, child
from tests.h2rpc.peer import PATH, REQUEST_HEADERS, block_of, data, headers, rst_stream, window_update

GROWTH_BYTES_MAX: Final = 4 * 2**20
"""What may be held more at the end than after the first quarter: allocators are never quite still."""

_SEED = 6
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ROUND_SECONDS_MAX = 300
_BATCH_CALLS = 100
_GREETING = (
    frames.PREFACE
    + frames.settings({INITIAL_WINDOW_SIZE: 2**31 - 1})
    + window_update(0, 2**31 - 1 - 65_535)
    + frames.SETTINGS_ACK
)


@dataclass(frozen=True, slots=True)
class Soak:
    calls: int
    resident_bytes: tuple[int, ...]
    """What the server held after each round."""

    @property
    def growth_bytes(self) -> int:
        """From the end of the first quarter to the end."""
        return self.resident_bytes[-1] - self.resident_bytes[len(self.resident_bytes) // 4]


async def soak(*, rounds: int, batches: int, progress: Callable[[str], None]) -> Soak:
    """`rounds` of `batches` of a hundred calls, and of as much mischief as belongs to them."""
    chance = random.Random(_SEED)
    held: list[int] = []
    with tempfile.TemporaryDirectory(prefix="policyd-soak-") as folder:
        async with child("tests.bench.soak", "--serve", log=Path(folder) / "server.log") as server:
            address = parse_host_port(server.ready["grpc"])
            for number in range(rounds):
                async with asyncio.timeout(_ROUND_SECONDS_MAX):
                    await _round(address, batches, chance)
                held.append(_resident_bytes(server.pid))
                progress(f"round {number + 1} of {rounds}: {held[-1] / 2**20:.1f} MiB")
    return Soak(rounds * batches * _BATCH_CALLS, tuple(held))


async def _round(address: HostPort, batches: int, chance: random.Random) -> None:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(_GREETING)
    answers = _Answers(reader)
    stream_ids = iter(range(1, frames.STREAM_ID_MAX, 2))
    for number in range(batches):
        writer.write(b"".join(_calls(stream_ids, chance, rare=number % 10 == 0)))
        await answers.of_calls(_BATCH_CALLS)
        if number % 10 == 0:
            writer.write(_resets(stream_ids, chance))
    writer.close()
    await writer.wait_closed()
    for _ in range(batches // 10):
        await _mischief(address, chance)


def _calls(stream_ids: Iterator[int], chance: random.Random, *, rare: bool) -> Iterator[bytes]:
    """A hundred; `rare` ones have headers of their own, and one of them is large."""
    for number in range(_BATCH_CALLS):
        stream_id = next(stream_ids)
        unseen = [("x-request-id", f"{chance.getrandbits(64):x}")] if rare else []
        yield headers(stream_id, block_of([*REQUEST_HEADERS, *unseen]))
        message = prefixed(chance.randbytes(200_000 if rare and number == 0 else 500))
        pieces = [message[at : at + 16_384] for at in range(0, len(message), 16_384)]
        for piece in pieces:
            yield data(stream_id, piece, end_stream=piece is pieces[-1])


def _resets(stream_ids: Iterator[int], chance: random.Random) -> bytes:
    """Streams that are given up before anything is answered."""
    taken = [next(stream_ids) for _ in range(5)]
    content = prefixed(chance.randbytes(1000))[:-1]
    return b"".join(headers(each) + data(each, content) + rst_stream(each) for each in taken)


async def _mischief(address: HostPort, chance: random.Random) -> None:
    """A connection that ends badly."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    good = _GREETING + headers(1) + data(1, prefixed(chance.randbytes(100)))
    writer.write(good[: chance.randrange(len(good))] + chance.randbytes(chance.randrange(50_000)))
    try:
        async with asyncio.timeout(0.01):
            await reader.read()
    except (TimeoutError, ConnectionError):
        pass
    writer.transport.abort()


class _Answers:
    """Counts how calls end, and reads no more of them."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._frames = frames.FrameReader(frame_bytes_max=frames.STREAM_ID_MAX)

    async def of_calls(self, count: int) -> None:
        while count > 0:
            content = await self._reader.read(2**18)
            if not content:
                raise ConnectionError("the server closed the connection")
            for frame in self._frames.frames(content):
                if frame.kind == frames.HEADERS and frame.flags & frames.END_STREAM:
                    count -= 1
                elif frame.kind == frames.GOAWAY:
                    raise ConnectionError(f"the server says {frame.payload!r}")


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


class _Echo:
    def __init__(self, call: Call) -> None:
        self._call = call

    def on_message(self, message: bytes) -> None:
        self._call.send(message)

    def on_half_close(self) -> None:
        self._call.finish()

    def on_cancelled(self) -> None: ...

    def on_writable(self) -> None: ...


async def _serve() -> None:
    port = await Server({PATH: _Echo}).listen("127.0.0.1", 0)
    announce(grpc=f"127.0.0.1:{port}")
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description="Looks whether h2rpc's memory stays flat.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batches", type=int, default=500, help="of a hundred calls, in each round")
    parser.add_argument("--serve", action="store_true", help="be the server")
    chosen = parser.parse_args()
    if chosen.serve:
        uvloop.run(_serve())
        return
    done = uvloop.run(soak(rounds=chosen.rounds, batches=chosen.batches, progress=print))
    print(f"{done.calls:,} calls; {done.growth_bytes / 2**20:+.1f} MiB from the first quarter to the end")
    if done.growth_bytes > GROWTH_BYTES_MAX:
        sys.exit(f"soak: that is more than {GROWTH_BYTES_MAX / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()

"""What an exchange costs policyd itself, without sockets: python -m tests.bench.hot_path [--stream] [--store memory]

The bytes that Envoy would send go into h2rpc, and what policyd answers is taken out of it; everything between is as in
the server: the transport, the exchange, the enforcer, the store, metrics and the log line. CPU time is that of the
whole process, the store's threads included. `--profile` tells where it goes; py-spy can be put around either.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import statistics
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import process_time_ns
from typing import Any, Final

import uvloop

from policyd.clock import SystemClock
from policyd.config import load_policy
from policyd.enforcer import Enforcer
from policyd.ext_proc.over_h2rpc import services
from policyd.ext_proc.servicer import METHOD, ExternalProcessor
from policyd.ext_proc.settings import ExchangeSettings
from policyd.h2rpc import Limits, Service, frames
from policyd.h2rpc.headers import NO_DYNAMIC_TABLE, header_block
from policyd.h2rpc.limits import WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MAX
from policyd.h2rpc.messages import prefixed
from policyd.h2rpc.protocol import RpcProtocol
from policyd.h2rpc.settings import INITIAL_WINDOW_SIZE
from policyd.prices.table_file import open_price_book
from policyd.stores.url import open_store
from policyd.telemetry import LineWriter, Telemetry
from policyd.tokens import TokenCounter
from tests.bench.arrangements import POLICY
from tests.bench.envoy_messages import reply_messages, request_messages, stream_messages
from tests.bench.noop_on_h2rpc import Exchange as NoopExchange

CONNECTIONS: Final[Mapping[str, int]] = {"noop": 1, "memory": 1, "sqlite": 16}
"""How many exchanges run at once, each on a connection of its own: where nothing is waited for, one after the other. A
round is one on each, and so short that some are not disturbed by what else the machine does."""

ROUNDS_BEFORE: Final = 20
"""Not counted: what is made at the first use is made then."""

STORES: Final = ("noop", "memory", "sqlite")
"""What is measured: a server that decides nothing, and policyd on each store that is in the process."""

_HEADERS = header_block(
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", METHOD),
        (":authority", "policyd"),
        ("te", "trailers"),
        ("grpc-timeout", "3600000m"),
        ("content-type", "application/grpc"),
        ("x-envoy-internal", "true"),
        ("x-forwarded-for", "127.0.0.1"),
    ]
)
_GREETING = (
    frames.PREFACE
    + frames.settings({INITIAL_WINDOW_SIZE: 2**28})
    + frames.SETTINGS_ACK
    + frames.window_update(0, WINDOW_BYTES_MAX - WINDOW_BYTES_DEFAULT)
)


class Envoy(asyncio.Transport):
    """Envoy's end of a connection, with policyd's protocol in place of a socket."""

    def __init__(self, service: Mapping[str, Service]) -> None:
        super().__init__()
        self._policyd = RpcProtocol(service, Limits(), admit=lambda _: True, on_lost=lambda _: None)
        self._reader = frames.FrameReader(frame_bytes_max=frames.STREAM_ID_MAX)
        self._stream_id = -1
        self._answers = 0
        self._has_ended = False
        self._change = asyncio.Event()
        self._policyd.connection_made(self)
        self._policyd.data_received(_GREETING)

    async def exchange(self, request: Sequence[bytes], reply: Sequence[bytes], *, in_turn: bool) -> None:
        """One exchange. `in_turn`: each message of the reply is answered before the next one goes."""
        self._stream_id += 2
        headers = NO_DYNAMIC_TABLE + _HEADERS if self._stream_id == 1 else _HEADERS
        self._answers = 0
        self._has_ended = False
        first, *others = request
        self._policyd.data_received(
            frames.frame(frames.HEADERS, frames.END_HEADERS, self._stream_id, headers) + self._data(first)
        )
        sent = 1
        for message in (*others, reply[0]):
            await self._until(answers=sent)
            self._policyd.data_received(self._data(message))
            sent += 1
        for message in reply[1:]:
            if in_turn:
                await self._until(answers=sent)
            self._policyd.data_received(self._data(message))
            sent += 1
        await self._until(answers=sent)
        self._policyd.data_received(frames.frame(frames.DATA, frames.END_STREAM, self._stream_id, b""))
        while not self._has_ended:
            await self._wait()

    def _data(self, message: bytes) -> bytes:
        return frames.frame(frames.DATA, 0, self._stream_id, prefixed(message))

    async def _until(self, *, answers: int) -> None:
        while self._answers < answers:
            await self._wait()

    async def _wait(self) -> None:
        self._change.clear()
        await self._change.wait()

    def close(self) -> None:
        self._policyd.connection_lost(None)

    # --- of asyncio's transports, what a protocol uses ---

    def write(self, data: Any) -> None:
        for frame in self._reader.frames(bytes(data)):
            if frame.kind == frames.DATA:
                self._answers += 1
            elif frame.kind == frames.HEADERS and frame.flags & frames.END_STREAM:
                self._has_ended = True
        self._change.set()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        raise AssertionError("policyd has broken off the connection")


@asynccontextmanager
async def serving(store_name: str, folder: Path) -> AsyncIterator[Mapping[str, Service]]:
    """What answers Envoy, put together as the server does."""
    if store_name == "noop":
        yield {METHOD: NoopExchange}
        return
    store = open_store("memory://" if store_name == "memory" else f"sqlite:///{folder / 'policyd.db'}")
    policy = load_policy(POLICY)
    with (folder / "log").open("wb", buffering=0) as log:
        writer = LineWriter(log)
        counter = TokenCounter()
        counter.preload()
        enforcer = Enforcer(
            store=store,
            prices=open_price_book(None),
            counter=counter,
            clock=SystemClock(),
            policy=lambda: policy,
            observer=Telemetry(version="bench", write_line=writer.write),
        )
        processor = ExternalProcessor(enforcer, ExchangeSettings())
        gc.collect()
        gc.freeze()
        try:
            yield services(processor)
            await processor.finish_endings()
        finally:
            await store.close()
            writer.close()


async def measure(store_name: str, *, stream: bool, rounds: int, profile: bool) -> list[float]:
    """CPU microseconds an exchange, of each round."""
    request = request_messages(stream=stream)
    reply = stream_messages() if stream else reply_messages()
    with tempfile.TemporaryDirectory() as folder:
        async with serving(store_name, Path(folder)) as service:
            envoys = [Envoy(service) for _ in range(CONNECTIONS[store_name])]

            async def round_of_all() -> float:
                began_ns = process_time_ns()
                await asyncio.gather(*(envoy.exchange(request, reply, in_turn=not stream) for envoy in envoys))
                return (process_time_ns() - began_ns) / 1000 / len(envoys)

            for _ in range(ROUNDS_BEFORE):
                await round_of_all()
            if profile:
                profiler = cProfile.Profile()
                profiler.enable()
                for _ in range(rounds):
                    await round_of_all()
                profiler.disable()
                pstats.Stats(profiler).sort_stats("tottime").print_stats(60)
            samples = [await round_of_all() for _ in range(rounds)]
            for envoy in envoys:
                envoy.close()
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hot_path", description=__doc__)
    parser.add_argument("--store", choices=STORES, help="only this one")
    parser.add_argument("--stream", action="store_true", help="a streamed reply, of 200 events")
    parser.add_argument("--rounds", type=int, default=0, help="how many are measured")
    parser.add_argument("--profile", action="store_true", help="show where the time goes, which cProfile trebles")
    args = parser.parse_args()
    rounds = args.rounds or (40 if args.stream else 400)
    chunks = len(stream_messages()) - 1
    for store_name in (args.store,) if args.store else STORES:
        samples = uvloop.run(measure(store_name, stream=args.stream, rounds=rounds, profile=args.profile))
        # What else the machine does makes rounds slower, and none faster.
        least, middle = min(samples), statistics.median(samples)
        text = f"{store_name:8} {least:8.1f} us an exchange at the least, {middle:.1f} in the middle"
        if args.stream:
            text += f"; {least / chunks:.2f} us a chunk with its share of the rest"
        print(text)


if __name__ == "__main__":
    main()

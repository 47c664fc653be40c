"""What the lean profile saves: python -m tests.bench.lean [ROUNDS]

policyd behind Envoy twice, with the default profile and with the lean one, each with an Envoy, a process and a SQLite
file of its own, measured in turns. The time in which Envoy's last log entries come is waited for, and the CPU time in
it counted: settling belongs to the request.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, cast

import uvloop

from policyd.config import HostPort, parse_address
from policyd.envoy_config import EnvoySettings, Profile, build_bootstrap, parse_upstreams
from policyd.envoy_config.lean import logs_within_seconds
from policyd.up import EnvoyProcess, find_envoy
from tests.bench.http_load import http_load
from tests.bench.processes import Child, child, cpu_seconds
from tests.bench.traffic import STREAM_CHUNKS

ROUNDS: Final = 5
SECONDS: Final = 1.5
CONNECTIONS: Final = 16
STREAMS_AT_ONCE: Final = 8

_ANY_PORT = HostPort("127.0.0.1", 0)
_POLICY = Path(__file__).with_name("policy.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one load."""

    per_second: float
    policyd_cpu_us: float
    """A request."""
    envoy_cpu_us: float


@dataclass(frozen=True, slots=True)
class Behind:
    """policyd behind an Envoy with one of the profiles."""

    settings: EnvoySettings
    envoy: EnvoyProcess
    policyd: Child

    async def measured(self, *, stream: bool, seconds: float) -> Figures:
        before = self._cpu_seconds()
        load = await http_load(
            self.envoy.listen_address,
            connections=STREAMS_AT_ONCE if stream else CONNECTIONS,
            seconds=seconds,
            stream=stream,
        )
        await asyncio.sleep(logs_within_seconds(self.settings))
        policyd_seconds, envoy_seconds = (
            after - earlier for after, earlier in zip(self._cpu_seconds(), before, strict=True)
        )
        return Figures(
            per_second=load.requests / load.seconds,
            policyd_cpu_us=policyd_seconds * 1e6 / load.requests,
            envoy_cpu_us=envoy_seconds * 1e6 / load.requests,
        )

    def _cpu_seconds(self) -> tuple[float, float]:
        return cpu_seconds(self.policyd.pid), cpu_seconds(self.envoy.pid)


@asynccontextmanager
async def behind(profile: Profile, provider: str, folder: Path) -> AsyncIterator[Behind]:
    """Runs policyd and an Envoy for the length of the block."""
    flags = [f"--{server}={_ANY_PORT}" for server in ("grpc", "ext-proc", "http")]
    flags += ["--transport=h2rpc", f"--store=sqlite:///{folder}/{profile}.db", f"--config={_POLICY}"]
    settings = EnvoySettings(
        listen_address=_ANY_PORT,
        admin_address=_ANY_PORT,
        upstreams=parse_upstreams([f"openai=http://{provider}"]),
        profile=profile,
    )
    async with child("policyd", "serve", *flags, log=folder / f"{profile}.log") as policyd:
        address = cast(HostPort, parse_address(policyd.ready["ext_proc"]))
        bootstrap = build_bootstrap(settings, policyd_addresses=[address])
        with (folder / f"{profile}-envoy.log").open("wb") as log:
            async with EnvoyProcess(bootstrap, binary=find_envoy(), log=log) as envoy:
                yield Behind(settings, envoy, policyd)


async def run(rounds: int, *, seconds: float = SECONDS) -> Mapping[tuple[bool, Profile], Sequence[Figures]]:
    """By whether replies were streams, and by profile; a figure a round."""
    found: dict[tuple[bool, Profile], list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="policyd-bench-") as name:
        folder = Path(name)
        async with (
            child("tests.bench.upstream", log=folder / "upstream.log") as provider,
            behind(Profile.DEFAULT, provider.ready["http"], folder) as default,
            behind(Profile.LEAN, provider.ready["http"], folder) as lean,
        ):
            turns = [(Profile.DEFAULT, default), (Profile.LEAN, lean)]
            for _, turn in turns:
                await turn.measured(stream=False, seconds=seconds / 3)
            for number in range(rounds):
                for stream in (False, True):
                    for profile, turn in turns if number % 2 else reversed(turns):
                        figures = await turn.measured(stream=stream, seconds=seconds)
                        found.setdefault((stream, profile), []).append(figures)
    return found


def report(found: Mapping[tuple[bool, Profile], Sequence[Figures]]) -> str:
    lines = [f"{'':<22}{'requests/s':>12}{'policyd us':>12}{'Envoy us':>12}"]
    for (stream, profile), figures in sorted(found.items()):
        name = f"{profile}, {'streams' if stream else 'JSON'}"
        middle = [
            median(figure.per_second for figure in figures),
            median(figure.policyd_cpu_us for figure in figures),
            median(figure.envoy_cpu_us for figure in figures),
        ]
        lines.append(f"{name:<22}" + "".join(f"{value:>12.0f}" for value in middle))
    pairs = list(zip(found[False, Profile.LEAN], found[False, Profile.DEFAULT], strict=True))
    rates = sorted(lean.per_second / default.per_second for lean, default in pairs)
    lines.append(f"requests/s, lean to default: {median(rates):.2f} ({rates[0]:.2f}-{rates[-1]:.2f})")
    cpu = sorted(lean.policyd_cpu_us / default.policyd_cpu_us for lean, default in pairs)
    lines.append(f"policyd's CPU a request, lean to default: {median(cpu):.2f} ({cpu[0]:.2f}-{cpu[-1]:.2f})")
    for profile in Profile:
        per_chunk = [
            (streamed.policyd_cpu_us - plain.policyd_cpu_us) / STREAM_CHUNKS
            for streamed, plain in zip(found[True, profile], found[False, profile], strict=True)
        ]
        lines.append(f"policyd's CPU a chunk beyond that of the request, {profile}: {median(per_chunk):.1f} us")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(uvloop.run(run(int(sys.argv[1]) if sys.argv[1:] else ROUNDS))))

"""policyd's server and Envoy as one program."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Self

import pytest

import policyd.server
from policyd.config import HostPort
from policyd.core.errors import ConfigError
from policyd.envoy_config import EnvoySettings
from policyd.up import EnvoyFailed, Mesh, Server, running
from tests.envoy.rig import ExtProc, Upstream, ext_proc, loopback, request, upstream


class LettingAllPass:
    """A server for `running`, whose ext_proc lets everything pass. It stops when asked to."""

    def __init__(self) -> None:
        self.entered = False
        self._serving = ext_proc()
        self._ext_proc: ExtProc
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.entered = True
        self._ext_proc = await self._serving.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._serving.__aexit__(None, None, None)

    @property
    def grpc_address(self) -> str:
        return "0.0.0.0:50051"

    @property
    def ext_proc_addresses(self) -> tuple[str, ...]:
        return (str(self._ext_proc.address),)

    @property
    def http_address(self) -> str:
        return "0.0.0.0:9464"

    async def wait(self) -> None:
        await self._stop.wait()

    def stop(self) -> None:
        self._stop.set()


def fits(server: policyd.server.Server) -> Server:
    """For the type checker: policyd's own server is what `running` takes."""
    return server


def address_of(text: str) -> HostPort:
    host, _, port = text.rpartition(":")
    return HostPort(host, int(port))


@asynccontextmanager
async def everything() -> AsyncIterator[tuple[LettingAllPass, Mesh, Upstream]]:
    server = LettingAllPass()
    async with upstream() as openai, running(server, loopback(f"openai={openai.url}")) as mesh:
        yield server, mesh, openai


async def test_a_request_passes_both_at_the_addresses_told() -> None:
    async with everything() as (server, mesh, openai):
        assert (await request(address_of(mesh.listen_address), "/v1/models")).status == 200
        assert (await request(address_of(mesh.admin_address), "/ready")).body == b"LIVE\n"
        assert mesh.grpc_address == "127.0.0.1:50051"
        assert mesh.ext_proc_addresses == server.ext_proc_addresses
        assert mesh.http_address == "127.0.0.1:9464"
    assert len(openai.seen) == 1


async def test_on_a_stop_open_requests_end_before_envoy_does() -> None:
    async with everything() as (server, mesh, openai):
        waiting = asyncio.create_task(mesh.wait(drain_seconds=30))
        openai.go_on.clear()
        kept_alive = {"connection": "keep-alive"}
        open_request = asyncio.create_task(request(address_of(mesh.listen_address), "/v1/models", headers=kept_alive))
        await openai.arrived.wait()
        server.stop()
        await no_longer_listening(address_of(mesh.listen_address))
        assert not waiting.done()
        openai.go_on.set()
        reply = await open_request
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        await waiting


async def test_a_request_that_does_not_end_holds_up_the_stop_no_longer_than_it_may() -> None:
    async with everything() as (server, mesh, openai):
        openai.go_on.clear()
        open_request = asyncio.create_task(request(address_of(mesh.listen_address), "/v1/models"))
        await openai.arrived.wait()
        server.stop()
        await mesh.wait(drain_seconds=0.2)
        assert not open_request.done()
    with pytest.raises(ConnectionError, match="without a reply"):
        await open_request


async def no_longer_listening(address: HostPort) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(address.host, address.port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.01)


async def test_an_envoy_that_ends_by_itself_ends_the_wait() -> None:
    async with everything() as (_, mesh, _):
        waiting = asyncio.create_task(mesh.wait(drain_seconds=0))
        os.kill(mesh.envoy.pid, signal.SIGKILL)
        with pytest.raises(EnvoyFailed, match="SIGKILL"):
            await waiting


@pytest.mark.parametrize("flag", ["--listen", "--admin"])
async def test_a_taken_port_is_named_by_its_flag_before_anything_starts(flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = HostPort("127.0.0.1", taken.getsockname()[1])
        await refused(settings_with(flag, address), f"^{flag}: cannot listen on {address} .Address already in use.; ")


async def test_another_envoys_port_is_taken_too() -> None:
    async with everything() as (_, mesh, _):
        await refused(settings_with("--listen", address_of(mesh.listen_address)), "^--listen: .* already in use")


async def test_an_address_of_another_machine_is_named_by_its_flag() -> None:
    # 192.0.2.0/24 is for documentation and nobody's.
    await refused(settings_with("--listen", HostPort("192.0.2.1", 0)), "^--listen: .*Cannot assign requested address")


def settings_with(flag: str, address: HostPort) -> EnvoySettings:
    if flag == "--listen":
        return replace(loopback(), listen_address=address)
    return replace(loopback(), admin_address=address)


async def refused(settings: EnvoySettings, words: str) -> None:
    server = LettingAllPass()
    with pytest.raises(ConfigError, match=words):
        async with running(server, settings):
            pass
    assert not server.entered

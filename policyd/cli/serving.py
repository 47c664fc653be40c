"""The commands that run something: `policyd serve`, `up`, `demo`; and `envoy-config`, which prints what `up` runs."""

# ruff: noqa: PLC0415 - commands import what they need when they run: `policyd --help` should not wait for gRPC.

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyd.options import SERVER_SETTINGS, Flags, takes_settings

if TYPE_CHECKING:
    from policyd.config import Settings
    from policyd.server import Server
    from policyd.workers import Supervisor

Listen = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where Envoy takes requests. [POLICYD_LISTEN]")
]
Admin = Annotated[
    str | None, typer.Option("--admin", metavar="HOST:PORT", help="Envoy's admin interface. [POLICYD_ADMIN]")
]
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="What Envoy shows to policyd: default or lean. [POLICYD_PROFILE]"),
]
Upstreams = Annotated[
    list[str] | None,
    typer.Option(
        "--upstream",
        metavar="NAME=URL",
        help="Route /NAME/... to URL; repeatable. Default: OpenAI, Anthropic and Google.",
    ),
]


@takes_settings(*SERVER_SETTINGS)
def serve(flags: Flags) -> None:
    """Run the server: ext_proc and PolicyService over gRPC, metrics and health over HTTP."""
    from policyd.config import Settings

    settings = Settings.from_environment(os.environ, **flags)
    _run(_serve(lambda: _server(settings, flags)))


def worker() -> None:
    """Run one worker of a server, which `serve --workers` starts."""
    from policyd.config import Settings
    from policyd.server import Server

    settings = Settings.from_environment(os.environ)
    _run(_serve(lambda: Server(settings, shares_ports=True)))


@takes_settings(*SERVER_SETTINGS)
def up(
    flags: Flags,
    listen: Listen = None,
    upstream: Upstreams = None,
    admin: Admin = None,
    profile: ProfileName = None,
) -> None:
    """Run Envoy and the server together, in front of the providers."""
    from policyd.config import Settings, open_policy
    from policyd.envoy_config import EnvoySettings
    from policyd.up import running

    settings = Settings.from_environment(os.environ, **flags)
    envoy = EnvoySettings.from_environment(
        os.environ,
        listen=listen,
        admin=admin,
        upstreams=upstream,
        buffer_bytes_max=settings.request_body_bytes_max,
        policy=open_policy(settings.policy_path),
        profile=profile,
        header_prefix=settings.header_prefix,
    )

    async def run() -> None:
        server = _server(settings, flags)
        async with running(server, envoy) as mesh:
            server.handle_signals()
            _announce(
                listen=mesh.listen_address,
                grpc=mesh.grpc_address,
                ext_proc=",".join(mesh.ext_proc_addresses),
                http=mesh.http_address,
                admin=mesh.admin_address,
            )
            await mesh.wait(drain_seconds=settings.shutdown_grace_seconds)

    _run(run())


@takes_settings("grpc", "ext_proc", "http")
def demo(
    flags: Flags,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running afterwards, to be tried.")] = False,
    listen: Listen = None,
    admin: Admin = None,
) -> None:
    """Tell in half a minute what policyd does, with a real Envoy and a simulated provider."""
    from policyd.config import Settings
    from policyd.demo.screen import Screen
    from policyd.demo.story import run_demo
    from policyd.envoy_config import EnvoySettings

    settings = Settings.from_environment(os.environ, **flags)
    envoy = EnvoySettings.from_environment(
        os.environ, listen=listen, admin=admin, upstreams=None, buffer_bytes_max=settings.request_body_bytes_max
    )
    _run(run_demo(settings, envoy, screen=Screen(), keep=keep))


@takes_settings("config", "ext_proc", "workers")
def envoy_config(
    flags: Flags,
    listen: Listen = None,
    upstream: Upstreams = None,
    admin: Admin = None,
    profile: ProfileName = None,
) -> None:
    """Print the Envoy configuration that `up` runs, as YAML."""
    from policyd.config import Settings, open_policy
    from policyd.envoy_config import EnvoySettings, build_bootstrap, to_yaml

    settings = Settings.from_environment(os.environ, **flags)
    envoy = EnvoySettings.from_environment(
        os.environ,
        listen=listen,
        admin=admin,
        upstreams=upstream,
        buffer_bytes_max=settings.request_body_bytes_max,
        policy=open_policy(settings.policy_path),
        profile=profile,
        header_prefix=settings.header_prefix,
    )
    typer.echo(to_yaml(build_bootstrap(envoy, policyd_addresses=settings.ext_proc_addresses)), nl=False)


def _server(settings: Settings, flags: Flags) -> Server | Supervisor:
    """One process or several, as `settings` say. `flags` are what they were made of."""
    from policyd.config import with_flags
    from policyd.server import Server
    from policyd.workers import Supervisor

    if settings.workers == 1:
        return Server(settings)
    return Supervisor(settings, with_flags(os.environ, flags))


async def _serve(make: Callable[[], Server | Supervisor]) -> None:
    async with make() as server:
        server.handle_signals()
        _announce(grpc=server.grpc_address, ext_proc=",".join(server.ext_proc_addresses), http=server.http_address)
        await server.wait()


def _announce(**addresses: object) -> None:
    """One line on standard output, in the log's own form, that says where everything is."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode({"event": "ready", **addresses}, enc_hook=str) + b"\n")
    sys.stdout.buffer.flush()


def _run(main: Coroutine[Any, Any, None]) -> None:
    import uvloop

    uvloop.run(main)

"""The commands that run something: `policyd serve`, `up`, `demo`; and `envoy-config`, which prints what `up` runs."""

# ruff: noqa: PLC0415 - commands import what they need when they run: `policyd --help` should not wait for gRPC.

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyd.options import ENVOY_SETTINGS, SERVER_SETTINGS, Flags, takes_settings

if TYPE_CHECKING:
    from policyd.config import Settings
    from policyd.envoy_config import EnvoySettings
    from policyd.server import Server
    from policyd.workers import Supervisor

Upstreams = Annotated[
    list[str] | None,
    typer.Option(
        "--upstream",
        metavar="NAME=URL",
        help="Route /NAME/... to URL; repeatable. Default: OpenAI, Anthropic and Google.",
    ),
]


@takes_settings(flags=SERVER_SETTINGS)
def serve(flags: Flags) -> None:
    """Run the server: ext_proc and PolicyService over gRPC, metrics and health over HTTP."""
    from policyd.config import Settings

    settings = Settings.from_environment(os.environ, **flags)
    _run(_serve(lambda: _server(settings, flags)))


def worker() -> None:
    """Run one worker of a server, which `serve --workers` starts."""
    from policyd.config import Settings
    from policyd.server import Server
    from policyd.workers import TOKEN_VARIABLE

    settings = Settings.from_environment(os.environ)
    token = os.environ.pop(TOKEN_VARIABLE)
    _run(_serve(lambda: Server(settings, worker_token=token)))


@takes_settings(flags=SERVER_SETTINGS, envoy_flags=ENVOY_SETTINGS)
def up(flags: Flags, envoy_flags: Flags, upstream: Upstreams = None) -> None:
    """Run Envoy and the server together, in front of the providers."""
    from policyd.up import running

    settings, envoy = _settings(flags, envoy_flags, upstream)

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


@takes_settings(flags=["grpc", "ext_proc", "http"], envoy_flags=["listen", "admin"])
def demo(
    flags: Flags,
    envoy_flags: Flags,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running afterwards, to be tried.")] = False,
) -> None:
    """Tell in half a minute what policyd does, with a real Envoy and a simulated provider."""
    from policyd.config import Settings
    from policyd.demo.screen import Screen
    from policyd.demo.story import run_demo
    from policyd.envoy_config import EnvoySettings

    settings = Settings.from_environment(os.environ, **flags)
    envoy = EnvoySettings.from_environment(os.environ, envoy_flags)
    _run(run_demo(settings, envoy, screen=Screen(), keep=keep))


@takes_settings(
    flags=["config", "ext_proc", "workers", "tls_cert", "tls_key", "tls_client_ca"], envoy_flags=ENVOY_SETTINGS
)
def envoy_config(flags: Flags, envoy_flags: Flags, upstream: Upstreams = None) -> None:
    """Print the Envoy configuration that `up` runs, as YAML."""
    from policyd.envoy_config import build_bootstrap, to_yaml

    settings, envoy = _settings(flags, envoy_flags, upstream)
    typer.echo(to_yaml(build_bootstrap(envoy, policyd_addresses=settings.ext_proc_addresses)), nl=False)


def _settings(flags: Flags, envoy_flags: Flags, upstreams: list[str] | None) -> tuple[Settings, EnvoySettings]:
    """Of policyd, and of an Envoy before it."""
    from policyd.config import Settings, open_policy
    from policyd.envoy_config import EnvoySettings

    settings = Settings.from_environment(os.environ, **flags)
    policy = open_policy(settings.policy_path)
    return settings, EnvoySettings.from_environment(
        os.environ, envoy_flags, upstreams=upstreams, server=settings, policy=policy
    )


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

    from policyd.secrecy import forbid_core_dumps

    forbid_core_dumps()
    uvloop.run(main)

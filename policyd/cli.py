"""The command line. Each command loads only what it needs."""

# ruff: noqa: PLC0415 - commands import what they need when they run: `policyd --help` should not wait for gRPC.

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from policyd import __version__
from policyd.core.errors import ConfigError, PolicydError

app = typer.Typer(
    name="policyd",
    help="Keeps LLM spending inside its budget: an Envoy ext_proc filter and a gRPC policy decision service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[str | None, typer.Option("--config", metavar="FILE", help="Policy file. [POLICYD_CONFIG]")]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="sqlite:///FILE or memory://. [POLICYD_STORE]"),
]
Grpc = Annotated[
    str | None, typer.Option("--grpc", metavar="ADDRESS", help="gRPC, HOST:PORT or unix:PATH. [POLICYD_GRPC]")
]
Http = Annotated[str | None, typer.Option("--http", metavar="HOST:PORT", help="Metrics and health. [POLICYD_HTTP]")]
Listen = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where Envoy takes requests. [POLICYD_LISTEN]")
]
Admin = Annotated[
    str | None, typer.Option("--admin", metavar="HOST:PORT", help="Envoy's admin interface. [POLICYD_ADMIN]")
]
Upstreams = Annotated[
    list[str] | None,
    typer.Option(
        "--upstream",
        metavar="NAME=URL",
        help="Route /NAME/... to URL; repeatable. Default: OpenAI, Anthropic and Google.",
    ),
]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"policyd {__version__}")
        raise typer.Exit


@app.command()
def serve(config: Config = None, store: Store = None, grpc: Grpc = None, http: Http = None) -> None:
    """Run the server: ext_proc and PolicyService over gRPC, metrics and health over HTTP."""
    from policyd.config import Settings
    from policyd.server import Server

    settings = Settings.from_environment(os.environ, config=config, store=store, grpc=grpc, http=http)

    async def run() -> None:
        async with Server(settings) as server:
            _announce(grpc=server.grpc_address, http=server.http_address)
            await server.wait()

    _run(run())


@app.command()
def up(
    config: Config = None,
    listen: Listen = None,
    upstream: Upstreams = None,
    store: Store = None,
    grpc: Grpc = None,
    http: Http = None,
    admin: Admin = None,
) -> None:
    """Run Envoy and the server together, in front of the providers."""
    from policyd.config import Settings
    from policyd.envoy_config import EnvoySettings
    from policyd.server import Server
    from policyd.up import running

    settings = Settings.from_environment(os.environ, config=config, store=store, grpc=grpc, http=http)
    envoy = EnvoySettings.from_environment(
        os.environ, listen=listen, admin=admin, upstreams=upstream, buffer_bytes_max=settings.request_body_bytes_max
    )

    async def run() -> None:
        async with running(Server(settings), envoy) as mesh:
            _announce(
                listen=mesh.listen_address, grpc=mesh.grpc_address, http=mesh.http_address, admin=mesh.admin_address
            )
            await mesh.wait(drain_seconds=settings.shutdown_grace_seconds)

    _run(run())


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running afterwards, to be tried.")] = False,
    listen: Listen = None,
    grpc: Grpc = None,
    http: Http = None,
    admin: Admin = None,
) -> None:
    """Tell in half a minute what policyd does, with a real Envoy and a simulated provider."""
    from policyd.config import Settings
    from policyd.demo.screen import Screen
    from policyd.demo.story import run_demo
    from policyd.envoy_config import EnvoySettings

    settings = Settings.from_environment(os.environ, grpc=grpc, http=http)
    envoy = EnvoySettings.from_environment(
        os.environ, listen=listen, admin=admin, upstreams=None, buffer_bytes_max=settings.request_body_bytes_max
    )
    _run(run_demo(settings, envoy, screen=Screen(), keep=keep))


@app.command("check-config")
def check_config(file: Annotated[Path, typer.Argument(metavar="FILE", help="Policy file.")]) -> None:
    """Check a policy file: every mistake with its line and field."""
    from policyd.clock import SystemClock
    from policyd.config import load_policy
    from policyd.estimator import check_guess
    from policyd.prices.table import load_price_book

    policy = load_policy(file)
    check_guess(policy, load_price_book(), now_ms=SystemClock().now_ms())
    limits = len(policy.limits)
    typer.echo(f"{file}: ok, {limits} limit{'' if limits == 1 else 's'} (revision {policy.revision})")


@app.command()
def estimate(
    body: Annotated[
        Path, typer.Argument(metavar="FILE", help="A request body as it would be sent; - for standard input.")
    ],
    provider: Annotated[str, typer.Option("--provider", metavar="NAME", help="Whose prices.")] = "openai",
    path: Annotated[str, typer.Option("--path", help="The path it would be sent to.")] = "",
    config: Config = None,
) -> None:
    """Tell what a request would cost, without sending it."""
    from policyd.config import Settings, load_policy
    from policyd.core.policy import default_policy
    from policyd.estimates import estimate_body

    settings = Settings.from_environment(os.environ, config=config)
    policy = load_policy(settings.policy_path) if settings.policy_path is not None else default_policy()
    content = sys.stdin.buffer.read() if str(body) == "-" else _read(body)
    for name, value in estimate_body(content, provider=provider, path=path, policy=policy).items():
        typer.echo(f"{name:<24}{value}")


@app.command("envoy-config")
def envoy_config(listen: Listen = None, upstream: Upstreams = None, grpc: Grpc = None, admin: Admin = None) -> None:
    """Print the Envoy configuration that `up` runs, as YAML."""
    from policyd.config import Settings
    from policyd.envoy_config import EnvoySettings, build_bootstrap, to_yaml

    settings = Settings.from_environment(os.environ, grpc=grpc)
    envoy = EnvoySettings.from_environment(
        os.environ, listen=listen, admin=admin, upstreams=upstream, buffer_bytes_max=settings.request_body_bytes_max
    )
    typer.echo(to_yaml(build_bootstrap(envoy, policyd_address=settings.grpc_address)), nl=False)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error


def _announce(**addresses: object) -> None:
    """One line on standard output, in the log's own form, that says where everything is."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode({"event": "ready", **addresses}, enc_hook=str) + b"\n")
    sys.stdout.buffer.flush()


def _run(main: Coroutine[Any, Any, None]) -> None:
    import uvloop

    uvloop.run(main)


def main() -> None:
    """The entry point: mistakes of configuration are messages, not tracebacks."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("policyd").setLevel(logging.INFO)
    # gRPC reads them when it is loaded. What its own lines say (a taken port, a fork), policyd says in its own words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(f"policyd: {problem}", err=True)
        sys.exit(1)
    except PolicydError as error:
        typer.echo(f"policyd: {error}", err=True)
        sys.exit(1)

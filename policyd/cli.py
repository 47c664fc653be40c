"""The command line. Each command loads only what it needs."""

# ruff: noqa: PLC0415 - commands import what they need when they run: `policyd --help` should not wait for gRPC.

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyd import __version__
from policyd.control.commands import add_commands
from policyd.control.key_commands import add_key_commands
from policyd.core.errors import ConfigError, PolicydError
from policyd.options import AsJson, Config, Store

if TYPE_CHECKING:
    from policyd.config import Settings
    from policyd.server import Server
    from policyd.workers import Supervisor

app = typer.Typer(
    name="policyd",
    help="Keeps LLM spending inside its budget: an Envoy ext_proc filter and a gRPC policy decision service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

prices_app = typer.Typer(no_args_is_help=True)
app.add_typer(prices_app, name="prices", help="Look up what models cost, and why.")
add_commands(app)
add_key_commands(app)

Prices = Annotated[
    str | None,
    typer.Option("--prices", metavar="FILE", help="Price table in place of the package's own. [POLICYD_PRICES]"),
]
Grpc = Annotated[
    str | None, typer.Option("--grpc", metavar="ADDRESS", help="PolicyService, HOST:PORT or unix:PATH. [POLICYD_GRPC]")
]
ExtProc = Annotated[
    str | None,
    typer.Option("--ext-proc", metavar="ADDRESS", help="Where Envoy asks, HOST:PORT or unix:PATH. [POLICYD_EXT_PROC]"),
]
TransportName = Annotated[
    str | None,
    typer.Option("--transport", metavar="NAME", help="What serves Envoy: grpcio or h2rpc. [POLICYD_TRANSPORT]"),
]
Workers = Annotated[
    str | None, typer.Option("--workers", metavar="N", help="How many processes serve. [POLICYD_WORKERS]")
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
def serve(
    config: Config = None,
    prices: Prices = None,
    store: Store = None,
    grpc: Grpc = None,
    ext_proc: ExtProc = None,
    transport: TransportName = None,
    workers: Workers = None,
    http: Http = None,
) -> None:
    """Run the server: ext_proc and PolicyService over gRPC, metrics and health over HTTP."""
    from policyd.config import Settings

    flags = {
        "config": config,
        "prices": prices,
        "store": store,
        "grpc": grpc,
        "ext_proc": ext_proc,
        "transport": transport,
        "workers": workers,
        "http": http,
    }
    settings = Settings.from_environment(os.environ, **flags)
    _run(_serve(lambda: _server(settings, flags)))


@app.command(hidden=True)
def worker() -> None:
    """Run one worker of a server, which `serve --workers` starts."""
    from policyd.config import Settings
    from policyd.server import Server

    settings = Settings.from_environment(os.environ)
    _run(_serve(lambda: Server(settings, shares_ports=True)))


@app.command()
def up(
    config: Config = None,
    prices: Prices = None,
    listen: Listen = None,
    upstream: Upstreams = None,
    store: Store = None,
    grpc: Grpc = None,
    ext_proc: ExtProc = None,
    transport: TransportName = None,
    workers: Workers = None,
    http: Http = None,
    admin: Admin = None,
) -> None:
    """Run Envoy and the server together, in front of the providers."""
    from policyd.config import Settings, open_policy
    from policyd.envoy_config import EnvoySettings
    from policyd.up import running

    flags = {
        "config": config,
        "prices": prices,
        "store": store,
        "grpc": grpc,
        "ext_proc": ext_proc,
        "transport": transport,
        "workers": workers,
        "http": http,
    }
    settings = Settings.from_environment(os.environ, **flags)
    envoy = EnvoySettings.from_environment(
        os.environ,
        listen=listen,
        admin=admin,
        upstreams=upstream,
        buffer_bytes_max=settings.request_body_bytes_max,
        policy=open_policy(settings.policy_path),
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


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running afterwards, to be tried.")] = False,
    listen: Listen = None,
    grpc: Grpc = None,
    ext_proc: ExtProc = None,
    http: Http = None,
    admin: Admin = None,
) -> None:
    """Tell in half a minute what policyd does, with a real Envoy and a simulated provider."""
    from policyd.config import Settings
    from policyd.demo.screen import Screen
    from policyd.demo.story import run_demo
    from policyd.envoy_config import EnvoySettings

    settings = Settings.from_environment(os.environ, grpc=grpc, ext_proc=ext_proc, http=http)
    envoy = EnvoySettings.from_environment(
        os.environ, listen=listen, admin=admin, upstreams=None, buffer_bytes_max=settings.request_body_bytes_max
    )
    _run(run_demo(settings, envoy, screen=Screen(), keep=keep))


@app.command("check-config")
def check_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Policy file.")], prices: Prices = None
) -> None:
    """Check a policy file: every mistake with its line and field."""
    from policyd.clock import SystemClock
    from policyd.config import Settings, load_policy
    from policyd.price_finding import check_models
    from policyd.prices.table_file import open_price_book

    settings = Settings.from_environment(os.environ, prices=prices)
    policy = load_policy(file)
    check_models(policy, open_price_book(settings.prices_path), now_ms=SystemClock().now_ms())
    limits = len(policy.limits)
    typer.echo(f"{file}: ok, {limits} limit{'' if limits == 1 else 's'} (revision {policy.revision})")


@app.command()
def estimate(
    body: Annotated[
        Path, typer.Argument(metavar="FILE", help="A request body as it would be sent; - for standard input.")
    ],
    provider: Annotated[str, typer.Option("--provider", metavar="NAME", help="Whose prices.")] = "openai",
    path: Annotated[str, typer.Option("--path", help="The path it would be sent to. Default: of a chat.")] = "",
    content_type: Annotated[str, typer.Option("--content-type", help="Of the body.")] = "application/json",
    config: Config = None,
    prices: Prices = None,
) -> None:
    """Tell what a request would cost, without sending it."""
    from policyd.config import Settings, open_policy
    from policyd.estimates import estimate_body
    from policyd.prices.table_file import open_price_book

    settings = Settings.from_environment(os.environ, config=config, prices=prices)
    policy = open_policy(settings.policy_path)
    book = open_price_book(settings.prices_path)
    content = sys.stdin.buffer.read() if str(body) == "-" else _read(body)
    told = estimate_body(content, provider=provider, path=path, content_type=content_type, policy=policy, prices=book)
    for name, value in told.items():
        typer.echo(f"{name:<24}{value}")


@app.command("explain")
def explain_request(
    request: Annotated[
        Path, typer.Option("--request", metavar="FILE", help="JSON: path, headers and body; provider if not openai.")
    ],
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="A date (UTC) or an RFC 3339 instant. Default: now.")
    ] = None,
    config: Config = None,
    prices: Prices = None,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="What was spent and set. Default: nothing yet."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell, step by step, why a request would pass or not. Nothing is held."""
    from policyd.clock import SystemClock
    from policyd.config import Settings, load_policy
    from policyd.control.reading import instant_ms
    from policyd.core.policy import default_policy
    from policyd.explaining import explain, explanation_json, explanation_text, parse_request
    from policyd.prices.table_file import open_price_book
    from policyd.stores.memory import MemoryStore
    from policyd.stores.url import open_shared_store

    settings = Settings.from_environment(os.environ, config=config, prices=prices)
    policy = load_policy(settings.policy_path) if settings.policy_path is not None else default_policy()
    asked = parse_request(_read(request), source=str(request))
    at_ms = SystemClock().now_ms() if at is None else instant_ms("--at", at)

    async def run() -> None:
        opened = MemoryStore() if store is None else open_shared_store(store)
        try:
            book = open_price_book(settings.prices_path)
            told = await explain(asked, policy=policy, store=opened, prices=book, at_ms=at_ms)
        finally:
            await opened.close()
        typer.echo(explanation_json(told) if as_json else explanation_text(told))

    _run(run())


@app.command("envoy-config")
def envoy_config(
    config: Config = None,
    listen: Listen = None,
    upstream: Upstreams = None,
    ext_proc: ExtProc = None,
    workers: Workers = None,
    admin: Admin = None,
) -> None:
    """Print the Envoy configuration that `up` runs, as YAML."""
    from policyd.config import Settings, open_policy
    from policyd.envoy_config import EnvoySettings, build_bootstrap, to_yaml

    settings = Settings.from_environment(os.environ, config=config, ext_proc=ext_proc, workers=workers)
    envoy = EnvoySettings.from_environment(
        os.environ,
        listen=listen,
        admin=admin,
        upstreams=upstream,
        buffer_bytes_max=settings.request_body_bytes_max,
        policy=open_policy(settings.policy_path),
    )
    typer.echo(to_yaml(build_bootstrap(envoy, policyd_addresses=settings.ext_proc_addresses)), nl=False)


@prices_app.command("list")
def prices_list(
    provider: Annotated[str | None, typer.Option("--provider", metavar="NAME", help="Of this provider alone.")] = None,
    search: Annotated[str | None, typer.Option("--search", metavar="TEXT", help="With this in a name.")] = None,
    config: Config = None,
    prices: Prices = None,
    as_json: AsJson = False,
) -> None:
    """List the models that have a price, and what they cost now."""
    from policyd.clock import SystemClock
    from policyd.config import Settings
    from policyd.pricelist import listing, listing_text, open_price_list, to_json

    known = open_price_list(Settings.from_environment(os.environ, config=config, prices=prices))
    models = listing(known, at_ms=SystemClock().now_ms(), provider=provider, search=search)
    typer.echo(to_json(models) if as_json else listing_text(models))


@prices_app.command("show")
def prices_show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, as a request would name it.")],
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="NAME", help="Whose price. Default: the maker's.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="A date (UTC) or an RFC 3339 instant. Default: now.")
    ] = None,
    service_tier: Annotated[
        str | None, typer.Option("--service-tier", metavar="TIER", help="Such as batch, flex or priority.")
    ] = None,
    config: Config = None,
    prices: Prices = None,
    as_json: AsJson = False,
) -> None:
    """Explain the price of one model: which entry it is, every rate, and how it changes."""
    from policyd.clock import SystemClock
    from policyd.config import Settings
    from policyd.control.reading import instant_ms
    from policyd.pricelist import explain, explanation_text, open_price_list, to_json

    at_ms = SystemClock().now_ms() if at is None else instant_ms("--at", at)
    known = open_price_list(Settings.from_environment(os.environ, config=config, prices=prices))
    told = explain(known, model, provider=provider, at_ms=at_ms, service_tier=service_tier)
    typer.echo(to_json(told) if as_json else explanation_text(told))


@prices_app.command("diff")
def prices_diff(
    old: Annotated[Path, typer.Argument(metavar="OLD.json", help="A price table.")],
    new: Annotated[Path, typer.Argument(metavar="NEW.json", help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """Tell what changed between two price tables."""
    from policyd.pricelist import differences, differences_text, to_json
    from policyd.prices.table_file import load_table

    told = differences(load_table(old), load_table(new))
    typer.echo(to_json(told) if as_json else differences_text(told))


def _server(settings: Settings, flags: Mapping[str, str | None]) -> Server | Supervisor:
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

"""The command line. Each command loads only what it needs."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from policyd import __version__
from policyd.cli import asking, serving
from policyd.cli.journal_commands import journal_app
from policyd.cli.price_commands import prices_app
from policyd.cli.secret_commands import secrets_app
from policyd.control.commands import add_commands
from policyd.control.event_commands import add_event_commands
from policyd.control.key_commands import add_key_commands
from policyd.core.errors import ConfigError, PolicydError

app = typer.Typer(
    name="policyd",
    help="Keeps LLM spending inside its budget: an Envoy ext_proc filter and a gRPC policy decision service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("serve")(serving.serve)
app.command("worker", hidden=True)(serving.worker)
app.command("up")(serving.up)
app.command("demo")(serving.demo)
app.command("check-config")(asking.check_config)
app.command("schema")(asking.schema)
app.command("estimate")(asking.estimate)
app.command("explain")(asking.explain_request)
app.command("envoy-config")(serving.envoy_config)
app.add_typer(prices_app, name="prices", help="Look up what models cost, and why.")
app.add_typer(secrets_app, name="secrets", help="Keep the providers' keys, encrypted.")
app.add_typer(journal_app, name="journal", help="Look at what waits for the store to come back.")
add_commands(app)
add_key_commands(app)
add_event_commands(app)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"policyd {__version__}")
        raise typer.Exit


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

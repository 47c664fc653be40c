"""The commands that answer and change nothing: `policyd check-config`, `schema`, `estimate` and `explain`."""

# ruff: noqa: PLC0415 - commands import what they need when they run: `policyd --help` should not wait for prices.

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from policyd.core.errors import ConfigError
from policyd.options import AsJson, At, Flags, takes_settings


@takes_settings(flags=["prices"])
def check_config(flags: Flags, file: Annotated[Path, typer.Argument(metavar="FILE", help="Policy file.")]) -> None:
    """Check a policy file: every mistake with its line and field."""
    from policyd.clock import SystemClock
    from policyd.config import Settings, load_policy
    from policyd.price_finding import check_models
    from policyd.prices.table_file import open_price_book

    settings = Settings.from_environment(os.environ, **flags)
    policy = load_policy(file)
    check_models(policy, open_price_book(settings.prices_path), now_ms=SystemClock().now_ms())
    limits = len(policy.limits)
    typer.echo(f"{file}: ok, {limits} limit{'' if limits == 1 else 's'} (revision {policy.revision})")


def schema() -> None:
    """Print the JSON Schema of the policy file, for editors."""
    from policyd.config.policy_file import policy_schema

    typer.echo(json.dumps(policy_schema(), indent=2))


@takes_settings(flags=["config", "prices"])
def estimate(
    flags: Flags,
    body: Annotated[
        Path, typer.Argument(metavar="FILE", help="A request body as it would be sent; - for standard input.")
    ],
    provider: Annotated[str, typer.Option("--provider", metavar="NAME", help="Whose prices.")] = "openai",
    path: Annotated[str, typer.Option("--path", help="The path it would be sent to. Default: of a chat.")] = "",
    content_type: Annotated[str, typer.Option("--content-type", help="Of the body.")] = "application/json",
) -> None:
    """Tell what a request would cost, without sending it."""
    from policyd.config import Settings, open_policy
    from policyd.estimates import estimate_body
    from policyd.prices.table_file import open_price_book

    settings = Settings.from_environment(os.environ, **flags)
    policy = open_policy(settings.policy_path)
    book = open_price_book(settings.prices_path)
    content = sys.stdin.buffer.read() if str(body) == "-" else _read(body)
    told = estimate_body(content, provider=provider, path=path, content_type=content_type, policy=policy, prices=book)
    for name, value in told.items():
        typer.echo(f"{name:<24}{value}")


@takes_settings(flags=["config", "prices"])
def explain_request(
    flags: Flags,
    request: Annotated[
        Path, typer.Option("--request", metavar="FILE", help="JSON: path, headers and body; provider if not openai.")
    ],
    at: At = None,
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

    settings = Settings.from_environment(os.environ, **flags)
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

    asyncio.run(run())


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error

"""The commands `policyd prices list`, `show` and `diff`."""

# ruff: noqa: PLC0415 - commands import what they need when they run: `policyd --help` should not wait for prices.

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from policyd.options import AsJson, At, Flags, takes_settings

prices_app = typer.Typer(no_args_is_help=True)


@prices_app.command("list")
@takes_settings(flags=["config", "prices"])
def prices_list(
    flags: Flags,
    provider: Annotated[str | None, typer.Option("--provider", metavar="NAME", help="Of this provider alone.")] = None,
    search: Annotated[str | None, typer.Option("--search", metavar="TEXT", help="With this in a name.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models that have a price, and what they cost now."""
    from policyd.clock import SystemClock
    from policyd.config import Settings
    from policyd.pricelist import listing, listing_text, open_price_list, to_json

    known = open_price_list(Settings.from_environment(os.environ, **flags))
    models = listing(known, at_ms=SystemClock().now_ms(), provider=provider, search=search)
    typer.echo(to_json(models) if as_json else listing_text(models))


@prices_app.command("show")
@takes_settings(flags=["config", "prices"])
def prices_show(
    flags: Flags,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, as a request would name it.")],
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="NAME", help="Whose price. Default: the maker's.")
    ] = None,
    at: At = None,
    service_tier: Annotated[
        str | None, typer.Option("--service-tier", metavar="TIER", help="Such as batch, flex or priority.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain the price of one model: which entry it is, every rate, and how it changes."""
    from policyd.clock import SystemClock
    from policyd.config import Settings
    from policyd.control.reading import instant_ms
    from policyd.pricelist import explain, explanation_text, open_price_list, to_json

    at_ms = SystemClock().now_ms() if at is None else instant_ms("--at", at)
    known = open_price_list(Settings.from_environment(os.environ, **flags))
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

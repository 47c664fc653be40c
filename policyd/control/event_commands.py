"""The commands `policyd events list` and `ack`."""

# ruff: noqa: PLC0415 - commands import what they need when they run: `policyd --help` should not wait for a store.

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from policyd.control.commands import at_desk
from policyd.options import AsJson, Config, Store

if TYPE_CHECKING:
    from policyd.control.desk import Desk

events_app = typer.Typer(no_args_is_help=True)


def add_event_commands(app: typer.Typer) -> None:
    """Adds them to the command line."""
    app.add_typer(events_app, name="events", help="Look at what rules and anomalies have told.")


@events_app.command("list")
def events_list(config: Config = None, store: Store = None, as_json: AsJson = False) -> None:
    """List what nobody has acknowledged yet, the oldest first."""
    from policyd.control import events, tables

    async def run(desk: Desk) -> None:
        found = await events.pending(desk)
        if as_json:
            typer.echo(tables.to_json([tables.event_object(each) for each in found]))
        else:
            typer.echo(tables.events_text(found))

    at_desk(run, config=config, store=store)


@events_app.command("ack")
def events_ack(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As the list shows them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that the list has now.")] = False,
    config: Config = None,
    store: Store = None,
) -> None:
    """Take events off the list. They do not come back in their period."""
    from policyd.control import events

    async def run(desk: Desk) -> None:
        acknowledged = await events.acknowledge(desk, ids or [], every=every)
        typer.echo(f"{acknowledged} acknowledged")

    at_desk(run, config=config, store=store)

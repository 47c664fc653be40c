"""The commands `policyd keys create`, `list`, `rotate` and `revoke`."""

# ruff: noqa: PLC0415 - commands import what they need when they run: `policyd --help` should not wait for a store.

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from policyd.control.commands import For, Until, at_desk
from policyd.options import AsJson, Config, Store

if TYPE_CHECKING:
    from policyd.control.desk import Desk
    from policyd.control.keys import Issued

keys_app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the key goes by.")]


def add_key_commands(app: typer.Typer) -> None:
    """Adds them to the command line."""
    app.add_typer(keys_app, name="keys", help="Issue and revoke API keys of policyd's own.")


@keys_app.command("create")
def keys_create(
    name: Name,
    scope: Annotated[str, typer.Argument(metavar="SCOPE", help="Whom it is for, such as project=acme,user=ann.")],
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="PATTERN", help="For these models alone; repeatable.")
    ] = None,
    endpoints: Annotated[
        list[str] | None,
        typer.Option("--endpoint", metavar="PATTERN", help="For these endpoints alone (chat.completions); repeatable."),
    ] = None,
    until: Until = None,
    lasting: For = None,
    config: Config = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Create a key. It is shown this once: only its hash is kept."""
    from policyd.control import keys, reading

    async def run(desk: Desk) -> None:
        ends_at_ms = reading.ends_at_ms(until=until, lasting=lasting, now_ms=desk.now_ms)
        issued = await keys.create(
            desk, name, scope, models=models or (), endpoints=endpoints or (), ends_at_ms=ends_at_ms
        )
        _tell(issued, as_json=as_json)

    at_desk(run, config=config, store=store)


@keys_app.command("list")
def keys_list(config: Config = None, store: Store = None, as_json: AsJson = False) -> None:
    """List the keys that hold, and whom they are for."""
    from policyd.control import keys, tables

    async def run(desk: Desk) -> None:
        found = await keys.keys(desk)
        if as_json:
            typer.echo(tables.to_json([tables.key_object(each) for each in found]))
        else:
            typer.echo(tables.keys_text(found))

    at_desk(run, config=config, store=store)


@keys_app.command("rotate")
def keys_rotate(
    name: Name,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="DURATION", help="How long the key before holds still; 0 ends it now.")
    ] = "24h",
    config: Config = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Create the successor of a key, for the same and with the same end."""
    from policyd.control import keys, reading

    async def run(desk: Desk) -> None:
        overlap_ms = reading.lasting_ms("--overlap", overlap)
        _tell(await keys.rotate(desk, name, overlap_ms=overlap_ms), as_json=as_json)

    at_desk(run, config=config, store=store)


@keys_app.command("revoke")
def keys_revoke(name: Name, config: Config = None, store: Store = None) -> None:
    """End a key at once, and whatever it has succeeded."""
    from policyd.control import keys

    async def run(desk: Desk) -> None:
        revoked = await keys.revoke(desk, name)
        typer.echo(f"{name} is revoked" + (f" ({len(revoked)} keys)" if len(revoked) > 1 else ""))

    at_desk(run, config=config, store=store)


def _tell(issued: Issued, *, as_json: bool) -> None:
    """On standard output the key alone, so that it can go straight to where it is kept."""
    from policyd.control import tables

    if as_json:
        typer.echo(tables.to_json({"key": issued.key, **tables.key_object(issued.kept)}))
    else:
        typer.echo(issued.key)
        typer.echo("It is not shown again.", err=True)

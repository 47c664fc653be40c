"""The commands: `policyd budget`, `block`, `unblock`, `freeze`, `unfreeze`, `blocks` and `sessions`."""

# ruff: noqa: PLC0415 - commands import what they need when they run: `policyd --help` should not wait for a store.

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from policyd.core.runtime import Kind
from policyd.options import AsJson, Config, Store

if TYPE_CHECKING:
    from policyd.control.desk import Desk

budget_app = typer.Typer(no_args_is_help=True)
blocks_app = typer.Typer(no_args_is_help=True)
sessions_app = typer.Typer(no_args_is_help=True)

_SCOPE_HELP = "Such as project=acme,user=ann; all for a limit that counts everything together."
Scope = Annotated[str, typer.Argument(metavar="SCOPE", help=_SCOPE_HELP)]
PatternScope = Annotated[
    str, typer.Argument(metavar="SCOPE", help="Such as user=ann or 'project=acme,model=gpt-4o*'; all for everybody.")
]
LimitName = Annotated[str, typer.Option("--limit", metavar="NAME", help="The limit's name in the policy.")]
OneLimit = Annotated[str | None, typer.Option("--limit", metavar="NAME", help="Of this limit alone.")]
Until = Annotated[
    str | None, typer.Option("--until", metavar="WHEN", help="It ends then: a date (UTC) or an RFC 3339 instant.")
]
For = Annotated[str | None, typer.Option("--for", metavar="DURATION", help="It ends after 30m, 2h or 7d.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; whoever is refused is told.")]


def add_commands(app: typer.Typer) -> None:
    """Adds them to the command line."""
    app.add_typer(budget_app, name="budget", help="Set and look at budgets while policyd runs.")
    app.add_typer(sessions_app, name="sessions", help="Look at what sessions have spent.")
    app.add_typer(blocks_app, name="blocks", help="Look at who is blocked or frozen.")
    app.command("block")(block)
    app.command("unblock")(unblock)
    app.command("freeze")(freeze)
    app.command("unfreeze")(unfreeze)


# --- budgets ---


@budget_app.command("set")
def budget_set(
    scope: Scope,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="USD for a limit of cost, else whole units.")],
    limit: LimitName,
    until: Until = None,
    lasting: For = None,
    config: Config = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Give a limit another amount for one scope, for good or for a time."""
    from policyd.control import budgets, reading, tables

    async def run(desk: Desk) -> None:
        ends_at_ms = reading.ends_at_ms(until=until, lasting=lasting, now_ms=desk.now_ms)
        override = await budgets.set_amount(desk, scope, amount, limit=limit, ends_at_ms=ends_at_ms)
        known = reading.limits_named(desk.policy, limit)[0]
        if as_json:
            typer.echo(tables.to_json(tables.override_object(override, known)))
        else:
            typer.echo(tables.override_text(override, known))

    at_desk(run, config=config, store=store)


@budget_app.command("get")
def budget_get(
    scope: Scope, limit: OneLimit = None, config: Config = None, store: Store = None, as_json: AsJson = False
) -> None:
    """Tell how every limit stands that counts a scope."""
    from policyd.control import budgets, tables

    async def run(desk: Desk) -> None:
        found = await budgets.budgets_of(desk, scope, limit=limit)
        standing = budgets.Standing(found, orphans=())
        if as_json:
            typer.echo(tables.to_json(tables.standing_objects(standing)))
        else:
            typer.echo(tables.standing_text(standing, nothing=f"no limit counts {scope}"))

    at_desk(run, config=config, store=store)


@budget_app.command("list")
def budget_list(limit: OneLimit = None, config: Config = None, store: Store = None, as_json: AsJson = False) -> None:
    """List what is counted now, and every amount that was set by hand."""
    _list(limit=limit, per=None, nothing="nothing is counted yet", config=config, store=store, as_json=as_json)


@budget_app.command("reset")
def budget_reset(
    scope: Scope, limit: LimitName, config: Config = None, store: Store = None, as_json: AsJson = False
) -> None:
    """Have a limit count a scope from 0 again, now; its window ends when it would have."""
    from policyd.control import budgets, tables
    from policyd.core.scopes import shown

    async def run(desk: Desk) -> None:
        reset = await budgets.reset(desk, scope, limit=limit)
        if as_json:
            typer.echo(tables.to_json(tables.reset_object(reset)))
        else:
            typer.echo(f"{limit} for {shown(reset.scope)} counts from 0 again")

    at_desk(run, config=config, store=store)


@budget_app.command("delete")
def budget_delete(scope: Scope, limit: LimitName, config: Config = None, store: Store = None) -> None:
    """Take away the amount that was set by hand; the policy's applies again."""
    from policyd.control import budgets
    from policyd.core.scopes import shown

    async def run(desk: Desk) -> None:
        deleted = await budgets.delete_amount(desk, scope, limit=limit)
        typer.echo(f"{limit} for {shown(deleted[0].scope)} has the policy's amount again")

    at_desk(run, config=config, store=store)


@sessions_app.command("list")
def sessions_list(limit: OneLimit = None, config: Config = None, store: Store = None, as_json: AsJson = False) -> None:
    """List what is counted per session now."""
    nothing = "nothing is counted per session yet"
    _list(limit=limit, per="session", nothing=nothing, config=config, store=store, as_json=as_json)


def _list(
    *, limit: str | None, per: str | None, nothing: str, config: str | None, store: str | None, as_json: bool
) -> None:
    from policyd.control import budgets, tables

    async def run(desk: Desk) -> None:
        standing = await budgets.standing(desk, limit=limit, per=per)
        if as_json:
            typer.echo(tables.to_json(tables.standing_objects(standing)))
        else:
            typer.echo(tables.standing_text(standing, nothing=nothing))

    at_desk(run, config=config, store=store)


# --- blocks ---


def block(
    scope: PatternScope,
    reason: Reason,
    until: Until = None,
    lasting: For = None,
    config: Config = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Refuse the requests of a scope, whatever its budgets."""
    _stop(Kind.BLOCK, scope, reason, until=until, lasting=lasting, config=config, store=store, as_json=as_json)


def freeze(
    scope: PatternScope,
    reason: Reason,
    until: Until = None,
    lasting: For = None,
    config: Config = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Stop the spending of a scope because something looks wrong."""
    _stop(Kind.FREEZE, scope, reason, until=until, lasting=lasting, config=config, store=store, as_json=as_json)


def unblock(scope: PatternScope, config: Config = None, store: Store = None) -> None:
    """Lift a block."""
    _lift(Kind.BLOCK, scope, config=config, store=store)


def unfreeze(scope: PatternScope, config: Config = None, store: Store = None) -> None:
    """Lift a freeze."""
    _lift(Kind.FREEZE, scope, config=config, store=store)


@blocks_app.command("list")
def blocks_list(config: Config = None, store: Store = None, as_json: AsJson = False) -> None:
    """List every block and freeze in force, the latest first."""
    from policyd.control import blocks, tables

    async def run(desk: Desk) -> None:
        found = await blocks.blocks(desk)
        if as_json:
            typer.echo(tables.to_json([tables.block_object(each) for each in found]))
        else:
            typer.echo(tables.blocks_text(found))

    at_desk(run, config=config, store=store)


def _stop(
    kind: Kind,
    scope: str,
    reason: str,
    *,
    until: str | None,
    lasting: str | None,
    config: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    from policyd.control import blocks, reading, tables

    async def run(desk: Desk) -> None:
        ends_at_ms = reading.ends_at_ms(until=until, lasting=lasting, now_ms=desk.now_ms)
        made = await blocks.block(desk, kind, scope, reason=reason, ends_at_ms=ends_at_ms)
        typer.echo(tables.to_json(tables.block_object(made)) if as_json else tables.block_text(made))

    at_desk(run, config=config, store=store)


def _lift(kind: Kind, scope: str, *, config: str | None, store: str | None) -> None:
    from policyd.control import blocks
    from policyd.core.scopes import shown

    async def run(desk: Desk) -> None:
        lifted = await blocks.unblock(desk, kind, scope)
        typer.echo(f"requests of {shown(lifted.scope)} pass again")

    at_desk(run, config=config, store=store)


# --- parts ---


def at_desk(work: Callable[[Desk], Awaitable[None]], *, config: str | None, store: str | None) -> None:
    """Does `work` at the desk that the options and the environment make."""
    from policyd.config import Settings
    from policyd.control.desk import opened

    settings = Settings.from_environment(os.environ, config=config, store=store)

    async def run() -> None:
        async with opened(settings) as desk:
            await work(desk)

    asyncio.run(run())

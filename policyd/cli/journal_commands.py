"""The command `policyd journal show`."""

# ruff: noqa: PLC0415 - commands import what they need when they run: `policyd --help` should not wait for a decoder.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from policyd.core.errors import ConfigError
from policyd.options import AsJson, Flags, takes_settings

if TYPE_CHECKING:
    from policyd.stores.outage.reading import Journalled, Waiting

journal_app = typer.Typer(no_args_is_help=True)

_HEADINGS = ("PROJECT", "CHARGES", "USD", "OPEN", "HELD USD")


@journal_app.command("show")
@takes_settings(flags=["journal"])
def journal_show(flags: Flags, as_json: AsJson = False) -> None:
    """Show what waits in the journals of this host: charges that the store did not get.

    It looks on only: a server that runs, or the next one with this folder, brings them into the store.
    """
    import os

    from policyd.config import Settings
    from policyd.control.tables import to_json
    from policyd.stores.outage.reading import read_journals

    folder = Settings.from_environment(os.environ, **flags).journal_path
    try:
        found = read_journals(folder)
    except OSError as error:
        raise ConfigError(f"--journal: {folder} cannot be read: {error.strerror}") from error
    typer.echo(to_json(_object(found)) if as_json else _text(found))


def _object(found: Journalled) -> dict[str, Any]:
    from policyd.core.times import iso_time

    return {
        **_waiting(found.total),
        "oldest": iso_time(found.oldest_ms) if found.oldest_ms is not None else None,
        "projects": [{"project": name, **_waiting(each)} for name, each in sorted(found.by_project.items())],
        "leases": found.leases,
        "unapplied": found.unapplied,
        "damaged": found.damaged,
        "stores": sorted(found.stores),
        "files": found.files,
        "bytes": found.bytes,
    }


def _waiting(waiting: Waiting) -> dict[str, Any]:
    from msgspec import Raw

    from policyd.core.money import format_usd

    return {
        "charges": waiting.charges,
        "charged_usd": Raw(format_usd(waiting.charged_nanos).encode()),
        "open": waiting.open,
        "held_usd": Raw(format_usd(waiting.held_nanos).encode()),
    }


def _text(found: Journalled) -> str:
    from policyd.columns import aligned
    from policyd.core.times import iso_time

    lines = []
    if found.by_project:
        rows = [_row(name or "-", each) for name, each in sorted(found.by_project.items())]
        lines += aligned([_HEADINGS, *rows, _row("all", found.total)], right=range(1, len(_HEADINGS)))
    else:
        lines.append("nothing waits")
    if found.oldest_ms is not None:
        lines.append(f"the oldest is of {iso_time(found.oldest_ms)}")
    if found.leases:
        lines.append(f"leases: {found.leases}")
    if found.unapplied or found.damaged:
        lines.append(f"lines that cannot be charged: {found.unapplied} put aside, {found.damaged} damaged")
    return "\n".join(lines)


def _row(name: str, waiting: Waiting) -> tuple[str, ...]:
    from policyd.core.money import format_usd

    return (
        name,
        str(waiting.charges),
        format_usd(waiting.charged_nanos),
        str(waiting.open),
        format_usd(waiting.held_nanos),
    )

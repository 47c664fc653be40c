"""The commands `policyd secrets set`, `list`, `delete` and `rotate-key`."""

# ruff: noqa: PLC0415 - commands import what they need when they run: `policyd --help` should not wait for ciphers.

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyd.core.errors import ConfigError
from policyd.options import AsJson, Flags, takes_settings

if TYPE_CHECKING:
    from policyd.core.provider_secrets import Name
    from policyd.secrets import SecretFile

secrets_app = typer.Typer(no_args_is_help=True)

_PROVIDER = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
_PROJECT_LENGTH_MAX = 256
_READ_CHARS_MAX = 16_384
_VALUE = re.compile(r"[!-~]{1,8192}")  # what can stand in a header, and an access token of any provider is shorter

Provider = Annotated[str, typer.Argument(metavar="PROVIDER", help="Such as openai; as an --upstream names it.")]
Project = Annotated[
    str | None, typer.Option("--project", metavar="NAME", help="For this project alone. Default: all others.")
]

_sealed = takes_settings(flags=["secrets", "secrets_key_file"])


@secrets_app.command("set")
@_sealed
def secrets_set(flags: Flags, provider: Provider, project: Project = None) -> None:
    """Set a provider's key, read from standard input: it belongs in no command line."""
    file, name = _file(flags), _name(provider, project)
    value = _value()
    file.change(lambda values: {**values, name: value})
    typer.echo(f"the key for {_shown(name)} is set")


@secrets_app.command("list")
@_sealed
def secrets_list(flags: Flags, as_json: AsJson = False) -> None:
    """List what there are keys for. The keys themselves are never shown."""
    import json

    names = sorted(_file(flags).load().values, key=lambda name: (name[0], name[1] or ""))
    if as_json:
        typer.echo(json.dumps([{"provider": provider, "project": project} for provider, project in names], indent=2))
    else:
        typer.echo("\n".join(map(_shown, names)) or "no keys are set")


@secrets_app.command("delete")
@_sealed
def secrets_delete(flags: Flags, provider: Provider, project: Project = None) -> None:
    """Delete a provider's key."""
    file, name = _file(flags), _name(provider, project)
    if name not in file.load().values:
        raise ConfigError(f"there is no key for {_shown(name)}")
    file.change(lambda values: {each: value for each, value in values.items() if each != name})
    typer.echo(f"the key for {_shown(name)} is deleted")


@secrets_app.command("rotate-key")
@_sealed
def secrets_rotate_key(
    flags: Flags,
    new_key_file: Annotated[Path, typer.Option("--new-key-file", metavar="FILE", help="The new master key.")],
) -> None:
    """Seal all keys with another master key. A server that runs keeps what it has until it gets the new one."""
    from policyd.secrets.sealing import read_key_file

    _file(flags).seal_anew(read_key_file(new_key_file, flag="--new-key-file"))
    typer.echo("the keys are sealed with the new master key")


def _file(flags: Flags) -> SecretFile:
    from policyd.config import Settings
    from policyd.secrets import SecretFile, read_master_key

    settings = Settings.from_environment(os.environ, **flags)
    if settings.secrets_path is None:
        raise ConfigError("--secrets: expected the path of the secret file")
    key = read_master_key(given=settings.secrets_key, file=settings.secrets_key_path)
    return SecretFile(settings.secrets_path, key)


def _name(provider: str, project: str | None) -> Name:
    from policyd.providers.vendors import VENDORS, vendor_named

    if not _PROVIDER.fullmatch(provider):
        raise ConfigError(f'PROVIDER: found "{provider}", expected the id of a provider in lower case, such as openai')
    if project is not None and not (project.isprintable() and 0 < len(project) <= _PROJECT_LENGTH_MAX):
        raise ConfigError(f"--project: expected a name of {_PROJECT_LENGTH_MAX} characters at most")
    if provider not in VENDORS:
        typer.echo(f"policyd does not know {provider}: taken for an API like OpenAI's, under that name", err=True)
    return vendor_named(provider).id, project


def _value() -> str:
    from policyd.core.api_keys import key_in

    typed = sys.stdin.isatty()
    value = (str(typer.prompt("Key", hide_input=True)) if typed else sys.stdin.read(_READ_CHARS_MAX)).strip()
    if not _VALUE.fullmatch(value):
        raise ConfigError("standard input: expected the provider's key, one line without spaces")
    if key_in(value) is not None:
        raise ConfigError("standard input: this is a key of policyd's own, expected the provider's")
    return value


def _shown(name: Name) -> str:
    provider, project = name
    return provider if project is None else f"{provider}, project {project}"

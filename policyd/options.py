"""Command-line options that several commands take."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter
from typing import Annotated, Any

import typer

# What each setting that is also a flag looks like: its metavar and its help. How its text is read stands with the
# settings (`policyd.config.settings`), which loads more than `policyd --help` should wait for.
_SETTINGS: Mapping[str, tuple[str, str]] = {
    "config": ("FILE", "Policy file."),
    "prices": ("FILE", "Price table in place of the package's own."),
    "secrets": ("FILE", "Secret file with the providers' keys."),
    "secrets_key_file": ("FILE", "Its master key, if not in POLICYD_SECRETS_KEY."),
    "store": ("URL", "sqlite:///FILE, redis://HOST:PORT/DB or memory://."),
    "journal": ("DIR", "Where charges wait while the store is away."),
    "grpc": ("ADDRESS", "PolicyService, HOST:PORT or unix:PATH."),
    "ext_proc": ("ADDRESS", "Where Envoy asks, HOST:PORT or unix:PATH."),
    "transport": ("NAME", "What serves Envoy: h2rpc or grpcio."),
    "workers": ("N", "How many processes serve."),
    "http": ("HOST:PORT", "Metrics and health."),
    "tls_cert": ("FILE", "Serve with TLS: policyd's certificate, in PEM."),
    "tls_key": ("FILE", "Its private key."),
    "tls_client_ca": ("FILE", "Serve only clients with a certificate of these authorities."),
    "access_tokens": ("FILE", "Bearer tokens for PolicyService and metrics, one a line."),
    "listen": ("HOST:PORT", "Where Envoy takes requests."),
    "admin": ("HOST:PORT", "Envoy's admin interface."),
    "profile": ("NAME", "What Envoy shows to policyd: default or lean."),
    "envoy_tls_ca": ("FILE", "Envoy reaches policyd by TLS: the authority of its certificate."),
    "envoy_tls_cert": ("FILE", "What Envoy shows policyd of itself."),
    "envoy_tls_key": ("FILE", "Its private key."),
}

ENVOY_SETTINGS = ("listen", "admin", "profile", "envoy_tls_ca", "envoy_tls_cert", "envoy_tls_key")
"""The settings of Envoy that are flags too."""

SERVER_SETTINGS = tuple(name for name in _SETTINGS if name not in ENVOY_SETTINGS)
"""The settings of a server that are flags too."""


def _option(name: str) -> Any:
    metavar, told = _SETTINGS[name]
    return typer.Option(f"--{name.replace('_', '-')}", metavar=metavar, help=f"{told} [POLICYD_{name.upper()}]")


Flags = Mapping[str, str | None]
"""The texts of flags by the names of their settings; `None` where a flag was not given."""

Config = Annotated[str | None, _option("config")]
Store = Annotated[str | None, _option("store")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
At = Annotated[
    str | None, typer.Option("--at", metavar="TIME", help="A date (UTC) or an RFC 3339 instant. Default: now.")
]


def takes_settings(**groups: Sequence[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the flags of settings; it gets their texts together, as the argument that names their group."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_flags(**given: object) -> None:
            flags = {group: {name: given.pop(name) for name in names} for group, names in groups.items()}
            command(**flags, **given)

        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name not in groups]
        added = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, _option(name)])
            for name in itertools.chain.from_iterable(groups.values())
        ]
        # Typer reads a command's options from its signature.
        with_flags.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own] + added
        )
        return with_flags

    return decorate

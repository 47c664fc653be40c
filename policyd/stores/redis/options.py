"""A Redis URL's parts, and every option of it with its default. No message shows the URL, which may hold a password."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self
from urllib.parse import SplitResult, parse_qsl, unquote

from policyd.core.errors import ConfigError

FORMS = "redis://host:port/db, redis+sentinel://host:port,.../master/db, redis+cluster://host:port,... (TLS: rediss)"

_PORT_MAX = 65_535
_PORT, _SENTINEL_PORT = 6379, 26379
_HOST_PORT = re.compile(r"(\[(?P<bracketed>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:/\s]+))(:(?P<port>\d{1,5}))?", re.ASCII)
_DURATION = re.compile(r"(\d{1,6})(ms|s)", re.ASCII)
_ATTRIBUTE = re.compile(r"[a-z][a-z0-9_]*")
_KEY_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class Arrangement(Enum):
    """How the nodes stand together."""

    STANDALONE = "one server"
    SENTINEL = "a master that sentinels name"
    CLUSTER = "a cluster"


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """Where Redis is and how it is used."""

    arrangement: Arrangement
    addresses: tuple[Address, ...]
    """The server, the sentinels, or some nodes of the cluster."""
    master: str = ""
    """What the sentinels call the master."""
    database: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    sentinel_password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    timeout_seconds: float = 0.5
    """How long one call to Redis may take."""
    connect_timeout_seconds: float = 0.5
    """How long connecting may take, logging in and asking sentinels included."""
    prefix: str = "policyd:"
    """What every key's name begins with."""
    partition: str = ""
    """The attribute whose accounts a cluster keeps together; none: those of a whole scope."""

    @classmethod
    def from_url(cls, url: SplitResult) -> Self:
        """Raises `ConfigError`."""
        arrangement, is_tls = SCHEMES[url.scheme]
        login, _, hosts = url.netloc.rpartition("@")
        user, _, password = login.partition(":")
        addresses = _addresses(hosts, _SENTINEL_PORT if arrangement is Arrangement.SENTINEL else _PORT)
        if arrangement is Arrangement.STANDALONE and len(addresses) > 1:
            raise ConfigError(f"the store URL names several servers where one is expected; allowed are {FORMS}")
        master, database = _master_and_database(arrangement, url.path.removeprefix("/"))
        given = _given_options(url.query)
        ca = given.pop("tls_ca", None)
        if ca is not None and not is_tls:
            raise ConfigError("the store URL has tls_ca, which is for rediss:// (TLS) only")
        return cls(
            arrangement=arrangement,
            addresses=addresses,
            master=master,
            database=database,
            user=unquote(user),
            password=unquote(password),
            tls=_tls_context(ca) if is_tls else None,
            **given,
        )


SCHEMES: Mapping[str, tuple[Arrangement, bool]] = {
    "redis": (Arrangement.STANDALONE, False),
    "rediss": (Arrangement.STANDALONE, True),
    "redis+sentinel": (Arrangement.SENTINEL, False),
    "rediss+sentinel": (Arrangement.SENTINEL, True),
    "redis+cluster": (Arrangement.CLUSTER, False),
    "rediss+cluster": (Arrangement.CLUSTER, True),
}
"""By the URL's scheme; whether it speaks TLS."""


def parse_address(text: str, *, default_port: int) -> Address:
    """`HOST` or `HOST:PORT`, an IPv6 address in brackets. Raises `ValueError`."""
    matched = _HOST_PORT.fullmatch(text)
    port = int(matched["port"] or default_port) if matched else 0
    if matched is None or not 1 <= port <= _PORT_MAX:
        raise ValueError(text)
    return Address(matched["bracketed"] or matched["host"], port)


def _addresses(hosts: str, default_port: int) -> tuple[Address, ...]:
    try:
        return tuple(parse_address(host, default_port=default_port) for host in hosts.split(","))
    except ValueError:
        # Not what was found: a URL with a slip in it may show its password there.
        raise ConfigError(f"the store URL names no host, or a wrong one; allowed are {FORMS}") from None


def _master_and_database(arrangement: Arrangement, path: str) -> tuple[str, int]:
    master, database = "", path
    if arrangement is Arrangement.SENTINEL:
        master, _, database = path.partition("/")
        if not master:
            raise ConfigError(f"the store URL does not say what the sentinels call the master; allowed are {FORMS}")
    elif arrangement is Arrangement.CLUSTER and database not in {"", "0"}:
        raise ConfigError(f"the store URL names the database {database!r}; a cluster has only 0")
    if not re.fullmatch(r"\d{0,4}", database, re.ASCII):
        raise ConfigError(f"the store URL names the database {database!r}; expected a number; allowed are {FORMS}")
    return unquote(master), int(database or 0)


def _tls_context(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigError(f"the store URL has tls_ca={ca}, which cannot be used: {error}") from error


def _seconds(text: str) -> float:
    matched = _DURATION.fullmatch(text)
    if matched is None or not int(matched[1]):
        raise ValueError(text)
    return int(matched[1]) / (1000 if matched[2] == "ms" else 1)


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(text)
        return text

    return read


@dataclass(frozen=True, slots=True)
class _Reader:
    """How an option's text becomes a field of `RedisOptions`."""

    field: str
    read: Callable[[str], object]
    """Raises `ValueError` for anything but what `expectation` describes."""
    expectation: str


_OPTIONS: Mapping[str, _Reader] = {
    "timeout": _Reader("timeout_seconds", _seconds, "a duration such as 500ms or 2s"),
    "connect_timeout": _Reader("connect_timeout_seconds", _seconds, "a duration such as 500ms or 2s"),
    "tls_ca": _Reader("tls_ca", str, "the path of a PEM file"),
    "prefix": _Reader("prefix", _matching(_KEY_PREFIX), "up to 64 letters, digits and . _ : -"),
    "partition": _Reader("partition", _matching(_ATTRIBUTE), "the name of an attribute, such as org"),
    "sentinel_password": _Reader("sentinel_password", str, "a password"),
}


def _given_options(query: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        reader = _OPTIONS.get(name)
        if reader is None:
            raise ConfigError(f"the store URL has an unknown option {name!r}; allowed are {', '.join(_OPTIONS)}")
        try:
            given[reader.field] = reader.read(text)
        except ValueError:
            raise ConfigError(f"the store URL has {name}={text}; expected {reader.expectation}") from None
    return given

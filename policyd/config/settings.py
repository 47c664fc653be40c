"""The settings of the process, from flags and `POLICYD_*` environment variables.

What is decided about requests is policy and stands in the policy file; these say where the process finds and serves
things, and how much of them it holds.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Self

from policyd.config.values import parse_duration
from policyd.core.errors import ConfigError
from policyd.secrets.sealing import KEY_EXPECTED, MasterKey


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address. `host` is a name, an IPv4 or an IPv6 address without brackets; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A Unix domain socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = HostPort | UnixSocket


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the certificates are by which policyd serves, in PEM."""

    cert: Path
    """policyd's own, and those between it and its authority."""
    key: Path
    """Its private key."""
    client_ca: Path | None
    """The authorities whose clients may connect; without it any client may."""


class Transport(StrEnum):
    """The gRPC implementation that ext_proc is served on."""

    H2RPC = "h2rpc"
    GRPCIO = "grpcio"


WORKERS_MAX = 64

_PORT_MAX = 65_535
_HOST_PORT = re.compile(r"(\[(?P<bracketed>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>\d{1,5})", re.ASCII)
_SIZE = re.compile(r"(\d{1,12}) ?(KiB|MiB|GiB)?", re.ASCII)
_BYTES_BY_UNIT = {None: 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_URL = re.compile(r"[a-z+]+://.*")
_BRIEF_DURATION = re.compile(r"(\d{1,6})(ms|s)", re.ASCII)
_HEADER_PREFIX = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*-")
_ATTRIBUTE_NAME = re.compile(r"[a-z][a-z0-9_]*")


# Readers: text in, value out, ValueError for anything else.


def parse_host_port(text: str) -> HostPort:
    """`HOST:PORT`, an IPv6 address in brackets. Raises `ValueError`."""
    matched = _HOST_PORT.fullmatch(text)
    if matched is None or int(matched["port"]) > _PORT_MAX:
        raise ValueError(text)
    host = str(IPv6Address(matched["bracketed"])) if matched["bracketed"] else matched["host"]
    return HostPort(host, int(matched["port"]))


def parse_address(text: str) -> Address:
    """`HOST:PORT` or `unix:PATH`. Raises `ValueError`."""
    scheme, _, path = text.partition(":")
    if scheme != "unix":
        return parse_host_port(text)
    if not path:
        raise ValueError(text)
    return UnixSocket(Path(path))


def _path(text: str) -> Path:
    if not text:
        raise ValueError(text)
    return Path(text)


def _url(text: str) -> str:
    # Which schemes there are is the stores' to know.
    if not _URL.fullmatch(text):
        raise ValueError("not a URL")
    return text


def _header_prefix(text: str) -> str:
    prefix = text.lower()
    if not _HEADER_PREFIX.fullmatch(prefix):
        raise ValueError(text)
    return prefix


def _size_bytes(text: str) -> int:
    matched = _SIZE.fullmatch(text)
    if matched is None or not (size := int(matched[1]) * _BYTES_BY_UNIT[matched[2]]):
        raise ValueError(text)
    return size


def _brief_seconds(text: str) -> float:
    matched = _BRIEF_DURATION.fullmatch(text)
    if matched is None or not int(matched[1]):
        raise ValueError(text)
    return int(matched[1]) / (1000 if matched[2] == "ms" else 1)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if len(set(names)) < len(names) or not all(_ATTRIBUTE_NAME.fullmatch(name) for name in names):
        raise ValueError(text)
    return names


def _worker_count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= WORKERS_MAX:
        raise ValueError(text)
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting of the process with its default."""

    policy_path: Path | None = None
    """The policy file; without one the default policy applies."""
    prices_path: Path | None = None
    """A price table to go by instead of the one that ships with the package."""
    secrets_path: Path | None = None
    """The secret file with the providers' keys; without one Envoy adds them, or nobody does."""
    secrets_key: MasterKey | None = field(default=None, repr=False)
    """What the secret file is sealed with, from the environment: there is no flag, which others could see."""
    secrets_key_path: Path | None = None
    """The same, in a file."""
    store_url: str = field(default="sqlite:///policyd.db", repr=False)
    """Where reservations and usage live. May hold a password."""
    grpc_address: Address = HostPort("127.0.0.1", 50051)
    """Where other services reach policyd: PolicyService, health and reflection."""
    ext_proc_address: Address = HostPort("127.0.0.1", 50052)
    """Where Envoy reaches policyd."""
    transport: Transport = Transport.H2RPC
    """What serves Envoy."""
    workers: int = 1
    """How many processes serve."""
    http_address: HostPort = HostPort("127.0.0.1", 9464)
    """Where metrics and health are served."""
    header_prefix: str = "x-policyd-"
    """What the names of policyd's reply headers begin with, in lower case."""
    request_body_bytes_max: int = 16 * 2**20
    """The largest request body that is read; a larger one is refused."""
    response_buffer_bytes_max: int = 512 * 2**10
    """The largest JSON reply that is held back until its usage is known; a larger one is metered as it passes."""
    metric_attributes: tuple[str, ...] = ()
    """Attributes that become metric labels. None by default: each value of each one is a time series of its own."""
    store_timeout_seconds: float = 1.0
    """How long a decision or a settlement waits for the store. Envoy waits 2 s for policyd."""
    journal_path: Path = Path("policyd-journal")
    """The folder of what could not be charged yet; made when it is needed. It has to outlive the process."""
    journal_bytes_max: int = 256 * 2**20
    """How large a process's journal may become; then nothing passes that cannot be held."""
    tls_cert_path: Path | None = None
    """policyd's certificate; without one everything is served in clear. A Unix socket always is: whoever may open it is
    up to the permissions of its folder."""
    tls_key_path: Path | None = None
    """The certificate's private key."""
    tls_client_ca_path: Path | None = None
    """Who signs the certificates of gRPC clients; without it they need none."""
    access_tokens_path: Path | None = None
    """The bearer tokens for PolicyService and metrics; without it they ask for none."""
    shutdown_grace_seconds: int = 30
    """How long open exchanges may take to end once policyd is told to stop."""

    @property
    def tls(self) -> TlsFiles | None:
        """`None` where everything is served in clear."""
        if self.tls_cert_path is None or self.tls_key_path is None:
            return None
        return TlsFiles(self.tls_cert_path, self.tls_key_path, self.tls_client_ca_path)

    @property
    def ext_proc_addresses(self) -> tuple[Address, ...]:
        """Where Envoy reaches each worker: one port after the other, or PATH.0, PATH.1, ...; a lone one at the address
        itself. Raises `ConfigError` where there are not that many ports."""
        address = self.ext_proc_address
        if self.workers == 1:
            return (address,)
        numbers = range(self.workers)
        if isinstance(address, UnixSocket):
            return tuple(UnixSocket(Path(f"{address.path}.{number}")) for number in numbers)
        if address.port == 0:
            return (address,) * self.workers
        if address.port + self.workers - 1 > _PORT_MAX:
            raise ConfigError(f"--workers: {self.workers} workers have no ports from {address} on")
        return tuple(HostPort(address.host, address.port + number) for number in numbers)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], **flags: str | None) -> Self:
        """The settings that flags and variables make: `--grpc` (as `grpc=`) before `POLICYD_GRPC` before the default.

        A flag that is `None` and a variable that is empty count as not given. Raises `ConfigError` with every mistake,
        each naming its flag or variable.
        """
        if unknown := flags.keys() - _READERS:
            raise TypeError(f"no such flag: {', '.join(sorted(unknown))}")
        given: dict[str, Any] = {}
        problems: list[str] = []
        for name, reader in _READERS.items():
            origin, text = f"--{name.replace('_', '-')}", flags.get(name)
            if text is None:
                origin = f"POLICYD_{name.upper()}"
                text = environ.get(origin) or None
            if text is None:
                continue
            try:
                given[reader.field] = reader.read(text)
            except ValueError:
                found = "" if reader.secret else f'found "{text}", '
                problems.append(f"{origin}: {found}expected {reader.expectation}")
        if ("tls_cert_path" in given) != ("tls_key_path" in given):
            problems.append("--tls-cert, --tls-key: expected both or none")
        elif "tls_client_ca_path" in given and "tls_cert_path" not in given:
            problems.append("--tls-client-ca: expected --tls-cert and --tls-key with it")
        if problems:
            raise ConfigError(*problems)
        return cls(**given)


def with_flags(environ: Mapping[str, str], flags: Mapping[str, str | None]) -> dict[str, str]:
    """The environment in which a process without flags has the same settings."""
    given = {f"POLICYD_{name.upper()}": text for name, text in flags.items() if text is not None}
    return {**environ, **given}


@dataclass(frozen=True, slots=True)
class _Reader:
    """How the text of one flag or variable becomes a field of `Settings`. A `secret` text is never shown."""

    field: str
    read: Callable[[str], object]
    """Raises `ValueError` for anything but what `expectation` describes."""
    expectation: str
    secret: bool = False


_ADDRESS_EXPECTED = "HOST:PORT such as 127.0.0.1:50051 or [::1]:50051, or unix:PATH"
_SIZE_EXPECTED = "a size such as 1048576, 512KiB or 16MiB"

_READERS: Mapping[str, _Reader] = {
    "config": _Reader("policy_path", _path, "the path of a policy file"),
    "prices": _Reader("prices_path", _path, "the path of a compiled price table"),
    "secrets": _Reader("secrets_path", _path, "the path of a secret file"),
    "secrets_key": _Reader("secrets_key", MasterKey.parse, KEY_EXPECTED, secret=True),
    "secrets_key_file": _Reader("secrets_key_path", _path, "the path of a file with a master key"),
    "store": _Reader("store_url", _url, "a URL such as sqlite:///policyd.db or redis://host:6379/0", secret=True),
    "grpc": _Reader("grpc_address", parse_address, _ADDRESS_EXPECTED),
    "ext_proc": _Reader("ext_proc_address", parse_address, _ADDRESS_EXPECTED),
    "transport": _Reader("transport", Transport, " or ".join(Transport)),
    "workers": _Reader("workers", _worker_count, f"a number of processes from 1 to {WORKERS_MAX}"),
    "http": _Reader("http_address", parse_host_port, "HOST:PORT such as 127.0.0.1:9464 or [::1]:9464"),
    "tls_cert": _Reader("tls_cert_path", _path, "the path of a certificate in PEM"),
    "tls_key": _Reader("tls_key_path", _path, "the path of a private key in PEM"),
    "tls_client_ca": _Reader("tls_client_ca_path", _path, "the path of CA certificates in PEM"),
    "access_tokens": _Reader("access_tokens_path", _path, "the path of a file with one bearer token a line"),
    "header_prefix": _Reader("header_prefix", _header_prefix, "words that end in a dash, such as x-policyd-"),
    "request_body_max": _Reader("request_body_bytes_max", _size_bytes, _SIZE_EXPECTED),
    "response_buffer_max": _Reader("response_buffer_bytes_max", _size_bytes, _SIZE_EXPECTED),
    "metric_attributes": _Reader("metric_attributes", _names, "names of attributes with commas between, each once"),
    "store_timeout": _Reader("store_timeout_seconds", _brief_seconds, "a duration such as 500ms or 2s"),
    "journal": _Reader("journal_path", _path, "the path of a folder"),
    "journal_max": _Reader("journal_bytes_max", _size_bytes, _SIZE_EXPECTED),
    "shutdown_grace": _Reader("shutdown_grace_seconds", parse_duration, "a duration such as 30s, 5m or whole seconds"),
}
"""By the flag's name with underscores; the variable's name is made of it."""

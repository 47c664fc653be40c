"""Where a provider is: `NAME=URL`, as `--upstream` takes it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from policyd.core.errors import ConfigError

RESERVED_NAMES: Final = frozenset({"policyd", "v1", "v1beta", "v1beta1", "v1alpha", "upload", "model", "ws"})
"""policyd's own cluster, and what the providers' bare paths begin with."""

_EXAMPLE = "openai=https://api.openai.com"
_DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}
_NAME_CHARS_MAX = 64
# `urlsplit` drops tabs and line breaks silently, so they are looked for before it.
_PRINTABLE = re.compile(r"[!-~]+")
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")
_BASE_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where a provider is. `host` is a name, an IPv4 or an IPv6 address without brackets."""

    host: str
    port: int
    tls: bool
    base_path: str = ""
    """What comes before every path at the provider: empty, or such as `/api/v2`."""

    @property
    def authority(self) -> str:
        """The `host` header that the provider expects."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS["https" if self.tls else "http"] else f"{host}:{self.port}"


def parse_upstreams(texts: Iterable[str]) -> Mapping[str, Upstream]:
    """Upstreams by name, from `NAME=URL` each. Raises `ConfigError` with every mistake."""
    upstreams: dict[str, Upstream] = {}
    problems: list[str] = []
    for text in texts:
        try:
            name, upstream = _parse(text)
        except _Mistake as mistake:
            problems.append(f"--upstream: {mistake}")
            continue
        if name in upstreams:
            problems.append(f'--upstream: found "{name}" twice, expected each name once')
        upstreams[name] = upstream
    if problems:
        raise ConfigError(*problems)
    return upstreams


class _Mistake(Exception):
    """What was found, and what was expected."""


def _parse(text: str) -> tuple[str, Upstream]:
    name, separator, url = text.partition("=")
    if not separator:
        raise _Mistake(f"found {_shown(text)}, expected NAME=URL such as {_EXAMPLE}")
    if not _NAME.fullmatch(name) or len(name) > _NAME_CHARS_MAX:
        raise _Mistake(
            f"found the name {_shown(name)}, expected lower-case letters and digits with single . _ - between, "
            f"such as {_EXAMPLE}"
        )
    if name in RESERVED_NAMES:
        raise _Mistake(f'found the name "{name}", expected another one: it has a meaning of its own in a path')
    return name, _parse_url(url)


def _parse_url(url: str) -> Upstream:
    # A URL that may hold a secret is not shown.
    if "@" in url:
        raise _Mistake("found a URL with a user or password, expected none: provider keys travel in headers")
    if "?" in url or "#" in url:
        raise _Mistake("found a URL with ? or #, expected none: provider keys travel in headers")
    found = f"found the URL {_shown(url)}, expected"
    if not _PRINTABLE.fullmatch(url):
        raise _Mistake(f"{found} one such as https://api.openai.com")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _Mistake(f"{found} a host, and a port from 1 to 65535 or none") from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise _Mistake(f"{found} one that begins with https:// or http://")
    if port == 0:
        raise _Mistake(f"{found} a port from 1 to 65535 or none")
    if not _HOST.fullmatch(parts.hostname or ""):
        raise _Mistake(f"{found} a host, such as in https://api.openai.com")
    if not _BASE_PATH.fullmatch(parts.path):
        raise _Mistake(f"{found} a plain path such as /api/v2, or none")
    return Upstream(
        host=str(parts.hostname),
        port=port or _DEFAULT_PORTS[parts.scheme],
        tls=parts.scheme == "https",
        base_path=parts.path.rstrip("/"),
    )


def _shown(text: str) -> str:
    return f'"{text}"' if text.isprintable() else ascii(text)


DEFAULT_UPSTREAMS: Final = parse_upstreams(
    [
        "openai=https://api.openai.com",
        "anthropic=https://api.anthropic.com",
        "google=https://generativelanguage.googleapis.com",
    ]
)
"""Where requests go when no `--upstream` is given."""

"""Bearer tokens: who shows one of those in a file may call PolicyService and read the metrics.

The file may be replaced while policyd runs. Several tokens are good at once, so that callers change over one by one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from policyd.core.errors import ConfigError

TOKEN_CHARACTERS_MIN: Final = 16

# RFC 6750, section 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*", re.ASCII)
_SCHEME: Final = "bearer "


@dataclass(frozen=True, slots=True)
class AccessTokens:
    """The tokens that are good, as hashes."""

    hashes: tuple[bytes, ...] = field(repr=False)
    """SHA-256 of each: all of one length, so that comparing takes the same time whatever is asked."""

    @classmethod
    def of(cls, *tokens: str) -> Self:
        return cls(tuple(map(_hash, tokens)))

    @property
    def revision(self) -> str:
        return hashlib.sha256(b"".join(self.hashes)).hexdigest()

    def admit(self, authorization: str | None) -> bool:
        """Whether the value of an `authorization` header holds one of them."""
        if authorization is None or not authorization.lower().startswith(_SCHEME):
            return False
        shown = _hash(authorization[len(_SCHEME) :].strip())
        # Every one is compared: how long it takes must not tell which one it was.
        return sum(hmac.compare_digest(shown, known) for known in self.hashes) > 0


def load_access_tokens(path: Path) -> AccessTokens:
    """One token a line; empty lines and lines that begin with # do not count.

    Raises `ConfigError`, which names the lines and shows none of them.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"--access-tokens: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--access-tokens: {path}: expected text in UTF-8") from error
    tokens = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#"}
    problems = [
        f"--access-tokens: {path}:{number}: expected a token of at least {TOKEN_CHARACTERS_MIN} letters, digits or "
        "-._~+/, such as `openssl rand -hex 32` makes"
        for number, token in tokens.items()
        if len(token) < TOKEN_CHARACTERS_MIN or not _TOKEN.fullmatch(token)
    ]
    if not tokens:
        problems = [f"--access-tokens: {path}: found no token, expected one a line"]
    if problems:
        raise ConfigError(*problems)
    return AccessTokens.of(*tokens.values())


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

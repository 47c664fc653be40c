"""One secret, sealed with AES-256-GCM (NIST SP 800-38D) under the master key.

Each seal has a random nonce of 96 bits. Under one key that is safe for 2^32 of them (the same, 8.3), which nobody sets
by hand. What a secret is for is authenticated with it: an entry that was moved to another name cannot be opened.
"""

from __future__ import annotations

import json
import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from pathlib import Path

from policyd.core.errors import ConfigError
from policyd.core.provider_secrets import Name
from policyd.secrets.private import read_private

KEY_BYTES = 32
NONCE_BYTES = 12
KEY_EXPECTED = "32 random bytes in base64, such as `openssl rand -base64 32` makes"

_KEY_FILE_BYTES_MAX = 4096
_KEY_TEXT = re.compile(r"[A-Za-z0-9+/_-]{43}=?")


class WrongKey(Exception):
    """The master key is another one, or what was sealed has been changed since."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """What secrets are sealed with."""

    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> MasterKey:
        """From base64 of either alphabet. Raises `ValueError`, which does not quote it."""
        if not _KEY_TEXT.fullmatch(text):
            raise ValueError("not 32 bytes in base64")
        return cls(from_base64(text))

    def seal(self, value: str, *, name: Name, version: int) -> tuple[bytes, bytes]:
        """The nonce, and the value sealed."""
        # Not above: its library is worth a tenth of a second and megabytes to those who have no secrets.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        nonce = os.urandom(NONCE_BYTES)
        return nonce, AESGCM(self.secret).encrypt(nonce, value.encode(), _associated_data(name, version))

    def open(self, sealed: bytes, *, nonce: bytes, name: Name, version: int) -> str:
        """Raises `WrongKey`."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        try:
            return AESGCM(self.secret).decrypt(nonce, sealed, _associated_data(name, version)).decode()
        except (InvalidTag, ValueError):
            raise WrongKey from None


def read_master_key(*, given: MasterKey | None, file: Path | None) -> MasterKey:
    """The key of the environment or of a file. Raises `ConfigError` unless there is exactly one."""
    if (given is None) == (file is None):
        raise ConfigError("--secrets: expected its master key in POLICYD_SECRETS_KEY or in --secrets-key-file, in one")
    return given if given is not None else read_key_file(file, flag="--secrets-key-file")


def read_key_file(file: Path | None, *, flag: str) -> MasterKey:
    """The key in a file that is its owner's alone. Raises `ConfigError`."""
    if file is None:
        raise ConfigError(f"{flag}: expected the path of a file with {KEY_EXPECTED}")
    content = read_private(file, bytes_max=_KEY_FILE_BYTES_MAX)
    try:
        return MasterKey.parse(content.decode("ascii").strip())
    except ValueError:
        raise ConfigError(f"{file}: expected {KEY_EXPECTED}") from None


def to_base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def from_base64(text: str) -> bytes:
    """Of either alphabet, with padding or without. Raises `ValueError`."""
    plain = text.rstrip("=").replace("+", "-").replace("/", "_")
    return urlsafe_b64decode(plain + "=" * (-len(plain) % 4))


def _associated_data(name: Name, version: int) -> bytes:
    provider, project = name
    return json.dumps(["policyd secret", version, provider, project]).encode()

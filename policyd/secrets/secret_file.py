"""The secret file: JSON in which names are plain and keys are sealed, each by itself.

{"version": 1, "secrets": [{"provider": "openai", "project": null, "nonce": "...", "sealed": "..."}]}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from policyd.core.errors import ConfigError
from policyd.core.provider_secrets import Name, ProviderSecrets
from policyd.secrets.private import changing, read_private, replace_private
from policyd.secrets.sealing import NONCE_BYTES, MasterKey, WrongKey, from_base64, to_base64

VERSION = 1
FILE_BYTES_MAX = 4 * 2**20

Values = Mapping[Name, str]


@dataclass(frozen=True, slots=True)
class SecretFile:
    """The file at a path, and the key that its secrets are sealed with. Everything raises `ConfigError`."""

    path: Path
    key: MasterKey

    def load(self) -> ProviderSecrets:
        content = read_private(self.path, bytes_max=FILE_BYTES_MAX)
        return ProviderSecrets(sha256(content).hexdigest()[:16], self._opened(content))

    def change(self, change: Callable[[Values], Values]) -> None:
        """Replaces the secrets by what `change` makes of them. A file that is not there yet has none."""
        with changing(self.path):
            self._save(change(self._values()), self.key)

    def seal_anew(self, key: MasterKey) -> None:
        """Seals every secret with another key."""
        with changing(self.path):
            self._save(self.load().values, key)

    def _values(self) -> Values:
        return self.load().values if self.path.exists() else {}

    def _opened(self, content: bytes) -> Values:
        try:
            document = json.loads(content)
            version = document["version"]
            entries = [_Entry.of(each) for each in document["secrets"]]
        except (ValueError, TypeError, KeyError):
            raise ConfigError(f"{self.path}: it is no secret file of policyd's") from None
        if version != VERSION:
            raise ConfigError(f"{self.path}: found version {version}, expected {VERSION}")
        return {entry.name: self._open(entry) for entry in entries}

    def _open(self, entry: _Entry) -> str:
        try:
            return self.key.open(entry.sealed, nonce=entry.nonce, name=entry.name, version=VERSION)
        except WrongKey:
            what = "the secrets cannot be opened: the master key is another one, or the file was changed by hand"
            raise ConfigError(f"{self.path}: {what}") from None

    def _save(self, values: Values, key: MasterKey) -> None:
        entries = [_Entry.sealed_with(key, name, values[name]).document() for name in sorted(values, key=_order)]
        document = {"version": VERSION, "secrets": entries}
        replace_private(self.path, json.dumps(document, indent=2).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class _Entry:
    name: Name
    nonce: bytes
    sealed: bytes

    @classmethod
    def of(cls, document: Any) -> _Entry:
        """Raises `ValueError`, `TypeError` or `KeyError`."""
        provider, project = document["provider"], document["project"]
        nonce = from_base64(document["nonce"])
        if not isinstance(provider, str) or not isinstance(project, str | None) or len(nonce) != NONCE_BYTES:
            raise ValueError("an entry of another form")
        return cls((provider, project), nonce, from_base64(document["sealed"]))

    @classmethod
    def sealed_with(cls, key: MasterKey, name: Name, value: str) -> _Entry:
        return cls(name, *key.seal(value, name=name, version=VERSION))

    def document(self) -> Mapping[str, str | None]:
        provider, project = self.name
        sealed = {"nonce": to_base64(self.nonce), "sealed": to_base64(self.sealed)}
        return {"provider": provider, "project": project, **sealed}


def _order(name: Name) -> tuple[str, str]:
    return name[0], name[1] or ""

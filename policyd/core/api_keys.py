"""policyd's own API keys as text: `pd_`, 256 random bits, and a checksum.

The checksum tells a typing mistake from a key that was revoked, and lets scanners of code and logs be sure of what they
have found. A store has the key's SHA-256 alone. A slow, salted hash, which passwords need, would add nothing: there is
no guessing 256 random bits, whatever one guess costs; and it would be paid for on every request.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from hashlib import sha256
from zlib import crc32

KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key", "x-project-key")
"""The headers in which a key may come: those of the providers' clients, and one of its own. The first that has one."""

CREDENTIAL_HEADERS = (*KEY_HEADERS, "ocp-apim-subscription-key")
"""The same, and those in which clients send a provider's key alone."""

KEY_PARAMETER = "key"
"""The query parameter in which it may (Gemini's)."""

OTHER_CREDENTIAL_PARAMETERS = ("api-key", "api_key", "access_token")
"""Those of the query in which clients send a provider's key, or a token that stands for one."""

PROTOCOL_HEADER = "sec-websocket-protocol"
PROTOCOL_PREFIX = "openai-insecure-api-key."
"""Where OpenAI's clients in browsers, which can set no header of a WebSocket, put their key: among its protocols."""

PREFIX = "pd_"
SECRET_BYTES = 32

_KEY = re.compile(r"pd_([A-Za-z0-9_-]{43})([0-9a-f]{8})")


def format_key(secret: bytes) -> str:
    """The key that has this secret, `SECRET_BYTES` from a cryptographic source."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a key takes {SECRET_BYTES} random bytes")
    text = urlsafe_b64encode(secret).decode().rstrip("=")
    return f"{PREFIX}{text}{_checksum(text)}"


def key_in(value: str) -> str | None:
    """The key that a header or parameter carries, bare or as a bearer token; `None` where it carries something else."""
    scheme, _, token = value.strip().rpartition(" ")
    key = token.strip()
    return key if key.startswith(PREFIX) and scheme.strip().lower() in ("", "bearer") else None


def is_well_formed(key: str) -> bool:
    """Whether `key` could have been issued: its form is right, and its checksum too."""
    matched = _KEY.fullmatch(key)
    return matched is not None and _checksum(matched[1]) == matched[2]


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _checksum(text: str) -> str:
    return f"{crc32(text.encode()):08x}"

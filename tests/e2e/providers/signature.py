"""Whether a request's AWS signature holds for what reached the provider.

Source: AWS, "Create a signed AWS API request" (Signature Version 4).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from urllib.parse import quote

from tests.e2e.providers.simulated import Arrival

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[^/]+/(?P<scope>[^,]+), SignedHeaders=(?P<headers>[^,]+), Signature=(?P<signature>.+)"
)


def signed_headers(arrival: Arrival) -> list[str]:
    return _AUTHORIZATION.fullmatch(arrival.headers["authorization"])["headers"].split(";")  # type: ignore[index]


def holds(arrival: Arrival, *, secret_key: str) -> bool:
    """Whether the signature was made with `secret_key`, over the very request that arrived."""
    found = _AUTHORIZATION.fullmatch(arrival.headers.get("authorization", ""))
    if found is None:
        return False
    scope = found["scope"]
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = _mac(key, part)
    digest = hashlib.sha256(_canonical(arrival, found["headers"]).encode()).hexdigest()
    to_sign = "\n".join(["AWS4-HMAC-SHA256", arrival.headers["x-amz-date"], scope, digest])
    return hmac.compare_digest(_mac(key, to_sign).hex(), found["signature"])


def _canonical(arrival: Arrival, names: str) -> str:
    path, _, query = arrival.target.partition("?")
    headers = "".join(f"{name}:{arrival.headers.get(name, '').strip()}\n" for name in names.split(";"))
    return "\n".join(
        [
            arrival.method,
            # Encoded once more than it was sent, as every service but S3 has it.
            quote(path, safe="/~"),
            "&".join(sorted(query.split("&"))),
            headers,
            names,
            hashlib.sha256(arrival.body).hexdigest(),
        ]
    )


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")

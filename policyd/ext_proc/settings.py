"""What is the same for every exchange of a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from policyd.core.provider_secrets import ProviderSecrets

CountText = Callable[[str, str, str], int]
"""`(text, provider, model) -> tokens`."""


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    header_prefix: str = "x-policyd-"
    request_body_bytes_max: int = 16 * 1024 * 1024
    request_body_seconds_max: float = 300
    """How long a request's body may take to come: a client that dribbles it must not hold a stream for ever."""
    response_buffer_bytes_max: int = 512 * 1024
    """Largest JSON reply that Envoy is asked to buffer, so that the cost can go into its headers."""
    provider_secrets: Callable[[], ProviderSecrets | None] = lambda: None
    """The providers' keys in force; `None` where policyd has none, and Envoy adds them or nobody."""

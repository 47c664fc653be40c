"""The providers' real keys, which take the place of policyd's own on the way upstream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Name = tuple[str, str | None]
"""A provider's id, and a project or `None` for all that have no key of their own."""


@dataclass(frozen=True, slots=True)
class ProviderSecrets:
    """Every key by what it is for. Keys are in no text that this makes of itself."""

    revision: str
    """Identifies the content, and tells nothing of it."""
    values: Mapping[Name, str] = field(repr=False)

    def of(self, provider: str, *, project: str | None) -> str | None:
        """The project's own key, else the provider's; `None` where there is neither."""
        own = self.values.get((provider, project)) if project is not None else None
        return own if own is not None else self.values.get((provider, None))

"""The files of one demo."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folder:
    path: Path

    @property
    def policy(self) -> Path:
        return self.path / "policyd.yaml"

    @property
    def store(self) -> Path:
        return self.path / "policyd.db"

    @property
    def exchanges(self) -> Path:
        """policyd's log lines, one JSON object an exchange."""
        return self.path / "exchanges.jsonl"

    @property
    def messages(self) -> Path:
        """What policyd says about itself, such as that the policy was read again."""
        return self.path / "messages.log"

"""The providers' keys in force."""

from collections.abc import Callable
from pathlib import Path

from policyd.config.file_source import FileSource
from policyd.config.settings import Settings
from policyd.core.errors import ConfigError
from policyd.core.provider_secrets import ProviderSecrets
from policyd.secrets import SecretFile, read_master_key

NO_SECRETS = ProviderSecrets("none", {})


class SecretsSource(FileSource[ProviderSecrets]):
    """Holds what is in the secret file that `settings` name."""

    def __init__(
        self,
        settings: Settings,
        *,
        on_change: Callable[[ProviderSecrets], None],
        on_problem: Callable[[ConfigError], None],
    ) -> None:
        def load(path: Path | None) -> ProviderSecrets:
            if path is None:
                return NO_SECRETS
            # The master key is read again with the file: both change when it is rotated.
            return SecretFile(path, read_master_key(given=settings.secrets_key, file=settings.secrets_key_path)).load()

        self._exists = settings.secrets_path is not None
        super().__init__(settings.secrets_path, load=load, on_change=on_change, on_problem=on_problem)

    @property
    def in_force(self) -> ProviderSecrets | None:
        """`None` where there is no secret file: adding the providers' keys is then not policyd's to do."""
        return self.current if self._exists else None

"""The files that policyd goes by: policy, prices, provider keys, and what the guards need.

Each is in force until a newer version of it is good; one that is not is reported, and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from policyd.config import FileSource, PolicySource, SecretsSource, Settings
from policyd.core.errors import ConfigError
from policyd.core.policy import Policy
from policyd.core.price_book import PriceBook
from policyd.core.provider_secrets import ProviderSecrets
from policyd.guards import Guards
from policyd.price_finding import check_models
from policyd.prices.table_file import open_price_book
from policyd.telemetry import Telemetry

log = logging.getLogger(__name__)


class Sources:
    """Raises `ConfigError` where a file is wrong to begin with."""

    def __init__(
        self,
        settings: Settings,
        guards: Guards,
        *,
        telemetry: Telemetry,
        now_ms: Callable[[], int],
        on_prices: Callable[[PriceBook], None],
    ) -> None:
        """`on_prices` is told of each price table that replaces another."""
        self._guards = guards
        self._telemetry = telemetry
        self._now_ms = now_ms
        self._on_prices = on_prices
        self._prices = FileSource(
            settings.prices_path,
            load=open_price_book,
            check=lambda prices: self._check_models(self.policy, prices),
            on_change=self._prices_changed,
            on_problem=self._prices_rejected,
        )
        self._policy = PolicySource(
            settings.policy_path,
            check=lambda policy: self._check_models(policy, self.prices),
            on_change=self._policy_changed,
            on_problem=self._policy_rejected,
        )
        self._secrets = SecretsSource(settings, on_change=_secrets_changed, on_problem=_secrets_rejected)
        self._check_models(self.policy, self.prices)
        telemetry.policy_in_force(self.policy.revision)
        telemetry.prices_in_force(source=self.prices.version, revision=self.prices.revision)

    @property
    def policy(self) -> Policy:
        return self._policy.current

    @property
    def prices(self) -> PriceBook:
        return self._prices.current

    @property
    def provider_secrets(self) -> ProviderSecrets | None:
        return self._secrets.in_force

    def reload(self) -> None:
        """Reads every file again."""
        # Prices first: a policy may count on a model that only the new table has.
        self._prices.reload()
        self._policy.reload()
        self._secrets.reload()
        for file in self._guards.files():
            file.reload()

    def watches(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What has to run for changes to be noticed."""
        for source in (self._prices, self._policy, self._secrets, *self._guards.files()):
            yield source.watch()

    def _check_models(self, policy: Policy, prices: PriceBook) -> None:
        check_models(policy, prices, now_ms=self._now_ms())

    def _policy_changed(self, policy: Policy) -> None:
        self._telemetry.policy_in_force(policy.revision)
        self._telemetry.policy_reloaded(ok=True)
        log.info("policy %s is in force", policy.revision)

    def _policy_rejected(self, error: ConfigError) -> None:
        self._telemetry.policy_reloaded(ok=False)
        log.error("the policy file has mistakes; the policy before it stays in force\n%s", error)

    def _prices_changed(self, prices: PriceBook) -> None:
        self._on_prices(prices)
        self._telemetry.prices_in_force(source=prices.version, revision=prices.revision)
        self._telemetry.prices_reloaded(ok=True)
        log.info("the prices of %s (revision %s) are in force", prices.version, prices.revision)

    def _prices_rejected(self, error: ConfigError) -> None:
        self._telemetry.prices_reloaded(ok=False)
        log.error("the price table has mistakes; the one before it stays in force\n%s", error)


def _secrets_changed(secrets: ProviderSecrets) -> None:
    log.info("the secret file (revision %s) is in force", secrets.revision)


def _secrets_rejected(error: ConfigError) -> None:
    log.error("the secret file cannot be used; the secrets before it stay in force\n%s", error)

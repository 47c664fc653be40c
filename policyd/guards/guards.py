"""The guards of one process, and the files that they go by."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Gauge

from policyd.config import FileSource, Settings
from policyd.core.errors import ConfigError
from policyd.guards.access import AccessTokens, load_access_tokens
from policyd.http import PageGuard

if TYPE_CHECKING:
    from policyd.guards.tls import Certificates, Tls

CERTIFICATE_METRIC: Final = "policyd_tls_certificate_expires_seconds"

log = logging.getLogger(__name__)


class Guards:
    """What `settings` ask of whoever connects. Raises `ConfigError` where a file is wrong to begin with.

    A file that changes is in force from the next connection or call on; one that is wrong then is reported, and changes
    nothing.
    """

    def __init__(self, settings: Settings) -> None:
        self._certificates: FileSource[Certificates] | None = None
        self._tokens: FileSource[AccessTokens] | None = None
        self.tls: Tls | None = None
        """`None` where everything is served in clear."""
        if (files := settings.tls) is not None:
            # Not above: its library is worth a tenth of a second and megabytes to those who serve in clear.
            from policyd.guards.tls import Tls, load_certificates  # noqa: PLC0415

            self._certificates = certificates = FileSource(
                files.cert,
                load=lambda _: load_certificates(files),
                beside=[path for path in (files.key, files.client_ca) if path is not None],
                on_change=lambda _: log.info("other certificates are in force"),
                on_problem=lambda error: _keep("certificates", error),
            )
            self.tls = Tls(lambda: certificates.current, asks_clients=files.client_ca is not None)
        if (path := settings.access_tokens_path) is not None:
            self._tokens = FileSource(
                path,
                load=lambda _: load_access_tokens(path),
                on_change=lambda _: log.info("other access tokens are in force"),
                on_problem=lambda error: _keep("access tokens", error),
            )

    @property
    def asks_for_tokens(self) -> bool:
        return self._tokens is not None

    def admit(self, authorization: str | None) -> bool:
        """Whether the value of an `authorization` header is good enough for PolicyService and metrics."""
        return self._tokens is None or self._tokens.current.admit(authorization)

    def of_pages(self) -> PageGuard:
        """For metrics and health."""
        if self.tls is None:
            return PageGuard(self.admit)
        return PageGuard(self.admit, self.tls.http_context(), asks_clients=self.tls.asks_clients)

    def register_metrics(self, registry: CollectorRegistry) -> None:
        """Adds to `registry` when the certificate ends, if there is one."""
        if (certificates := self._certificates) is not None:
            Gauge(
                CERTIFICATE_METRIC,
                "When policyd's certificate ends, in seconds since the epoch.",
                registry=registry,
            ).set_function(lambda: certificates.current.expires_at_seconds)

    def files(self) -> Iterator[FileSource[Certificates] | FileSource[AccessTokens]]:
        """What there is to watch and to reload."""
        if self._certificates is not None:
            yield self._certificates
        if self._tokens is not None:
            yield self._tokens


def worker_pages(token: str) -> PageGuard:
    """For what a worker tells its supervisor, who has given it the token, over loopback."""
    return PageGuard(AccessTokens.of(token).admit)


def _keep(what: str, error: ConfigError) -> None:
    log.error("the %s have mistakes; those before them stay in force\n%s", what, error)

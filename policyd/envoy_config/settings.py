"""The settings of Envoy on one machine, from flags and `POLICYD_*` environment variables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from policyd.config import HostPort, Settings, TlsFiles
from policyd.core.errors import ConfigError
from policyd.core.policy import Policy, default_policy
from policyd.envoy_config.addresses import parse_listening
from policyd.envoy_config.upstreams import DEFAULT_UPSTREAMS, Upstream, parse_upstreams


@dataclass(frozen=True, slots=True)
class PolicydTls:
    """How Envoy reaches policyd by TLS. The files are read by Envoy, where Envoy runs, in PEM."""

    ca: Path
    """The authority of policyd's certificate, which has to name the host of policyd's address."""
    cert: Path | None = None
    """Envoy's own certificate, where policyd asks for one."""
    key: Path | None = None
    """Its private key."""


LISTEN_DEFAULT: Final = HostPort("127.0.0.1", 10000)
ADMIN_DEFAULT: Final = HostPort("127.0.0.1", 9901)
BUFFER_BYTES_MAX_DEFAULT: Final = Settings().request_body_bytes_max
"""What policyd reads: Envoy's buffer has to hold the largest body that policyd takes."""


class Profile(StrEnum):
    """How much of an exchange Envoy shows to policyd."""

    DEFAULT = "default"
    """All of it."""
    LEAN = "lean"
    """The request, of those whose reply Envoy itself can read for what it used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoySettings:
    """What can be set about Envoy. Its addresses are IP addresses; port 0 is any free one."""

    listen_address: HostPort = LISTEN_DEFAULT
    """Where clients come in."""
    admin_address: HostPort = ADMIN_DEFAULT
    """Where Envoy's admin interface is."""
    upstreams: Mapping[str, Upstream] = field(default_factory=lambda: DEFAULT_UPSTREAMS)
    """The providers by name."""
    buffer_bytes_max: int = BUFFER_BYTES_MAX_DEFAULT
    """The largest request body that Envoy takes; it answers 413 to a larger one."""
    policy: Policy = field(default_factory=default_policy)
    """Whose sources of identity Envoy shows to policyd, beside what it always shows."""
    policyd_tls: PolicydTls | None = None
    """`None` where Envoy reaches policyd in clear."""
    profile: Profile = Profile.DEFAULT
    header_prefix: str = Settings().header_prefix
    """What the names of policyd's reply headers begin with; in the lean profile Envoy sets them."""
    access_log: bool = False
    """Whether Envoy writes a line of JSON to stdout for every request, without its query string."""

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str],
        flags: Mapping[str, str | None],
        *,
        upstreams: Sequence[str] | None = None,
        server: Settings | None = None,
        policy: Policy | None = None,
    ) -> Self:
        """The settings that flags and variables make: `--listen` before `POLICYD_LISTEN` before the default.

        `server`: the policyd that Envoy asks, and `policy` the policy that it is configured for; `None`: those without
        settings and without a file. A flag that is `None` and a variable that is empty count as not given. Raises
        `ConfigError`, which names the flag or variable.
        """
        server = server or Settings()
        given = _Given(environ, flags)
        return cls(
            listen_address=given.listening("listen") or LISTEN_DEFAULT,
            admin_address=given.listening("admin") or ADMIN_DEFAULT,
            upstreams=parse_upstreams(upstreams) if upstreams else DEFAULT_UPSTREAMS,
            buffer_bytes_max=server.request_body_bytes_max,
            policy=policy or default_policy(),
            policyd_tls=_policyd_tls(given, server.tls),
            profile=given.profile("profile") or Profile.DEFAULT,
            header_prefix=server.header_prefix,
        )


@dataclass(frozen=True, slots=True)
class _Given:
    """What was given of settings, by a flag or by a variable."""

    environ: Mapping[str, str]
    flags: Mapping[str, str | None]

    def path(self, name: str) -> Path | None:
        _, text = self._text(name)
        return Path(text).absolute() if text else None

    def listening(self, name: str) -> HostPort | None:
        origin, text = self._text(name)
        return parse_listening(text, origin=origin) if text is not None else None

    def profile(self, name: str) -> Profile | None:
        origin, text = self._text(name)
        try:
            return Profile(text) if text is not None else None
        except ValueError as error:
            raise ConfigError(f'{origin}: found "{text}", expected {" or ".join(Profile)}') from error

    def _text(self, name: str) -> tuple[str, str | None]:
        """Where it was given, and what."""
        if (text := self.flags.get(name)) is not None:
            return f"--{name.replace('_', '-')}", text
        variable = f"POLICYD_{name.upper()}"
        return variable, self.environ.get(variable) or None


def _policyd_tls(given: _Given, served: TlsFiles | None) -> PolicydTls | None:
    """What goes with how policyd is `served`; where that is not told, it may be served with TLS all the same."""
    ca, cert, key = given.path("envoy_tls_ca"), given.path("envoy_tls_cert"), given.path("envoy_tls_key")
    if (cert is None) != (key is None):
        raise ConfigError("--envoy-tls-cert, --envoy-tls-key: expected both or none")
    if ca is None:
        if served is not None or cert is not None:
            raise ConfigError("--envoy-tls-ca: expected the authority of policyd's certificate, to reach it by TLS")
        return None
    if served is not None and served.client_ca is not None and cert is None:
        raise ConfigError("--envoy-tls-cert: expected a certificate for Envoy, since --tls-client-ca asks for one")
    return PolicydTls(ca, cert, key)

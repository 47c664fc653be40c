"""The settings of Envoy on one machine, from flags and `POLICYD_*` environment variables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from policyd.config import HostPort, Settings
from policyd.core.errors import ConfigError
from policyd.core.policy import Policy, default_policy
from policyd.envoy_config.addresses import parse_listening
from policyd.envoy_config.upstreams import DEFAULT_UPSTREAMS, Upstream, parse_upstreams

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
    profile: Profile = Profile.DEFAULT
    header_prefix: str = Settings().header_prefix
    """What the names of policyd's reply headers begin with; in the lean profile Envoy sets them."""
    access_log: bool = False
    """Whether Envoy writes a line of JSON to stdout for every request, without its query string."""

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str],
        *,
        listen: str | None,
        admin: str | None,
        upstreams: Sequence[str] | None,
        buffer_bytes_max: int = BUFFER_BYTES_MAX_DEFAULT,
        policy: Policy | None = None,
        profile: str | None = None,
        header_prefix: str = Settings().header_prefix,
    ) -> Self:
        """The settings that flags and variables make: `--listen` before `POLICYD_LISTEN` before the default.

        `policy`: the one that Envoy is configured for; `None`: that which applies without a file.
        A flag that is `None` and a variable that is empty count as not given. Raises `ConfigError`, which names the
        flag or variable.
        """
        return cls(
            listen_address=_listening(environ, "listen", listen) or LISTEN_DEFAULT,
            admin_address=_listening(environ, "admin", admin) or ADMIN_DEFAULT,
            upstreams=parse_upstreams(upstreams) if upstreams else DEFAULT_UPSTREAMS,
            buffer_bytes_max=buffer_bytes_max,
            policy=policy or default_policy(),
            profile=_profile(environ, profile),
            header_prefix=header_prefix,
        )


def _profile(environ: Mapping[str, str], flag: str | None) -> Profile:
    origin, text = ("--profile", flag) if flag is not None else ("POLICYD_PROFILE", environ.get("POLICYD_PROFILE"))
    try:
        return Profile(text or Profile.DEFAULT)
    except ValueError as error:
        raise ConfigError(f'{origin}: found "{text}", expected {" or ".join(Profile)}') from error


def _listening(environ: Mapping[str, str], name: str, flag: str | None) -> HostPort | None:
    if flag is not None:
        return parse_listening(flag, origin=f"--{name}")
    variable = f"POLICYD_{name.upper()}"
    text = environ.get(variable)
    return parse_listening(text, origin=variable) if text else None

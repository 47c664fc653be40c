"""Envoy's configuration for running policyd on one machine: what `policyd up` starts and `policyd envoy-config` prints.

    settings.py    flags and environment variables -> `EnvoySettings`
    addresses.py   the addresses in them
    upstreams.py   `NAME=URL` -> where a provider is
    typed.py       how Envoy names its extensions
    clusters.py    what Envoy reaches: policyd and the providers
    routes.py      which path leads to which provider
    lean.py        what the lean profile adds to them
    listener.py    what clients reach, and what their requests pass
    bootstrap.py   the whole, as plain dicts and as YAML

`envoy/envoy.yaml` has the same shape, written by hand for a deployment.
"""

from policyd.envoy_config.bootstrap import build_bootstrap, to_yaml
from policyd.envoy_config.settings import EnvoySettings, PolicydTls, Profile
from policyd.envoy_config.upstreams import DEFAULT_UPSTREAMS, Upstream, parse_upstreams

__all__ = [
    "DEFAULT_UPSTREAMS",
    "EnvoySettings",
    "PolicydTls",
    "Profile",
    "Upstream",
    "build_bootstrap",
    "parse_upstreams",
    "to_yaml",
]

"""Envoy's bootstrap, whole. Why each value is what it is stands in envoy/envoy.yaml, line by line."""

from collections.abc import Sequence
from typing import Final

import yaml

from policyd.config import Address
from policyd.envoy_config.addresses import socket_address
from policyd.envoy_config.clusters import policyd_cluster, provider_clusters
from policyd.envoy_config.lean import check_lean
from policyd.envoy_config.listener import listener
from policyd.envoy_config.settings import EnvoySettings, Profile
from policyd.envoy_config.typed import Json, typed

CONNECTIONS_MAX: Final = 10_000
"""How many clients may be connected."""


def build_bootstrap(settings: EnvoySettings, *, policyd_addresses: Sequence[Address]) -> Json:
    """The bootstrap as plain dicts and lists, ready for JSON or YAML.

    `policyd_addresses` are where policyd's workers serve ext_proc, one each. Raises `ConfigError` where an upstream
    speaks TLS and this machine's CA certificates are not found, and where the policy does not go with the profile.
    """
    if settings.profile is Profile.LEAN:
        check_lean(settings.policy)
    return {
        "admin": {"address": socket_address(settings.admin_address)},
        "overload_manager": {"resource_monitors": [_connection_limit()]},
        "static_resources": {
            "listeners": [listener(settings)],
            "clusters": [
                policyd_cluster(policyd_addresses, settings.policyd_tls),
                *(
                    cluster
                    for name, upstream in settings.upstreams.items()
                    for cluster in provider_clusters(name, upstream, buffer_bytes_max=settings.buffer_bytes_max)
                ),
            ],
        },
    }


def to_yaml(bootstrap: Json) -> str:
    return yaml.safe_dump(bootstrap, sort_keys=False, width=120)


def _connection_limit() -> Json:
    message = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": typed(message, max_active_downstream_connections=CONNECTIONS_MAX),
    }

"""What Envoy reaches: policyd and the providers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from policyd.config import Address, HostPort, UnixSocket
from policyd.core.errors import ConfigError
from policyd.envoy_config.addresses import is_ip, on_this_machine, socket_address
from policyd.envoy_config.settings import PolicydTls
from policyd.envoy_config.typed import Json, typed
from policyd.envoy_config.upstreams import Upstream

POLICYD_CLUSTER: Final = "policyd"

OPEN_EXCHANGES_MAX: Final = 65_536
"""How many exchanges may be open at once, towards policyd and towards each provider."""

SESSION_UPSTREAMS: Final = ("openai", "azure", "x-ai", "google")
"""The providers with sessions over WebSocket that policyd can meter: nowhere else does Envoy allow the upgrade."""

CA_PATHS: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # RHEL 10
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",
)
"""Where systems keep the certificates that they trust."""


def policyd_cluster(addresses: Sequence[Address], tls: PolicydTls | None) -> Json:
    """`addresses`: of policyd's workers, one each.

    Envoy checks no worker's health and casts none out: one that is gone refuses at once, and the next is asked; one
    that hangs is replaced by its supervisor, and is given little meanwhile, for what it was given stays open.
    """
    return {
        "name": POLICYD_CLUSTER,
        **_reaching(POLICYD_CLUSTER, *map(on_this_machine, addresses), dns="STRICT_DNS"),
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "1s",
        "circuit_breakers": _circuit_breakers("max_retries"),
        **_http_protocol_options(
            explicit_http_config={"http2_protocol_options": {"max_concurrent_streams": OPEN_EXCHANGES_MAX}}
        ),
        **(_policyd_tls(tls, addresses[0]) if tls is not None else {}),
    }


def _policyd_tls(tls: PolicydTls, address: Address) -> Json:
    """A worker is on the same host as the others. A Unix socket needs no TLS."""
    reached = on_this_machine(address)
    if isinstance(reached, UnixSocket):
        return {}
    host = reached.host
    kind = "IP_ADDRESS" if is_ip(host) else "DNS"
    common: Json = {
        "alpn_protocols": ["h2"],
        "validation_context": {
            "trusted_ca": {"filename": str(tls.ca)},
            "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": host}}],
        },
    }
    if tls.cert is not None:
        files = {"certificate_chain": tls.cert, "private_key": tls.key}
        common["tls_certificates"] = [{name: {"filename": str(file)} for name, file in files.items()}]
    return {
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                **({} if is_ip(host) else {"sni": host}),
                common_tls_context=common,
            ),
        },
    }


def provider_clusters(name: str, upstream: Upstream, *, buffer_bytes_max: int) -> list[Json]:
    """Raises `ConfigError` where the upstream speaks TLS and this machine's CA certificates are not found."""
    reaching = _provider_cluster(name, upstream, buffer_bytes_max=buffer_bytes_max)
    sessions = websocket_cluster(name, upstream)
    if sessions == name or name not in SESSION_UPSTREAMS:
        return [reaching]
    # Providers take WebSockets over HTTP/1.1 alone.
    return [reaching, {**reaching, "name": sessions, **_over_tls(explicit_http_config={"http_protocol_options": {}})}]


def websocket_cluster(name: str, upstream: Upstream) -> str:
    """The cluster by which WebSockets reach a provider: its own where that one may speak HTTP/2."""
    return f"{name}:websocket" if upstream.tls else name


def _provider_cluster(name: str, upstream: Upstream, *, buffer_bytes_max: int) -> Json:
    return {
        "name": name,
        **_reaching(name, HostPort(upstream.host, upstream.port), dns="LOGICAL_DNS"),
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": buffer_bytes_max,
        "circuit_breakers": _circuit_breakers(),
        **(_over_tls(auto_config={"http2_protocol_options": {}}) if upstream.tls else _in_clear()),
    }


def find_ca_path() -> Path:
    """The file of certificates that this machine trusts: `SSL_CERT_FILE`, or where its system keeps them.

    Raises `ConfigError` if there is none.
    """
    given = os.environ.get("SSL_CERT_FILE")
    for path in map(Path, [given] if given else CA_PATHS):
        if path.is_file():
            return path
    raise ConfigError(
        f'SSL_CERT_FILE: found "{given}", expected a file of CA certificates'
        if given
        else "no CA certificates were found, and an https:// upstream needs them: install the package ca-certificates, "
        "or set SSL_CERT_FILE to a file of them"
    )


def _reaching(cluster: str, *addresses: Address, dns: str) -> Json:
    """The members of a cluster that say where it is. `dns`: how a name is resolved."""
    discovery: Json = {"type": "STATIC"}
    if any(isinstance(address, HostPort) and not is_ip(address.host) for address in addresses):
        discovery = {"type": dns, "dns_lookup_family": "V4_PREFERRED", "wait_for_warm_on_init": False}
    return {
        **discovery,
        "load_assignment": {
            "cluster_name": cluster,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _endpoint(address)}} for address in addresses]}],
        },
    }


def _endpoint(address: Address) -> Json:
    return {"pipe": {"path": str(address.path)}} if isinstance(address, UnixSocket) else socket_address(address)


def _circuit_breakers(*more: str) -> Json:
    limits = ("max_connections", "max_pending_requests", "max_requests", *more)
    return {"thresholds": [dict.fromkeys(limits, OPEN_EXCHANGES_MAX)]}


def _over_tls(**protocol: Json) -> Json:
    """`protocol`: which HTTP is spoken."""
    return {
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                common_tls_context={"validation_context": {"trusted_ca": {"filename": str(find_ca_path())}}},
            ),
        },
        **_http_protocol_options(
            common_http_protocol_options={"idle_timeout": "60s"},
            upstream_http_protocol_options={"auto_sni": True, "auto_san_validation": True},
            **protocol,
        ),
    }


def _in_clear() -> Json:
    return _http_protocol_options(
        common_http_protocol_options={"idle_timeout": "60s"},
        explicit_http_config={"http_protocol_options": {}},
    )


def _http_protocol_options(**options: Json) -> Json:
    message = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {"typed_extension_protocol_options": {message: typed(message, **options)}}

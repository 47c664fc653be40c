"""What clients reach: the listener, and what a request passes on its way through it."""

from typing import Final

from policyd.core.api_keys import KEY_HEADERS, PROTOCOL_HEADER
from policyd.core.attributes import Place
from policyd.core.policy import Policy
from policyd.envoy_config import lean
from policyd.envoy_config.addresses import socket_address
from policyd.envoy_config.clusters import POLICYD_CLUSTER
from policyd.envoy_config.routes import routes
from policyd.envoy_config.settings import EnvoySettings, Profile
from policyd.envoy_config.typed import EXT_PROC, Json, typed
from policyd.ext_proc.reply_encoding import HOLD_NAMESPACE

STAT_PREFIX: Final = "policyd"
"""What Envoy's statistics of requests are named by: `http.policyd.*`."""

CREDENTIAL_HEADERS: Final = (
    "authorization",
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "x-project-key",
    "x-amz-security-token",
    "ocp-apim-subscription-key",
    "sec-websocket-protocol",  # where browsers put OpenAI's key
    "cookie",
    "set-cookie",
)
"""Headers that Envoy does not show to policyd, neither of requests nor of replies, unless the policy asks for them."""

ENVOY_VERSION_ATTRIBUTE: Final = "xds.node.user_agent_build_version.version.minor_number"
"""Which Envoy it is: WebSocket handshakes need another treatment before 1.40."""

JWT_AUTHN: Final = "envoy.filters.http.jwt_authn"
"""The dynamic metadata in which Envoy's filter of that name puts the claims of a token."""

NETWORK_HEADERS: Final = ("x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address")
"""Headers that would tell a provider about the network behind Envoy."""


def listener(settings: EnvoySettings) -> Json:
    return {
        "name": "policyd",
        "address": socket_address(settings.listen_address),
        "per_connection_buffer_limit_bytes": settings.buffer_bytes_max,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _http_connection_manager(settings),
                    }
                ]
            }
        ],
    }


def _http_connection_manager(settings: EnvoySettings) -> Json:
    return typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=STAT_PREFIX,
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        server_header_transformation="PASS_THROUGH",
        request_headers_timeout="30s",
        request_timeout="300s",
        stream_idle_timeout="3600s",
        **({"access_log": logs} if (logs := _access_logs(settings)) else {}),
        route_config={
            "name": "providers",
            "request_headers_to_remove": list(NETWORK_HEADERS),
            "virtual_hosts": [{"name": "providers", "domains": ["*"], "routes": _routes(settings)}],
        },
        http_filters=[
            {"name": EXT_PROC, "typed_config": _ext_proc(settings.policy, profile=settings.profile)},
            *(lean.filters(buffer_bytes_max=settings.buffer_bytes_max) if settings.profile is Profile.LEAN else ()),
            {
                "name": "envoy.filters.http.router",
                "typed_config": typed(
                    "envoy.extensions.filters.http.router.v3.Router",
                    suppress_envoy_headers=True,
                ),
            },
        ],
    )


def _routes(settings: EnvoySettings) -> list[Json]:
    """The route table, in order."""
    table = routes(settings.upstreams)
    if settings.profile is Profile.DEFAULT:
        return table
    both: list[Json] = []
    for route in table:
        if lean.may_be_lean(route):
            leaner = lean.lean_route(route, policy=settings.policy, header_prefix=settings.header_prefix)
            both += [leaner] if leaner is not None else []
        both.append(lean.switched_off(route))
    return both


def _access_logs(settings: EnvoySettings) -> list[Json]:
    logs = [lean.access_log()] if settings.profile is Profile.LEAN else []
    return [*logs, _access_log()] if settings.access_log else logs


def _ext_proc(policy: Policy, *, profile: Profile) -> Json:
    identity = policy.identity
    shown = {"cookie"} if identity.reads(Place.COOKIE) else set()
    if policy.reads_credentials:
        shown.update((*KEY_HEADERS, PROTOCOL_HEADER))
    hidden = [header for header in CREDENTIAL_HEADERS if header not in shown]
    metadata = {"forwarding_namespaces": {"untyped": [JWT_AUTHN]}} if identity.reads(Place.CLAIM) else {}
    attributes = [ENVOY_VERSION_ATTRIBUTE, *identity.envoy_attributes]
    if profile is Profile.LEAN:
        metadata["receiving_namespaces"] = {"untyped": [HOLD_NAMESPACE]}
        attributes += lean.request_attributes(policy)
    return typed(
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": POLICYD_CLUSTER}, "retry_policy": _retry_policy()},
        failure_mode_allow=False,
        message_timeout="2s",
        request_attributes=attributes,
        **({"metadata_options": metadata} if metadata else {}),
        allow_mode_override=True,
        route_cache_action="RETAIN",
        processing_mode={
            "request_header_mode": "SEND",
            "request_body_mode": "BUFFERED",
            "response_header_mode": "SEND",
            "response_body_mode": "STREAMED",
            "request_trailer_mode": "SKIP",
            "response_trailer_mode": "SKIP",
        },
        forward_rules={"disallowed_headers": {"patterns": [{"exact": header} for header in hidden]}},
    )


def _retry_policy() -> Json:
    """For streams that no worker has answered at all; a hold is taken after the first answer."""
    return {
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_on": "connect-failure,refused-stream,reset,cancelled,unavailable",
        "num_retries": 3,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
            }
        ],
        "host_selection_retry_max_attempts": 100,
    }


def _access_log() -> Json:
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": typed(
            "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            log_format={
                "json_format": {
                    "timestamp": "%START_TIME%",
                    "event": "access",
                    "method": "%REQ(:METHOD)%",
                    "path": "%PATH(NQ)%",
                    "route": "%ROUTE_NAME%",
                    "status": "%RESPONSE_CODE%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "request_bytes": "%BYTES_RECEIVED%",
                    "response_bytes": "%BYTES_SENT%",
                    "duration_ms": "%DURATION%",
                }
            },
        ),
    }

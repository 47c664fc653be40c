"""What the lean profile adds: policyd is asked once, and Envoy itself reads what a reply used and logs it to policyd.

For each route to a provider there is a lean one before it, for the requests that can be metered so: a POST to an
endpoint whose replies tell all that they cost in single members, with a body of a given length, whose headers policy
need not change. Every other request takes the route of the default profile. The lean filters stand in the listener for
all, so those routes switch them off.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from policyd.access_log.entry import REPLY_NAMESPACE
from policyd.core.api_keys import CREDENTIAL_HEADERS, KEY_HEADERS
from policyd.core.attributes import Place
from policyd.core.errors import ConfigError
from policyd.core.policy import ApiKeys, Policy, ProviderKeys
from policyd.envoy_config.clusters import POLICYD_CLUSTER
from policyd.envoy_config.settings import EnvoySettings, Profile
from policyd.envoy_config.typed import EXT_PROC, Json, typed
from policyd.ext_proc.codec import PSEUDO_HEADER_ATTRIBUTES, header_attribute
from policyd.ext_proc.headers import DECISION_HEADERS
from policyd.ext_proc.lean import HOLD_MARK
from policyd.ext_proc.reply_encoding import HOLD_NAMESPACE
from policyd.providers.anthropic.messages import LISTING_BETAS
from policyd.providers.registry import every_leaf, leaf_tails

FLUSH_SECONDS: Final = 0.2
"""How long Envoy collects entries of its access log."""

EVENT_BYTES_MAX: Final = 65_536
"""The largest event of a stream that Envoy reads. One that is larger passes unread."""

_BUFFER = "envoy.filters.http.buffer"
_JSON_TO_METADATA = "envoy.filters.http.json_to_metadata"
_SSE_TO_METADATA = "envoy.filters.http.sse_to_metadata"

LOG_RETRIES: Final = 1_000
"""How often Envoy tries to reach policyd with what it has logged: for minutes."""


def logs_within_seconds(settings: EnvoySettings) -> float:
    """How long after a request's end Envoy tells policyd of it at the latest, while both are well."""
    return 2 * FLUSH_SECONDS if settings.profile is Profile.LEAN else 0


def check_lean(policy: Policy) -> None:
    """Raises `ConfigError` for a policy by which each request's headers would have to be changed in its own way."""
    if policy.api_keys is ApiKeys.OPTIONAL:
        raise ConfigError(
            "--profile lean: found api_keys: optional in the policy, expected required or off: whether a key is "
            "policyd's, and so to be taken out, Envoy cannot tell"
        )
    if policy.provider_keys is ProviderKeys.ALL:
        raise ConfigError(
            "--profile lean: found provider_keys: all in the policy, expected a key that Envoy adds: policyd cannot "
            "change a request's headers"
        )


def filters(*, buffer_bytes_max: int) -> list[Json]:
    """What stands behind ext_proc. Without the buffer a request's headers would leave before the decision."""
    leaves = every_leaf()
    document = {"rules": [_rule(path) for path in leaves.document]}
    content_parser = {
        "name": "envoy.content_parsers.json",
        "typed_config": typed(
            "envoy.extensions.content_parsers.json.v3.JsonContentParser",
            rules=[{"rule": _rule(path)} for path in leaves.events],
        ),
    }
    return [
        {
            "name": _BUFFER,
            "typed_config": typed("envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes=buffer_bytes_max),
        },
        {
            "name": _JSON_TO_METADATA,
            "typed_config": typed(
                "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata", response_rules=document
            ),
        },
        {
            "name": _SSE_TO_METADATA,
            "typed_config": typed(
                "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata",
                response_rules={"content_parser": content_parser, "max_event_size": EVENT_BYTES_MAX},
            ),
        },
    ]


def switched_off(route: Json) -> Json:
    """`route` without the lean filters."""
    off = {name: typed("envoy.config.route.v3.FilterConfig", disabled=True) for name in _LEAN_FILTERS}
    return {**route, "typed_per_filter_config": {**route["typed_per_filter_config"], **off}}


_LEAN_FILTERS = (_BUFFER, _JSON_TO_METADATA, _SSE_TO_METADATA)


def may_be_lean(route: Json) -> bool:
    """Whether a route leads to a provider, and not to its sessions over WebSocket."""
    return "route" in route and "upgrade_configs" not in route["route"]


def lean_route(route: Json, *, policy: Policy, header_prefix: str) -> Json | None:
    """`route`, which leads to the provider that it is named after, for those requests that can be metered so.

    `None` where there are none.
    """
    tails = leaf_tails(route["name"])
    if not tails:
        return None
    match = route["match"]
    overrides = route["typed_per_filter_config"][EXT_PROC]["overrides"]
    return {
        **route,
        "match": {**match, "headers": [*match.get("headers", ()), *_conditions(tails, policy)]},
        "request_headers_to_remove": _headers_to_remove(policy),
        # A compressed reply could not be read.
        "request_headers_to_add": [_header("accept-encoding", "identity")],
        "response_headers_to_add": [
            _header(name, f"%DYNAMIC_METADATA({HOLD_NAMESPACE}:{name})%")
            for name in (f"{header_prefix}{each}" for each in DECISION_HEADERS)
        ],
        "typed_per_filter_config": {
            EXT_PROC: typed(
                "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
                overrides={**overrides, "processing_mode": _PROCESSING_MODE},
            )
        },
    }


_PROCESSING_MODE: Json = {
    "request_header_mode": "SKIP",
    "request_body_mode": "BUFFERED",
    "response_header_mode": "SKIP",
    "response_body_mode": "NONE",
    "request_trailer_mode": "SKIP",
    "response_trailer_mode": "SKIP",
}


def request_attributes(policy: Policy) -> list[str]:
    """What Envoy tells with the body, in place of the headers."""
    identity = policy.identity
    names = [source.name for sources in identity.sources.values() for source in sources if source.place is Place.HEADER]
    if policy.api_keys is ApiKeys.REQUIRED:
        names += KEY_HEADERS
    pseudo = (PSEUDO_HEADER_ATTRIBUTES[name] for name in (":path", ":method"))
    return [*pseudo, *map(header_attribute, dict.fromkeys(names))]


def access_log() -> Json:
    """Tells policyd of each request that it has granted on a lean route."""
    granted = {
        "matcher": {
            "filter": HOLD_NAMESPACE,
            "path": [{"key": HOLD_MARK}],
            "value": {"present_match": True},
        },
        "match_if_key_not_found": False,
    }
    return {
        "name": "envoy.access_loggers.http_grpc",
        "filter": {"metadata_filter": granted},
        "typed_config": typed(
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            common_config={
                "log_name": "policyd",
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": POLICYD_CLUSTER}},
                "buffer_flush_interval": f"{FLUSH_SECONDS}s",
                "grpc_stream_retry_policy": {
                    "retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"},
                    # A stream that breaks is sent again from its beginning: entries may come twice.
                    "retry_on": "connect-failure,refused-stream,reset,cancelled,unavailable",
                    "num_retries": LOG_RETRIES,
                },
            },
        ),
    }


def _rule(path: str) -> Json:
    return {
        "selectors": [{"key": name} for name in path.split(".")],
        "on_present": {"metadata_namespace": REPLY_NAMESPACE, "key": path, "type": "PROTOBUF_VALUE"},
    }


def _conditions(tails: Iterable[str], policy: Policy) -> list[Json]:
    """What a request's headers have to be. Its path has no query: identity may stand in one."""
    cookie = ("cookie",) if policy.identity.reads(Place.COOKIE) else ()
    return [
        {"name": ":method", "string_match": {"exact": "POST"}},
        {"name": ":path", "string_match": {"safe_regex": {"regex": f"[^?]*(?:{'|'.join(tails)})"}}},
        # A request without a body would not be shown to policyd.
        {"name": "content-length", "string_match": {"safe_regex": {"regex": "[1-9][0-9]*"}}},
        *({"name": name, "present_match": True, "invert_match": True} for name in (*_NEVER_LEAN, *cookie)),
        {
            "name": "anthropic-beta",
            "string_match": {"safe_regex": {"regex": f".*({'|'.join(LISTING_BETAS)}).*"}},
            "invert_match": True,
            "treat_missing_header_as_empty": True,
        },
    ]


_NEVER_LEAN = ("upgrade", "content-encoding")
"""Headers of requests that policyd has an answer of its own to."""


def _headers_to_remove(policy: Policy) -> list[str]:
    """What nobody but policyd is to see; elsewhere policyd removes it itself."""
    credentials: Sequence[str] = ()
    if policy.api_keys is ApiKeys.REQUIRED:
        credentials = CREDENTIAL_HEADERS
    return _unique((*policy.identity.strip.headers, *credentials))


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}

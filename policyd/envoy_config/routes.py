"""Which path leads to which provider.

    /NAME/...     upstream NAME, with the prefix taken off
    bare paths    the providers whose SDKs use them, as `_BARE_PATHS` says
    all else      404

At the paths of sessions (OpenAI Realtime, Gemini Live), and nowhere else, a connection may become a WebSocket.

Every route to a provider tells policyd which one it is, as metadata of the gRPC stream: what a client sends in its
headers does not get there. A path whose provider is not configured is answered by Envoy, so that a request for one
provider never reaches another.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Final

from policyd.envoy_config.clusters import SESSION_UPSTREAMS, websocket_cluster
from policyd.envoy_config.typed import EXT_PROC, Json, typed
from policyd.envoy_config.upstreams import Upstream

PROVIDER_METADATA: Final = "x-policyd-provider"
"""The key of the gRPC stream's metadata that names the provider."""

SESSION_PATH: Final = r"[^?]*(/realtime|/ws/google\.[A-Za-z0-9.]+[./]BidiGenerateContent(Constrained)?)(\?.*)?"
"""The paths at which a connection may become a WebSocket: OpenAI Realtime's and Gemini Live's. policyd meters these."""

_SESSION: Json = {"headers": [{"name": ":path", "string_match": {"safe_regex": {"regex": SESSION_PATH}}}]}

_ANTHROPIC_SDK: Json = {"headers": [{"name": "anthropic-version", "present_match": True}]}
_GOOGLE_KEY: Json = {"headers": [{"name": "x-goog-api-key", "present_match": True}]}

_GOOGLE_ALONE = ("cachedContents", "interactions", "projects", "publishers", "tunedModels")
"""What only Google has under /v1/."""

# In order: the first match counts. `path_separated_prefix` takes a path and what is below it: /v1/messages and
# /v1/messages/batches, but not /v1/messages2.
_BARE_PATHS: tuple[tuple[Json, str], ...] = (
    ({"path_separated_prefix": "/v1/messages"}, "anthropic"),
    ({"path_separated_prefix": "/v1/complete"}, "anthropic"),
    # What Gemini does with a model stands behind a colon. OpenAI's fine-tuned models have colons too, but no such end.
    ({"safe_regex": {"regex": "/v1/models/[^/]+:[A-Za-z]+(?:Contents?|Tokens)"}}, "google"),
    *(({"path_separated_prefix": f"/v1/{name}"}, "google") for name in _GOOGLE_ALONE),
    # Paths that several have. Anthropic asks for its header on each of its own, and Google's SDKs send their key in a
    # header that nobody else reads.
    ({"prefix": "/v1/", **_ANTHROPIC_SDK}, "anthropic"),
    *(({"path_separated_prefix": f"/v1/{name}", **_GOOGLE_KEY}, "google") for name in ("models", "files", "batches")),
    ({"prefix": "/v1/"}, "openai"),
    *(({"prefix": f"/{version}/"}, "google") for version in ("v1beta", "v1alpha", "v1beta1", "upload")),
    # Bedrock. A signature covers host and path: a client that signs cannot ask for /aws/model/...
    ({"prefix": "/model/"}, "aws"),
)

_BARE_SESSION_PATHS: tuple[tuple[Json, str], ...] = (
    ({"prefix": "/v1/", **_SESSION}, "openai"),
    ({"prefix": "/ws/", **_SESSION}, "google"),
)


def routes(upstreams: Mapping[str, Upstream]) -> list[Json]:
    """The route table, in order."""
    return [*_named(upstreams), *_bare(upstreams), _not_found({"prefix": "/"}, "no upstream serves this path")]


def _named(upstreams: Mapping[str, Upstream]) -> Iterator[Json]:
    for name, upstream in upstreams.items():
        match, rewrite = {"prefix": f"/{name}/"}, {"prefix_rewrite": f"{upstream.base_path}/"}
        if name in SESSION_UPSTREAMS:
            yield _to_sessions(_to_provider({**match, **_SESSION}, name, upstream, rewrite=rewrite), upstream)
        yield _to_provider(match, name, upstream, rewrite=rewrite)


def _bare(upstreams: Mapping[str, Upstream]) -> Iterator[Json]:
    for match, name in _BARE_SESSION_PATHS:
        if upstream := upstreams.get(name):
            rewrite = _put_before(upstream.base_path)
            yield _to_sessions(_to_provider(match, name, upstream, rewrite=rewrite), upstream)
    for match, name in _BARE_PATHS:
        upstream = upstreams.get(name)
        if upstream is None:
            yield _not_found(match, f"this path belongs to the upstream {name}, which is not configured")
        else:
            yield _to_provider(match, name, upstream, rewrite=_put_before(upstream.base_path))


def _put_before(base_path: str) -> Json:
    """The member of a route's action that puts `base_path` before the whole path."""
    return {"regex_rewrite": {"pattern": {"regex": "^"}, "substitution": base_path}} if base_path else {}


def _to_provider(match: Json, name: str, upstream: Upstream, *, rewrite: Json) -> Json:
    return {
        "match": match,
        "name": name,
        "route": {
            "cluster": name,
            **rewrite,
            "host_rewrite_literal": upstream.authority,
            "timeout": "0s",
        },
        "typed_per_filter_config": {
            EXT_PROC: typed(
                "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
                overrides={"grpc_initial_metadata": [{"key": PROVIDER_METADATA, "value": name}]},
            )
        },
    }


def _to_sessions(route: Json, upstream: Upstream) -> Json:
    """`route` for connections that become WebSockets; they may be silent for as long as they are open."""
    cluster = websocket_cluster(route["name"], upstream)
    action = {**route["route"], "cluster": cluster, "upgrade_configs": [{"upgrade_type": "websocket"}]}
    return {**route, "route": {**action, "idle_timeout": "0s"}}


def _not_found(match: Json, message: str) -> Json:
    """Envoy answers, in a form that both the OpenAI and the Anthropic SDK read."""
    error = {"message": message, "type": "not_found_error", "param": None, "code": "route_not_found"}
    return {
        "match": match,
        "name": "not-found",
        "direct_response": {"status": 404, "body": {"inline_string": json.dumps({"type": "error", "error": error})}},
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": "application/json"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        # Nothing is sent anywhere, so there is nothing to decide.
        "typed_per_filter_config": {
            EXT_PROC: typed("envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", disabled=True)
        },
    }

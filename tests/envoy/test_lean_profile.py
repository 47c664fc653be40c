"""Envoy's configuration for the lean profile: what Envoy says of it, and which requests take which route."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from policyd.config import HostPort
from policyd.config.policy_file import parse_policy
from policyd.core.errors import ConfigError
from policyd.core.policy import Policy
from policyd.envoy_config import EnvoySettings, Profile, build_bootstrap, parse_upstreams, to_yaml
from policyd.envoy_config.lean import EVENT_BYTES_MAX
from policyd.envoy_config.typed import EXT_PROC
from policyd.providers.leaves import FACTS_BYTES_MAX
from tests.e2e.envoy_version import READS_STREAMS
from tests.envoy.test_configuration import complaints

LEAN = EnvoySettings(profile=Profile.LEAN, upstreams=parse_upstreams(["openai=http://127.0.0.1:1"]))
POLICYD = HostPort("127.0.0.1", 50052)

LEAN_FILTERS = [
    "envoy.filters.http.buffer",
    "envoy.filters.http.json_to_metadata",
    "envoy.filters.http.sse_to_metadata",
]


def policy(text: str) -> Policy:
    return parse_policy(f"version: 1\nlimits: []\n{text}", source="policyd.yaml")


def connection_manager(settings: EnvoySettings) -> dict[str, Any]:
    bootstrap = build_bootstrap(settings, policyd_addresses=[POLICYD])
    config: dict[str, Any] = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    manager: dict[str, Any] = config["typed_config"]
    return manager


def routes(settings: EnvoySettings) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = connection_manager(settings)["route_config"]["virtual_hosts"][0]["routes"]
    return found


def is_lean(route: Mapping[str, Any]) -> bool:
    return "processing_mode" in route["typed_per_filter_config"][EXT_PROC].get("overrides", {})


@READS_STREAMS
@pytest.mark.parametrize(
    "upstreams",
    [
        ["openai=http://127.0.0.1:1", "anthropic=http://127.0.0.1:2", "mistral=http://127.0.0.1:3"],
        ["azure=http://127.0.0.1:1", "aws=http://127.0.0.1:2", "google=http://127.0.0.1:3"],
        ["our-own-models=http://127.0.0.1:1", "cohere=http://127.0.0.1:2", "ollama=http://127.0.0.1:3"],
    ],
)
def test_envoy_accepts_it(upstreams: list[str], tmp_path: Path) -> None:
    settings = replace(LEAN, upstreams=parse_upstreams(upstreams))
    said = complaints(to_yaml(build_bootstrap(settings, policyd_addresses=[POLICYD])), tmp_path)
    assert [line for line in said.splitlines() if "work-in-progress" not in line] == []


def test_the_filters_stand_in_their_order() -> None:
    names = [each["name"] for each in connection_manager(LEAN)["http_filters"]]
    assert names == [EXT_PROC, *LEAN_FILTERS, "envoy.filters.http.router"]


def test_every_route_that_is_not_lean_switches_the_filters_off() -> None:
    table = routes(LEAN)
    assert any(is_lean(route) for route in table)
    for route in table:
        switched_off = [name for name in LEAN_FILTERS if route["typed_per_filter_config"].get(name, {}).get("disabled")]
        assert switched_off == ([] if is_lean(route) else LEAN_FILTERS)


def test_each_lean_route_stands_before_the_one_that_it_is_taken_from() -> None:
    table = routes(LEAN)
    plain = routes(replace(LEAN, profile=Profile.DEFAULT))
    assert [route["match"] for route in table if not is_lean(route)] == [route["match"] for route in plain]
    for lean, following in pairwise(table):
        if is_lean(lean):
            assert lean["route"] == following["route"]
            assert following["match"].items() <= {**lean["match"], "headers": following["match"].get("headers")}.items()


def test_sessions_and_providers_that_list_what_they_charge_have_no_lean_route() -> None:
    settings = replace(LEAN, upstreams=parse_upstreams(["google=http://127.0.0.1:1", "aws=http://127.0.0.1:2"]))
    assert not any(is_lean(route) for route in routes(settings))
    for route in routes(LEAN):
        assert not (is_lean(route) and "upgrade_configs" in route["route"])


def test_identity_is_told_and_taken_out() -> None:
    sources = "identity: {user: [{header: x-user}], team: [{header: x-team, strip: false}, {query: team}]}"
    settings = replace(LEAN, policy=policy(sources))
    told = connection_manager(settings)["http_filters"][0]["typed_config"]["request_attributes"]
    assert {"request.path", "request.method", "request.headers['x-user']", "request.headers['x-team']"} <= set(told)
    for route in filter(is_lean, routes(settings)):
        assert route["request_headers_to_remove"] == ["x-user"]


def test_required_keys_are_told_and_no_credential_goes_upstream() -> None:
    settings = replace(LEAN, policy=policy("api_keys: required"))
    told = connection_manager(settings)["http_filters"][0]["typed_config"]["request_attributes"]
    assert "request.headers['authorization']" in told
    for route in filter(is_lean, routes(settings)):
        assert {"authorization", "x-api-key", "ocp-apim-subscription-key"} <= set(route["request_headers_to_remove"])


def test_cookies_take_the_other_route() -> None:
    settings = replace(LEAN, policy=policy("identity: {user: [{cookie: user}]}"))
    for route in filter(is_lean, routes(settings)):
        absent = {"name": "cookie", "present_match": True, "invert_match": True}
        assert absent in route["match"]["headers"]


@pytest.mark.parametrize("text", ["api_keys: optional", "provider_keys: all"])
def test_a_policy_that_changes_each_requests_headers_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--profile lean: found " + text.partition(" ")[0]):
        build_bootstrap(replace(LEAN, policy=policy(text)), policyd_addresses=[POLICYD])


def test_the_log_is_of_what_was_granted_alone() -> None:
    (log,) = connection_manager(LEAN)["access_log"]
    assert log["filter"]["metadata_filter"]["match_if_key_not_found"] is False
    both = connection_manager(replace(LEAN, access_log=True))["access_log"]
    assert [each["name"] for each in both] == ["envoy.access_loggers.http_grpc", "envoy.access_loggers.stdout"]


def test_nothing_is_different_by_default() -> None:
    manager = connection_manager(replace(LEAN, profile=Profile.DEFAULT))
    assert "access_log" not in manager
    assert [each["name"] for each in manager["http_filters"]] == [EXT_PROC, "envoy.filters.http.router"]


def test_what_envoy_reads_policyd_takes() -> None:
    assert FACTS_BYTES_MAX >= EVENT_BYTES_MAX


@pytest.mark.parametrize(("given", "profile"), [({}, Profile.DEFAULT), ({"POLICYD_PROFILE": "lean"}, Profile.LEAN)])
def test_the_profile_is_a_setting(given: Mapping[str, str], profile: Profile) -> None:
    assert EnvoySettings.from_environment(given, {}).profile is profile
    assert EnvoySettings.from_environment(given, {"profile": "lean"}).profile is Profile.LEAN


def test_another_word_is_none() -> None:
    with pytest.raises(ConfigError, match='--profile: found "fat", expected default or lean'):
        EnvoySettings.from_environment({}, {"profile": "fat"})

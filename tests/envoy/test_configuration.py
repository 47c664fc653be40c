"""The generated bootstrap, envoy/envoy.yaml and the examples of envoy/README.md."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from policyd.config import HostPort, UnixSocket, load_policy
from policyd.config.settings import Address
from policyd.core.errors import ConfigError
from policyd.envoy_config import DEFAULT_UPSTREAMS, EnvoySettings, PolicydTls, build_bootstrap, parse_upstreams, to_yaml
from policyd.up import find_envoy
from tests.envoy.rig import CA, ENVOY_FOLDER, loopback, readme_examples

ENVOY_YAML = ENVOY_FOLDER / "envoy.yaml"

EVERY_KEY = Path(__file__).parents[1] / "config/good/every_key.yaml"

POLICYD = HostPort("127.0.0.1", 50052)


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without CA certificates can run these tests too."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CA))


def envoy_yaml() -> str:
    return ENVOY_YAML.read_text().replace("/etc/ssl/certs/ca-certificates.crt", str(CA))


def complaints(config: str, folder: Path) -> str:
    """What Envoy says of a configuration, its warnings too; empty if it is content."""
    file = folder / "envoy.yaml"
    file.write_text(config)
    done = subprocess.run(
        [find_envoy(), "--mode", "validate", "--config-path", file, "--log-level", "warning", "--disable-hot-restart"],
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    return done.stderr or done.stdout * (done.returncode != 0)


@pytest.mark.parametrize(
    "settings",
    [
        EnvoySettings(),
        EnvoySettings(access_log=True, buffer_bytes_max=2**20, listen_address=HostPort("::1", 0)),
        EnvoySettings(upstreams=parse_upstreams(["openai=http://[::1]:8080/base", "x-ai=https://localhost:8443"])),
        EnvoySettings(upstreams={}),
        EnvoySettings(policy=load_policy(EVERY_KEY)),
    ],
)
@pytest.mark.parametrize(
    "policyd_address", [POLICYD, HostPort("policyd", 50052), HostPort("::", 50052), UnixSocket(Path("policyd.sock"))]
)
def test_envoy_accepts_the_generated_bootstrap(
    settings: EnvoySettings, policyd_address: Address, tmp_path: Path
) -> None:
    bootstrap = build_bootstrap(settings, policyd_addresses=[policyd_address])
    assert complaints(to_yaml(bootstrap), tmp_path) == ""


def test_envoy_shows_what_the_policy_takes_identity_from() -> None:
    bootstrap = build_bootstrap(EnvoySettings(policy=load_policy(EVERY_KEY)), policyd_addresses=[POLICYD])
    shown = _connection_manager(bootstrap)["http_filters"][0]["typed_config"]
    assert {"source.address", "connection.uri_san_peer_certificate"} <= set(shown["request_attributes"])
    assert shown["metadata_options"] == {"forwarding_namespaces": {"untyped": ["envoy.filters.http.jwt_authn"]}}
    hidden = {pattern["exact"] for pattern in shown["forward_rules"]["disallowed_headers"]["patterns"]}
    assert hidden.isdisjoint({"cookie", "authorization", "x-api-key", "x-goog-api-key", "api-key", "x-project-key"})
    assert "set-cookie" in hidden


def test_envoy_accepts_envoy_yaml(tmp_path: Path) -> None:
    assert complaints(envoy_yaml(), tmp_path) == ""


def test_envoy_yaml_is_the_generated_bootstrap_with_reasons() -> None:
    settings = EnvoySettings(
        listen_address=HostPort("0.0.0.0", 10000),
        admin_address=HostPort("0.0.0.0", 9901),
        upstreams={name: DEFAULT_UPSTREAMS[name] for name in ("openai", "anthropic")},
    )
    generated = build_bootstrap(settings, policyd_addresses=[HostPort("policyd", 50052)])
    # The one thing that it leaves out: what to say of providers that it does not know.
    virtual_host = _connection_manager(generated)["route_config"]["virtual_hosts"][0]
    virtual_host["routes"] = [route for route in virtual_host["routes"] if "not configured" not in str(route)]
    assert yaml.safe_load(envoy_yaml()) == generated


def test_the_readmes_examples_are_those_of_envoy_yaml() -> None:
    whole = yaml.safe_load(ENVOY_YAML.read_text())
    cluster, ext_proc, route, session, *_ = readme_examples()
    routes = _connection_manager(whole)["route_config"]["virtual_hosts"][0]["routes"]
    assert cluster == whole["static_resources"]["clusters"][0]
    assert ext_proc == _connection_manager(whole)["http_filters"][0]
    assert [session, route] == routes[:2]


def test_the_readmes_tls_is_what_is_generated() -> None:
    *_, example, _ = readme_examples()
    tls = PolicydTls(Path("authority.pem"), Path("envoy.pem"), Path("envoy.key"))
    bootstrap = build_bootstrap(
        replace(loopback("openai=http://127.0.0.1:1"), policyd_tls=tls),
        policyd_addresses=[HostPort("policyd.internal", 50052)],
    )
    assert bootstrap["static_resources"]["clusters"][0]["transport_socket"] == example["transport_socket"]


def test_a_wildcard_is_reached_by_loopback() -> None:
    for served, reached in (("0.0.0.0", "127.0.0.1"), ("::", "::1")):
        cluster = build_bootstrap(EnvoySettings(), policyd_addresses=[HostPort(served, 1)])["static_resources"][
            "clusters"
        ][0]
        endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        assert endpoint["address"]["socket_address"] == {"address": reached, "port_value": 1}


def test_missing_ca_certificates_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with pytest.raises(ConfigError, match=r'^SSL_CERT_FILE: found "/no/such/file"'):
        build_bootstrap(EnvoySettings(), policyd_addresses=[POLICYD])
    # In clear there is nothing to trust.
    build_bootstrap(loopback("openai=http://127.0.0.1:1"), policyd_addresses=[POLICYD])


def _connection_manager(bootstrap: dict[str, Any]) -> dict[str, Any]:
    manager: dict[str, Any] = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    config: dict[str, Any] = manager["typed_config"]
    return config

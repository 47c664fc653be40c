from pathlib import Path

import pytest

from policyd.config import HostPort, Settings
from policyd.core.errors import ConfigError
from policyd.envoy_config import DEFAULT_UPSTREAMS, EnvoySettings, PolicydTls


def settings(
    environ: dict[str, str] | None = None,
    *,
    listen: str | None = None,
    admin: str | None = None,
    upstreams: list[str] | None = None,
) -> EnvoySettings:
    return EnvoySettings.from_environment(environ or {}, {"listen": listen, "admin": admin}, upstreams=upstreams)


def test_without_flags_and_variables_the_defaults_apply() -> None:
    assert settings({"POLICYD_LISTEN": ""}, upstreams=[]) == EnvoySettings()
    assert EnvoySettings().listen_address == HostPort("127.0.0.1", 10000)
    assert EnvoySettings().admin_address == HostPort("127.0.0.1", 9901)
    assert EnvoySettings().upstreams == DEFAULT_UPSTREAMS


def test_envoy_buffers_as_much_of_a_request_as_policyd_reads() -> None:
    assert EnvoySettings().buffer_bytes_max == Settings().request_body_bytes_max


def test_a_flag_comes_before_its_variable() -> None:
    environ = {"POLICYD_LISTEN": "127.0.0.1:1", "POLICYD_ADMIN": "127.0.0.1:2"}
    found = settings(environ, listen="0.0.0.0:3", upstreams=["openai=http://127.0.0.1:4"])
    assert found.listen_address == HostPort("0.0.0.0", 3)
    assert found.admin_address == HostPort("127.0.0.1", 2)
    assert list(found.upstreams) == ["openai"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", HostPort("127.0.0.1", 0)),
        ("localhost:8080", HostPort("127.0.0.1", 8080)),
        ("[::1]:8080", HostPort("::1", 8080)),
    ],
)
def test_an_address_to_listen_on(text: str, address: HostPort) -> None:
    assert settings(listen=text).listen_address == address


@pytest.mark.parametrize(
    "text", ["", "10000", ":10000", "127.0.0.1", "127.0.0.1:", "proxy:80", "127.0.0.1:65536", "::1:80", "a@127.0.0.1:1"]
)
def test_a_wrong_address_names_its_flag_or_variable(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--listen: found .* expected IP:PORT such as 127.0.0.1:10000"):
        settings(listen=text)
    if text:
        with pytest.raises(ConfigError, match=r"^POLICYD_ADMIN: found"):
            settings({"POLICYD_ADMIN": text})


SERVED = Settings(tls_cert_path=Path("a"), tls_key_path=Path("b"), tls_client_ca_path=Path("c"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, "--envoy-tls-ca: expected the authority"),
        ({"envoy_tls_ca": "a"}, "--envoy-tls-cert: expected a certificate for Envoy"),
        ({"envoy_tls_ca": "a", "envoy_tls_cert": "b"}, "--envoy-tls-cert, --envoy-tls-key: expected both or none"),
    ],
)
def test_envoy_has_what_policyd_asks_for(flags: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EnvoySettings.from_environment({}, flags, server=SERVED)


def test_envoy_reads_its_files_wherever_it_is_started() -> None:
    flags = {"envoy_tls_ca": "ca.pem", "envoy_tls_cert": "envoy.pem", "envoy_tls_key": "envoy.key"}
    here = Path.cwd()
    found = EnvoySettings.from_environment({}, flags, server=SERVED).policyd_tls
    assert found == PolicydTls(here / "ca.pem", here / "envoy.pem", here / "envoy.key")

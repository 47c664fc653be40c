import pytest

from policyd.config import HostPort, Settings
from policyd.core.errors import ConfigError
from policyd.envoy_config import DEFAULT_UPSTREAMS, EnvoySettings


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

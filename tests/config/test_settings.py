"""The process settings: defaults, flags before variables, and the message for each mistake."""

from pathlib import Path

import pytest

from policyd.config import Address, HostPort, Settings, Transport, UnixSocket, with_flags
from policyd.core.errors import ConfigError


def test_defaults() -> None:
    assert Settings.from_environment({}) == Settings(
        policy_path=None,
        prices_path=None,
        store_url="sqlite:///policyd.db",
        grpc_address=HostPort("127.0.0.1", 50051),
        ext_proc_address=HostPort("127.0.0.1", 50052),
        transport=Transport.H2RPC,
        workers=1,
        http_address=HostPort("127.0.0.1", 9464),
        header_prefix="x-policyd-",
        request_body_bytes_max=16_777_216,
        response_buffer_bytes_max=524_288,
        metric_attributes=(),
        shutdown_grace_seconds=30,
    )


EVERY_VARIABLE = {
    "POLICYD_CONFIG": "/etc/policyd/policyd.yaml",
    "POLICYD_PRICES": "/etc/policyd/prices.json",
    "POLICYD_STORE": "redis://:swordfish@redis:6379/0",
    "POLICYD_GRPC": "0.0.0.0:1",
    "POLICYD_EXT_PROC": "unix:/run/policyd.sock",
    "POLICYD_TRANSPORT": "grpcio",
    "POLICYD_HTTP": "[::]:2",
    "POLICYD_TLS_CERT": "/etc/policyd/tls.crt",
    "POLICYD_TLS_KEY": "/etc/policyd/tls.key",
    "POLICYD_TLS_CLIENT_CA": "/etc/policyd/ca.crt",
    "POLICYD_ACCESS_TOKENS": "/etc/policyd/tokens",
    "POLICYD_HEADER_PREFIX": "X-Budget-",
    "POLICYD_REQUEST_BODY_MAX": "1GiB",
    "POLICYD_RESPONSE_BUFFER_MAX": "4 KiB",
    "POLICYD_METRIC_ATTRIBUTES": "project, tier",
    "POLICYD_SHUTDOWN_GRACE": "5m",
}
SETTINGS = Settings(
    policy_path=Path("/etc/policyd/policyd.yaml"),
    prices_path=Path("/etc/policyd/prices.json"),
    store_url="redis://:swordfish@redis:6379/0",
    grpc_address=HostPort("0.0.0.0", 1),
    ext_proc_address=UnixSocket(Path("/run/policyd.sock")),
    transport=Transport.GRPCIO,
    http_address=HostPort("::", 2),
    tls_cert_path=Path("/etc/policyd/tls.crt"),
    tls_key_path=Path("/etc/policyd/tls.key"),
    tls_client_ca_path=Path("/etc/policyd/ca.crt"),
    access_tokens_path=Path("/etc/policyd/tokens"),
    header_prefix="x-budget-",
    request_body_bytes_max=1_073_741_824,
    response_buffer_bytes_max=4096,
    metric_attributes=("project", "tier"),
    shutdown_grace_seconds=300,
)


def test_every_variable() -> None:
    assert Settings.from_environment(EVERY_VARIABLE) == SETTINGS


def test_every_flag_wins_over_its_variable() -> None:
    flags = {name.removeprefix("POLICYD_").lower(): text for name, text in EVERY_VARIABLE.items()}
    others = {
        "POLICYD_CONFIG": "other.yaml",
        "POLICYD_PRICES": "other.json",
        "POLICYD_STORE": "memory://",
        "POLICYD_GRPC": "localhost:3",
        "POLICYD_EXT_PROC": "localhost:5",
        "POLICYD_TRANSPORT": "grpcio",
        "POLICYD_HTTP": "localhost:4",
        "POLICYD_TLS_CERT": "other.crt",
        "POLICYD_TLS_KEY": "other.key",
        "POLICYD_TLS_CLIENT_CA": "other-ca.crt",
        "POLICYD_ACCESS_TOKENS": "other-tokens",
        "POLICYD_HEADER_PREFIX": "y-",
        "POLICYD_REQUEST_BODY_MAX": "1",
        "POLICYD_RESPONSE_BUFFER_MAX": "1",
        "POLICYD_METRIC_ATTRIBUTES": "org",
        "POLICYD_SHUTDOWN_GRACE": "1",
    }
    assert others.keys() == EVERY_VARIABLE.keys()
    assert Settings.from_environment(others, **flags) == SETTINGS


def test_flags_that_are_not_given_and_empty_variables_count_for_nothing() -> None:
    empty = dict.fromkeys(EVERY_VARIABLE, "")
    assert Settings.from_environment(empty, store=None, grpc=None) == Settings()


def test_an_unknown_flag_is_a_defect() -> None:
    with pytest.raises(TypeError, match="no such flag: grcp"):
        Settings.from_environment({}, grcp="localhost:1")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", HostPort("127.0.0.1", 50051)),
        ("localhost:0", HostPort("localhost", 0)),
        ("policyd.mesh.svc:65535", HostPort("policyd.mesh.svc", 65535)),
        ("[::1]:50051", HostPort("::1", 50051)),
        ("unix:/run/policyd.sock", UnixSocket(Path("/run/policyd.sock"))),
        ("unix:policyd.sock", UnixSocket(Path("policyd.sock"))),
    ],
)
def test_addresses_and_back(text: str, address: Address) -> None:
    assert Settings.from_environment({"POLICYD_GRPC": text}).grpc_address == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1", 1), ("1048576", 1_048_576), ("512KiB", 524_288), ("16 MiB", 16_777_216), ("2GiB", 2_147_483_648)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert Settings.from_environment({}, request_body_max=text).request_body_bytes_max == size_bytes


GRPC_EXPECTED = "HOST:PORT such as 127.0.0.1:50051 or [::1]:50051, or unix:PATH"
HTTP_EXPECTED = "HOST:PORT such as 127.0.0.1:9464 or [::1]:9464"
SIZE_EXPECTED = "a size such as 1048576, 512KiB or 16MiB"
PREFIX_EXPECTED = "words that end in a dash, such as x-policyd-"
NAMES_EXPECTED = "names of attributes with commas between, each once"
GRACE_EXPECTED = "a duration such as 30s, 5m or whole seconds"


@pytest.mark.parametrize(
    ("variable", "text", "expectation"),
    [
        ("POLICYD_GRPC", "50051", GRPC_EXPECTED),
        ("POLICYD_GRPC", ":50051", GRPC_EXPECTED),
        ("POLICYD_GRPC", "localhost:65536", GRPC_EXPECTED),
        ("POLICYD_GRPC", "localhost:http", GRPC_EXPECTED),
        ("POLICYD_GRPC", "::1:50051", GRPC_EXPECTED),
        ("POLICYD_GRPC", "[:::]:50051", GRPC_EXPECTED),
        ("POLICYD_GRPC", "http://localhost:50051", GRPC_EXPECTED),
        ("POLICYD_GRPC", "unix:", GRPC_EXPECTED),
        ("POLICYD_EXT_PROC", "50052", GRPC_EXPECTED),
        ("POLICYD_TRANSPORT", "http", "h2rpc or grpcio"),
        ("POLICYD_HTTP", "unix:/run/policyd.sock", HTTP_EXPECTED),
        ("POLICYD_HEADER_PREFIX", "x-policyd", PREFIX_EXPECTED),
        ("POLICYD_HEADER_PREFIX", "x policyd-", PREFIX_EXPECTED),
        ("POLICYD_REQUEST_BODY_MAX", "0", SIZE_EXPECTED),
        ("POLICYD_REQUEST_BODY_MAX", "-1", SIZE_EXPECTED),
        ("POLICYD_REQUEST_BODY_MAX", "16MB", SIZE_EXPECTED),
        ("POLICYD_RESPONSE_BUFFER_MAX", "1.5MiB", SIZE_EXPECTED),
        ("POLICYD_METRIC_ATTRIBUTES", "project;tier", NAMES_EXPECTED),
        ("POLICYD_METRIC_ATTRIBUTES", "project,,tier", NAMES_EXPECTED),
        ("POLICYD_METRIC_ATTRIBUTES", "tier,tier", NAMES_EXPECTED),
        ("POLICYD_SHUTDOWN_GRACE", "1.5", GRACE_EXPECTED),
        ("POLICYD_SHUTDOWN_GRACE", "-1", GRACE_EXPECTED),
    ],
)
def test_mistake(variable: str, text: str, expectation: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment({variable: text})
    assert str(caught.value) == f'{variable}: found "{text}", expected {expectation}'


def test_all_mistakes_are_told_at_once_each_with_its_flag_or_variable() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment({"POLICYD_HTTP": "9464"}, config="", request_body_max="much")
    assert caught.value.problems == (
        '--config: found "", expected the path of a policy file',
        f'POLICYD_HTTP: found "9464", expected {HTTP_EXPECTED}',
        f'--request-body-max: found "much", expected {SIZE_EXPECTED}',
    )


def test_the_stores_password_is_never_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment({"POLICYD_STORE": "redis:swordfish@host"})
    assert str(caught.value) == "POLICYD_STORE: expected a URL such as sqlite:///policyd.db or redis://host:6379/0"
    assert "swordfish" not in repr(SETTINGS)


@pytest.mark.parametrize(
    ("ext_proc", "addresses"),
    [
        ("127.0.0.1:50052", ["127.0.0.1:50052", "127.0.0.1:50053", "127.0.0.1:50054"]),
        ("127.0.0.1:0", ["127.0.0.1:0"] * 3),
        ("unix:/run/p.sock", ["unix:/run/p.sock.0", "unix:/run/p.sock.1", "unix:/run/p.sock.2"]),
    ],
)
def test_each_worker_has_an_address_of_its_own(ext_proc: str, addresses: list[str]) -> None:
    settings = Settings.from_environment({}, ext_proc=ext_proc, workers="3")
    assert [str(address) for address in settings.ext_proc_addresses] == addresses


def test_a_lone_worker_has_the_address_itself() -> None:
    settings = Settings.from_environment({}, ext_proc="unix:/run/p.sock")
    assert [str(address) for address in settings.ext_proc_addresses] == ["unix:/run/p.sock"]


@pytest.mark.parametrize("text", ["0", "65", "-1", "two", "1.5", "\N{ARABIC-INDIC DIGIT TWO}"])
def test_a_number_of_workers_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--workers: found .*expected a number of processes from 1 to 64"):
        Settings.from_environment({}, workers=text)


def test_flags_become_the_environment_that_says_the_same() -> None:
    environ = with_flags({"POLICYD_GRPC": "127.0.0.1:1", "HOME": "/"}, {"grpc": "127.0.0.1:2", "http": None})
    assert environ == {"POLICYD_GRPC": "127.0.0.1:2", "HOME": "/"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"tls_cert": "a"}, "--tls-cert, --tls-key: expected both or none"),
        ({"tls_key": "a"}, "--tls-cert, --tls-key: expected both or none"),
        ({"tls_client_ca": "a"}, "--tls-client-ca: expected --tls-cert and --tls-key with it"),
    ],
)
def test_what_tls_needs_comes_together(flags: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Settings.from_environment({}, **flags)

import pytest

from policyd.core.errors import ConfigError
from policyd.envoy_config import DEFAULT_UPSTREAMS, Upstream, parse_upstreams


@pytest.mark.parametrize(
    ("text", "name", "upstream", "authority"),
    [
        (
            "openai=https://api.openai.com",
            "openai",
            Upstream(host="api.openai.com", port=443, tls=True),
            "api.openai.com",
        ),
        (
            "openai=http://127.0.0.1:8080/",
            "openai",
            Upstream(host="127.0.0.1", port=8080, tls=False),
            "127.0.0.1:8080",
        ),
        (
            "x-ai=https://llm.example:8443/api/v2/",
            "x-ai",
            Upstream(host="llm.example", port=8443, tls=True, base_path="/api/v2"),
            "llm.example:8443",
        ),
        ("local_1=http://[::1]:80", "local_1", Upstream(host="::1", port=80, tls=False), "[::1]"),
        (
            "azure=https://Team.OpenAI.Azure.com",
            "azure",
            Upstream(host="team.openai.azure.com", port=443, tls=True),
            "team.openai.azure.com",
        ),
        ("plain=https://host:80", "plain", Upstream(host="host", port=80, tls=True), "host:80"),
    ],
)
def test_an_upstream_is_read(text: str, name: str, upstream: Upstream, authority: str) -> None:
    parsed = parse_upstreams([text])
    assert parsed == {name: upstream}
    assert parsed[name].authority == authority


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("https://api.openai.com", 'found "https://api.openai.com", expected NAME=URL'),
        ("", 'found "", expected NAME=URL'),
        ("=https://api.openai.com", 'found the name ""'),
        ("OpenAI=https://api.openai.com", 'found the name "OpenAI", expected lower-case'),
        ("open/ai=https://api.openai.com", 'found the name "open/ai"'),
        ("..=https://api.openai.com", 'found the name ".."'),
        (f"{'a' * 65}=https://api.openai.com", "found the name"),
        ("v1=https://api.openai.com", 'found the name "v1", expected another one'),
        ("policyd=https://api.openai.com", 'found the name "policyd", expected another one'),
        ("openai=", 'found the URL ""'),
        ("openai=api.openai.com", "begins with https:// or http://"),
        ("openai=ftp://api.openai.com", "begins with https:// or http://"),
        ("openai=https://", "expected a host"),
        ("openai=https://:443", "expected a host"),
        ("openai=https://api openai.com", "expected one such as"),
        ("openai=https://api.openai.com\n", r"'https://api.openai.com\n'"),
        ("openai=https://api.ope\tnai.com", "expected one such as"),
        ("openai=https://api.öpenai.com", "expected one such as"),
        ("openai=https://api.openai.com:https", "a port from 1 to 65535"),
        ("openai=https://api.openai.com:0", "a port from 1 to 65535"),
        ("openai=https://api.openai.com:65536", "a port from 1 to 65535"),
        ("openai=https://[::1", "a host, and a port"),
        ("openai=https://api.openai.com/v1/../admin", "expected a plain path"),
        ("openai=https://api.openai.com//v1", "expected a plain path"),
        ("openai=https://api.openai.com/%2e%2e", "expected a plain path"),
    ],
)
def test_a_mistake_is_named_with_what_was_found_and_expected(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_upstreams([text])
    (problem,) = caught.value.problems
    assert problem.startswith("--upstream: ")
    assert complaint in problem


@pytest.mark.parametrize("url", ["https://user:s3cret@host", "https://host/?key=s3cret", "https://host/#s3cret"])
def test_a_secret_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="provider keys travel in headers") as caught:
        parse_upstreams([f"openai={url}"])
    assert "s3cret" not in str(caught.value)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_upstreams(["a=http://host", "a=http://other", "b=gopher://host", "c"])
    assert len(caught.value.problems) == 3
    assert 'found "a" twice' in caught.value.problems[0]


def test_the_real_providers_are_the_default() -> None:
    assert {name: upstream.host for name, upstream in DEFAULT_UPSTREAMS.items()} == {
        "openai": "api.openai.com",
        "anthropic": "api.anthropic.com",
        "google": "generativelanguage.googleapis.com",
    }
    assert all(upstream.tls for upstream in DEFAULT_UPSTREAMS.values())

"""Paths that another server may read otherwise than the table of endpoints does."""

from __future__ import annotations

import pytest

from policyd.providers.endpoint import Endpoint
from policyd.providers.path_reading import read_loosely
from policyd.providers.registry import might_be_priced, resolve

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "path",
    [
        CHAT,
        "/v1//chat/./completions/",
        "/v1/models/../chat/completions",
        "/../v1/chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/chat%252fcompletions",
        "/v1/%63hat/completions",
        "/v1/chat\\completions",
        "/v1/chat%5Ccompletions",
        "/v1;a=b/chat/completions;c",
        "/v1/chat/completions#models",
        "/v1/chat/completions%3Fa",
        "/v1/chat/completions%20",
    ],
)
def test_spellings_of_one_path(path: str) -> None:
    assert read_loosely(path) == CHAT


def test_a_path_that_climbs_too_high_stays_at_the_root() -> None:
    assert read_loosely("/a/../../..") == "/"
    assert read_loosely("") == "/"


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("openai", "/v1/chat/completions/"),
        ("openai", "/V1/Chat/Completions"),
        ("openai", "/openai/v1/chat%2Fcompletions"),
        ("azure", "/openai/Deployments/gpt-4o/chat/completions"),
        ("anthropic", "/v1/messages;x/batches"),
        ("google", "/v1beta/models/gemini-2.5-flash%3AgenerateContent"),
        ("google", "/v1beta/models/x/../gemini-2.5-flash:GENERATECONTENT"),
        ("aws", "/model/amazon.nova-lite-v1%253A0/converse"),
        ("aws", "/model/x%2F..%2Famazon.nova-lite-v1/converse"),
        (None, "//v1/chat/completions"),
    ],
)
def test_what_may_be_taken_for_an_endpoint_that_costs(provider: str | None, path: str) -> None:
    found = resolve(provider=provider, host="gateway.internal", method="POST", path=path)
    assert not isinstance(found, Endpoint)
    assert might_be_priced(provider=provider, host="gateway.internal", method="POST", path=path)


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("openai", "/v1/fine_tuning/jobs"),
        ("openai", "/v1/moderations/"),
        ("openai", "/v1/files%2Fa"),
        ("aws", "/guardrail/a/version/1/apply"),
        (None, "/healthz"),
    ],
)
def test_what_may_not(provider: str | None, path: str) -> None:
    assert not might_be_priced(provider=provider, host="gateway.internal", method="POST", path=path)

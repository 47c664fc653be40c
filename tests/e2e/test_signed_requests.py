"""Requests that boto3 has signed, on a real Envoy: what reaches Bedrock bears a signature that holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore import UNSIGNED
from botocore.exceptions import ClientError

from tests.e2e.books import assert_free
from tests.e2e.conftest import Start
from tests.e2e.mesh import Mesh
from tests.e2e.providers import aws_calls, signature, simulated
from tests.e2e.providers.case import ANSWER, Caller
from tests.e2e.providers.simulated import Provider

POLICY = """
version: 1
unbounded: set_maximum
identity:
  project: [{header: x-policyd-project}]
  team: [{header: x-team, strip: false}]
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
"""

BOUND = {"inferenceConfig": {"maxTokens": 100}}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with simulated.running() as running:
        running.answer = aws_calls.CONVERSED
        yield running


@pytest.fixture(scope="module")
def mesh(start: Start, provider: Provider) -> Mesh:
    return start(POLICY, upstreams={"aws": provider.url})


@pytest.fixture
def caller(mesh: Mesh, provider: Provider, project: str) -> Iterator[Caller]:
    provider.arrivals.clear()
    caller = Caller(url=mesh.url, headers={"x-policyd-project": project}, upstream=provider.url)
    yield caller
    caller.close()


def converse(client: Any, **more: Any) -> str:
    reply = client.converse(modelId=aws_calls.NOVA, messages=aws_calls.CONVERSATION, **more)
    text: str = reply["output"]["message"]["content"][0]["text"]
    return text


def sign_with(client: Any, **headers: str) -> None:
    """Has boto3 sign these headers of every request too."""

    def about_to_sign(request: Any, **_: Any) -> None:
        for name, value in headers.items():
            request.headers[name.replace("_", "-")] = value

    client.meta.events.register("before-sign.bedrock-runtime", about_to_sign)


def holds(provider: Provider) -> bool:
    (arrival,) = provider.arrivals
    return signature.holds(arrival, secret_key=aws_calls.SECRET_KEY)


def test_what_policy_would_have_to_add_is_refused_and_nothing_is_charged(
    mesh: Mesh, provider: Provider, caller: Caller, project: str
) -> None:
    client = aws_calls.client(caller)
    with pytest.raises(client.exceptions.ValidationException, match="give a maximum of at most 4096 output tokens"):
        converse(client)

    assert provider.arrivals == []
    (line,) = mesh.records_of(project)
    assert (line["outcome"], line["error"], line["actual_cost_usd"]) == ("rejected", "request_signed", 0)
    assert_free(mesh, project)


def test_what_keeps_to_the_policy_by_itself_passes(provider: Provider, caller: Caller) -> None:
    assert converse(aws_calls.client(caller), **BOUND) == ANSWER
    assert holds(provider)


def test_a_signed_header_that_the_policy_leaves_in_place_does_no_harm(provider: Provider, caller: Caller) -> None:
    client = aws_calls.client(caller)
    sign_with(client, x_team="birds")
    assert converse(client, **BOUND) == ANSWER
    assert "x-team" in signature.signed_headers(provider.arrivals[0])
    assert holds(provider)


def test_a_signed_header_that_the_policy_strips_breaks_the_signature(provider: Provider, caller: Caller) -> None:
    client = aws_calls.client(caller)
    sign_with(client, x_policyd_project=caller.headers["x-policyd-project"])
    converse(client, **BOUND)
    assert not holds(provider)


def test_a_signature_for_envoys_own_path_does_not_hold_at_bedrock(
    mesh: Mesh, provider: Provider, caller: Caller
) -> None:
    caller.upstream = f"{mesh.url}/aws"
    converse(aws_calls.client(caller), **BOUND)
    assert not holds(provider)


def test_a_request_without_a_signature_is_edited(mesh: Mesh, provider: Provider, caller: Caller) -> None:
    caller.upstream = f"{mesh.url}/aws"
    assert converse(aws_calls.client(caller, signature_version=UNSIGNED)) == ANSWER
    (arrival,) = provider.arrivals
    assert b'"maxTokens":4096' in arrival.body


def test_a_refusal_is_raised_once(provider: Provider, caller: Caller) -> None:
    client = aws_calls.client(caller)
    with pytest.raises(ClientError):
        converse(client, inferenceConfig={"maxTokens": 10_000_000})
    assert (len(caller.sent), provider.arrivals) == (1, [])

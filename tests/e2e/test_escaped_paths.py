"""Escapes in the paths of Bedrock, on a real Envoy: what policyd prices is what Bedrock gets, or nothing gets there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from policyd.core.money import parse_usd
from tests.e2e import raw
from tests.e2e.books import BUDGET, assert_free
from tests.e2e.conftest import POLICY, Start
from tests.e2e.mesh import Mesh
from tests.e2e.providers import aws_calls, simulated
from tests.e2e.providers.simulated import Provider

BODY = json.dumps({"messages": aws_calls.CONVERSATION}).encode()
NOVA = "amazon.nova-lite-v1"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with simulated.running() as running:
        running.answer = aws_calls.CONVERSED
        yield running


@pytest.fixture(scope="module")
def mesh(start: Start, provider: Provider) -> Mesh:
    """It lets everything pass that nobody can price."""
    return start(f"{POLICY}\nunknown_endpoint: pass\n", upstreams={"aws": provider.url})


def send(mesh: Mesh, provider: Provider, project: str, path: str) -> raw.RawReply:
    provider.arrivals.clear()
    headers = {"x-policyd-project": project, "content-type": "application/json"}
    return raw.post(mesh.listen, path, body=BODY, headers=headers)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (f"/model/{NOVA}:0/converse", None),
        (f"/model/{NOVA}%3A0/converse", None),
        (f"/model/{NOVA}%3a0/converse", None),
        (f"/aws/model/{NOVA}%3A0/converse", f"/model/{NOVA}%3A0/converse"),
        (f"/model/{aws_calls.PROFILE_ESCAPED}/converse", None),
        (f"/model/{aws_calls.PROFILE.replace('/', '%2f')}/converse", None),
        # Envoy reads these for all of us.
        (f"/model/x/../{NOVA}%3A0/converse", f"/model/{NOVA}%3A0/converse"),
        (f"/model/x/%2e%2e/{NOVA}%3A0/converse", f"/model/{NOVA}%3A0/converse"),
        (f"//model//{NOVA}%3A0/converse", f"/model/{NOVA}%3A0/converse"),
        (f"/model/{NOVA}%3A0/%63onverse", f"/model/{NOVA}%3A0/converse"),
    ],
)
def test_what_is_priced_is_what_bedrock_gets(
    mesh: Mesh, provider: Provider, project: str, path: str, target: str | None
) -> None:
    """`target` is `None` where it is the same."""
    reply = send(mesh, provider, project, path)

    assert reply.status == 200
    (arrival,) = provider.arrivals
    assert arrival.target == (target or path)
    assert mesh.balance(BUDGET, project=project).spent == parse_usd(reply.headers["x-policyd-cost-usd"]) > 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/model/x%2F..%2F{NOVA}/converse", 404),
        (f"/model/%2E%2E%2Fmodel%2F{NOVA}/converse", 404),
        (f"/model/{NOVA}%253A0/converse", 404),
        (f"/model/{NOVA}%2Fconverse", 404),
        (f"/model/{NOVA}/converse;v=1", 404),
        (f"/model/{NOVA};v=1/converse", 404),
        (f"/model/{NOVA}/Converse", 404),
        (f"/model/{NOVA}/converse/", 404),
        (f"/model/{NOVA}%5Cconverse", 404),
        (f"/aws%2Fmodel/{NOVA}/converse", 404),
        (f"/MODEL/{NOVA}/converse", 404),
        (f"/model/{NOVA}/converse%00", 400),
        (f"/model/{NOVA}/converse#", 400),
    ],
)
def test_what_bedrock_might_read_otherwise_reaches_nobody(
    mesh: Mesh, provider: Provider, project: str, path: str, status: int
) -> None:
    assert send(mesh, provider, project, path).status == status
    assert provider.arrivals == []
    assert_free(mesh, project)


def test_what_is_no_spelling_of_an_endpoint_that_costs_passes_as_the_policy_says(
    mesh: Mesh, provider: Provider, project: str
) -> None:
    assert send(mesh, provider, project, "/aws/guardrail/a%2Fb/version/1/apply").status == 200
    assert [arrival.target for arrival in provider.arrivals] == ["/guardrail/a%2Fb/version/1/apply"]

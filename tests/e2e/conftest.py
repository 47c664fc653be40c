"""Real Envoy, the real server, a simulated provider."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Protocol

import pytest

from policyd.config import Transport
from policyd.demo.provider import SimulatedProvider
from policyd.tokens import TokenCounter
from tests.e2e.mesh import Mesh, policyd_up
from tests.e2e.sdks import SDKS, Sdk


@pytest.fixture(scope="session")
def provider() -> Iterator[SimulatedProvider]:
    """One for all tests; `provider.reset()` before counting."""
    counter = TokenCounter()
    with SimulatedProvider(
        count_text=lambda text: counter.count_text(text, provider="openai", model="gpt-4o")
    ) as running:
        yield running


POLICY = """
version: 1
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
"""


BOTH_TRANSPORTS = pytest.mark.parametrize("transport", [*Transport], indirect=True, scope="session", ids=str)
"""For modules whose tests run on each transport. The others run on the default, or on what POLICYD_TRANSPORT says."""


@pytest.fixture(scope="session")
def transport(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """What serves Envoy, as environment variables."""
    chosen: str | None = getattr(request, "param", None) or os.environ.get("POLICYD_TRANSPORT")
    return {"POLICYD_TRANSPORT": chosen} if chosen else {}


class Start(Protocol):
    """Starts `policyd up` under a policy, given as the policy file's text; it runs until the test module ends."""

    def __call__(
        self,
        policy: str,
        *,
        store: str = "memory://",
        upstreams: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> Mesh: ...


@pytest.fixture(scope="module")
def start(
    provider: SimulatedProvider, transport: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Start]:
    """Unless told otherwise, OpenAI's and Anthropic's upstream is the simulated provider."""
    simulated = {"openai": provider.url, "anthropic": provider.url}
    with ExitStack() as running:

        def started(
            policy: str,
            *,
            store: str = "memory://",
            upstreams: Mapping[str, str] | None = None,
            environ: Mapping[str, str] | None = None,
            stderr: IO[bytes] | None = None,
        ) -> Mesh:
            path = written(policy, folder=tmp_path_factory.mktemp("policy"))
            return running.enter_context(
                policyd_up(
                    upstreams=upstreams or simulated,
                    store=store,
                    policy=path,
                    environ={**transport, **(environ or {})},
                    stderr=stderr,
                )
            )

        yield started


@pytest.fixture(scope="session")
def mesh(
    provider: SimulatedProvider, transport: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mesh]:
    """One for all modules that need no policy of their own: 1 USD a project."""
    policy = written(POLICY, folder=tmp_path_factory.mktemp("policy"))
    upstreams = {"openai": provider.url, "anthropic": provider.url}
    with policyd_up(upstreams=upstreams, policy=policy, environ=transport) as running:
        yield running


def written(policy: str, *, folder: Path) -> Path:
    path = folder / "policyd.yaml"
    path.write_text(policy)
    return path


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    """A project of the test's own, so that tests on one mesh share no budget."""
    return str(request.node.name).translate({ord("["): "-", ord("]"): None})


@pytest.fixture(params=SDKS, ids=str)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """Each official SDK in turn, sync and async."""
    chosen: Sdk = request.param
    return chosen

"""A quick slice of `make test-envoy-matrix`, on the versions that it has fetched already."""

from __future__ import annotations

import pytest

from policyd.core.money import parse_usd
from policyd.demo.provider import SimulatedProvider
from tests.e2e import raw
from tests.e2e.mesh import policyd_up
from tests.envoy_matrix import VERSIONS, binary


@pytest.mark.parametrize("streamed", [False, True], ids=["document", "stream"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_is_served_and_paid_for(version: str, streamed: bool) -> None:
    if not binary(version).exists():
        pytest.skip(f"{binary(version)} is not there; make test-envoy-matrix fetches it")
    environ = {"POLICYD_ENVOY": str(binary(version))}
    with (
        SimulatedProvider(count_text=len) as provider,
        policyd_up(upstreams={"openai": provider.url}, environ=environ) as mesh,
    ):
        reply = raw.post(mesh.listen, body=raw.chat(max_tokens=100, stream=streamed))
        line = mesh.record(reply.headers["x-policyd-request-id"])
    assert (reply.status, line["outcome"]) == (200, "served")
    assert parse_usd(str(line["actual_cost_usd"])) > 0

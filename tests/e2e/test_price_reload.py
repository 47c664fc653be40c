"""A newer price table takes effect while policyd runs; a bad one changes nothing and is reported."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from policyd.v1.model_request_pb2 import ModelRequest, TokenCounts
from policyd.v1.policy_service_pb2 import EstimateCostRequest
from policyd.v1.policy_service_pb2_grpc import PolicyServiceStub
from tests.e2e.mesh import ANSWER_SECONDS_MAX, ANY_PORT, Policyd, policyd_serve

POLICY = """
version: 1
unknown_model: {price_as: dear}
prices:
  - {provider: mine, model: "my-*", usd_per_million: {input: 2.00, output: 8.00}}
limits: []
"""
TABLE = """
{"source":"%(source)s","providers":[{"id":"acme","models":[
{"id":"cheap","names":["cheap"],"prices":[{"tiers":[[0,{"input":[%(nanos)d,1],"output":[0,1]}]]}]},
{"id":"dear","names":["%(dear)s"],"prices":[{"tiers":[[0,{"input":[9000,1],"output":[0,1]}]]}]}
]}]}
"""
RELOADS = "policyd_prices_reloads_total"
INFO = "policyd_prices_info"


def table(*, source: str = "first", nanos: int = 100, dear: str = "dear") -> str:
    return TABLE % {"source": source, "nanos": nanos, "dear": dear}


@dataclass
class Priced:
    """A server and its price table."""

    policyd: Policyd
    file: Path
    stderr: Path

    def nanos(self, model: str, provider: str = "acme") -> int:
        """What a thousand input tokens of a model are estimated at."""
        counts = TokenCounts(model=model, input_tokens=1000, max_output_tokens=0)
        request = EstimateCostRequest(
            model_request=ModelRequest(provider=provider, endpoint="chat.completions", counts=counts)
        )
        with grpc.insecure_channel(self.policyd.grpc) as channel:
            answer = PolicyServiceStub(channel).EstimateCost(request, timeout=ANSWER_SECONDS_MAX)
        return int(answer.estimate.max_cost.nanos)

    def replace(self, text: str, *, result: str) -> None:
        """Replaces the file as a whole, and waits until policyd has seen it by itself."""
        before = self.policyd.metric(RELOADS, result=result)
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)
        self.policyd.wait_for_metric(RELOADS, before + 1, result=result)

    def tell(self, text: str, *, result: str) -> None:
        """Writes another file at the same time of day, so that nothing tells that it changed, and sends SIGHUP."""
        before = self.policyd.metric(RELOADS, result=result)
        status = self.file.stat()
        self.file.write_text(text)
        os.utime(self.file, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.policyd.process.send_signal(signal.SIGHUP)
        self.policyd.wait_for_metric(RELOADS, before + 1, result=result)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Priced]:
    folder = tmp_path_factory.mktemp("prices")
    policy, file, stderr = folder / "policyd.yaml", folder / "prices.json", folder / "stderr"
    policy.write_text(POLICY)
    file.write_text(table())
    environ = {"POLICYD_PRICES": str(file)}
    with (
        stderr.open("wb") as output,
        policyd_serve(grpc=ANY_PORT, store="memory://", policy=policy, environ=environ, stderr=output) as policyd,
    ):
        yield Priced(policyd, file, stderr)


@pytest.fixture
def priced(server: Priced, request: pytest.FixtureRequest) -> Priced:
    """The server under a table of the test's own, whose source is the test's name."""
    server.tell(table(source=request.node.name), result="ok")
    return server


def test_a_newer_table_is_in_force_soon(priced: Priced) -> None:
    assert priced.nanos("cheap") == 100_000
    priced.replace(table(source="newer", nanos=300), result="ok")
    assert priced.nanos("cheap") == 300_000
    assert priced.policyd.metric(INFO, source="newer") == 1
    assert priced.policyd.metric(INFO) == 1
    # The operator's own prices are no part of the table.
    assert priced.nanos("my-llama", provider="mine") == 2_000_000


def test_sighup_reads_the_table_again(priced: Priced) -> None:
    priced.tell(table(nanos=700), result="ok")
    assert priced.nanos("cheap") == 700_000


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (table(nanos=-1), "providers[0].models[0].prices[0].tiers[0][1][...][0] (acme cheap): Expected `int` >= 0"),
        (table().replace('"output"', '"outptu"'), 'acme cheap: found a rate for "outptu", expected one of input, '),
        (table()[:50], "not JSON: "),
    ],
    ids=["form", "kind", "json"],
)
def test_a_bad_table_changes_nothing_and_says_where_it_is_wrong(
    priced: Priced, request: pytest.FixtureRequest, bad: str, message: str
) -> None:
    priced.tell(bad, result="failed")
    assert f"{priced.file}: {message}" in priced.stderr.read_text()
    assert priced.policyd.metric(INFO, source=request.node.name) == 1
    assert priced.nanos("cheap") == 100_000
    priced.replace(table(nanos=300), result="ok")
    assert priced.nanos("cheap") == 300_000


def test_a_table_without_a_price_that_the_policy_counts_on_changes_nothing(priced: Priced) -> None:
    priced.tell(table(nanos=300, dear="renamed"), result="failed")
    assert 'unknown_model.price_as: found "dear"' in priced.stderr.read_text()
    assert (priced.nanos("cheap"), priced.nanos("unheard-of")) == (100_000, 9_000_000)

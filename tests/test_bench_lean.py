"""The benchmark of the lean profile runs, and its figures are of what they say."""

from __future__ import annotations

from policyd.envoy_config import Profile
from tests.bench.lean import report, run
from tests.e2e.envoy_version import READS_STREAMS


@READS_STREAMS
async def test_the_tiniest_slice() -> None:
    found = await run(1, seconds=0.1)

    assert set(found) == {(stream, profile) for stream in (False, True) for profile in Profile}
    assert all(figure.policyd_cpu_us > 0 and figure.per_second > 0 for figures in found.values() for figure in figures)
    assert "requests/s, lean to default" in report(found)

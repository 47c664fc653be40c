"""The usage records and the metrics, and that they agree."""

from collections import defaultdict
from statistics import median
from typing import Final

from google.protobuf.duration_pb2 import Duration
from prometheus_client.parser import text_string_to_metric_families

from policyd.core.money import parse_usd
from policyd.demo.scenes import crowd
from policyd.demo.screen import columns, usd, usd_aligned
from policyd.demo.stage import Scene, Stage, nanos
from policyd.v1.usage_pb2 import UsageRecord
from policyd.v1.verdict_pb2 import DECISION_ALLOW

SHOWN_METRICS: Final = ("policyd_denials_total", "policyd_cut_streams_total", "policyd_cost_usd_total")


async def _play(stage: Stage) -> None:
    records = await stage.records()
    by_project = defaultdict(list)
    for record in reversed(records):
        by_project[record.attributes["project"]].append(record)
    table = columns("project", ">requests", ">refused", ">input", ">output", ">cost")
    for project, its_records in by_project.items():
        table.add_row(project, *_totals(its_records))
    table.add_row("all", *_totals(records), style="bold")
    stage.screen.show(table)

    stage.screen.introduce("Some of /metrics, for Prometheus:")
    page = (await stage.http.get("/metrics")).body.decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    table = columns("metric", "limit or outcome", "model", ">value")
    for sample in samples:
        if sample.name in SHOWN_METRICS:
            labels = sample.labels
            table.add_row(
                sample.name, labels.get("limit") or labels.get("outcome"), labels["model"], f"{sample.value:g}"
            )
    stage.screen.show(table)

    cost = _cost(records)
    accounts = [nanos((await stage.budget("project-spend", project=project)).spent.money) for project in by_project]
    counted = sum(parse_usd(str(sample.value)) for sample in samples if sample.name == "policyd_cost_usd_total")
    stage.claim(
        cost == sum(accounts) == counted, f"usage records, budgets and metrics agree on {usd(cost)}, to the billionth"
    )
    exchanges = sum(int(sample.value) for sample in samples if sample.name == "policyd_exchanges_total")
    stage.claim(exchanges == len(records), f"{len(records)} exchanges are recorded, and {exchanges} are counted")
    allowed = sum(record.decision == DECISION_ALLOW for record in records)
    calls = stage.provider_calls
    stage.claim(allowed == calls, f"{allowed} requests were let through, and the provider was called {calls} times")
    alone = [record for record in records if record.attributes["project"] != crowd.PROJECT]
    microseconds = int(median(_microseconds(record.policy_duration) for record in alone))
    decision_ms = f"{microseconds // 1000}.{microseconds % 1000 // 100} ms"
    stage.screen.introduce(f"A decision took {decision_ms} (median of those that came one by one).")


def _totals(records: list[UsageRecord]) -> tuple[str, ...]:
    refused = sum(record.decision != DECISION_ALLOW for record in records)
    return (
        str(len(records)),
        str(refused),
        f"{sum(record.usage.input for record in records):,}",
        f"{sum(record.usage.output for record in records):,}",
        usd_aligned(_cost(records)),
    )


def _cost(records: list[UsageRecord]) -> int:
    return sum(nanos(record.actual_cost) for record in records)


def _microseconds(duration: Duration) -> int:
    return duration.seconds * 1_000_000 + duration.nanos // 1000


BOOKS: Final = Scene(
    title="The books",
    sentence="Every exchange leaves a usage record and is counted in the metrics.",
    play=_play,
)

"""Metrics and the log line: every name, exact money, bounded labels, and a log that never holds anybody up."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, cast

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from policyd.core.estimate import Confidence, Estimate
from policyd.core.own_prices import Tariff
from policyd.core.record import Outcome, Record, UsageSource
from policyd.core.usage import Usage
from policyd.learning import Corrections, Learned, Subject
from policyd.stores.base import Swept
from policyd.stores.outage.store import OutageStatus
from policyd.telemetry import (
    LABEL_LENGTH_MAX,
    LABEL_VALUES_MAX,
    UNSERVED_MODELS_MAX,
    LineWriter,
    Telemetry,
    log_line,
    usage_fields,
)
from tests.builders import NOW_MS, price_of, published_prices

ESTIMATE = Estimate(
    price=price_of("gpt-4o"),
    tariff=Tariff(published_prices()),
    expected=Usage(input=10, output=100),
    maximum=Usage(input=10, output=200),
    confidence=Confidence.HIGH,
    bounded=True,
)

LEARNED = Corrections(
    {
        Subject("input", "anthropic", "", "claude"): Learned(1150, 20),
        Subject("output", "openai", "chat.completions", "gpt-4o"): Learned(320, 20),
    }
)

SERVED = Record(
    request_id="pd-1",
    at_ms=NOW_MS + 250,
    outcome=Outcome.SERVED,
    decision="allow",
    provider="openai",
    endpoint="chat.completions",
    model="gpt-4o",
    attributes={"project": "acme", "user": "ann", "tier": "free"},
    status=200,
    response_model="gpt-4o-2024-08-06",
    streamed=True,
    usage=Usage(input=7, cached_input=3, output=40, reasoning=10),
    usage_source=UsageSource.REPORTED,
    estimated_cost_nanos=2_025_000,
    actual_cost_nanos=521_251,
    confidence="high",
    duration_ms=1250,
    policy_us=1007,
)

NOT_SERVED = SERVED._replace(
    response_model=None, streamed=False, usage=None, usage_source=UsageSource.NONE, actual_cost_nanos=0
)

RECORDS = {
    Outcome.SERVED: SERVED,
    Outcome.DENIED: NOT_SERVED._replace(
        outcome=Outcome.DENIED,
        decision="deny",
        status=402,
        denied_by=("project-monthly-spend", "rate"),
        shadow_denied_by=("trial",),
    ),
    Outcome.CUT: SERVED._replace(outcome=Outcome.CUT, usage_source=UsageSource.COUNTED, error="budget_exceeded"),
    Outcome.DISCONNECTED: SERVED._replace(outcome=Outcome.DISCONNECTED, status=None, usage=Usage(input=10)),
    Outcome.PROVIDER_ERROR: NOT_SERVED._replace(outcome=Outcome.PROVIDER_ERROR, status=529, error="overloaded"),
    Outcome.REJECTED: NOT_SERVED._replace(
        outcome=Outcome.REJECTED,
        decision="deny",
        status=400,
        error="body_unreadable",
        model="",
        attributes={},
        estimated_cost_nanos=0,
        confidence=None,
        policy_us=0,
    ),
    Outcome.UNMETERED: NOT_SERVED._replace(outcome=Outcome.UNMETERED, endpoint="models", model="", status=None),
    Outcome.EXPIRED: SERVED._replace(usage=None).expired(charged_nanos=2_025_000),
    Outcome.FAILED: NOT_SERVED._replace(outcome=Outcome.FAILED, decision="deny", status=503, error="the disk is full"),
    Outcome.RELEASED: NOT_SERVED._replace(outcome=Outcome.RELEASED, status=None),
}
"""One record of every outcome."""

CHANGED = SERVED._replace(
    warned_by=("soft",),
    clamped_by=("daily", "monthly"),
    switched_by=("dear",),
    requested_model="o1",
    rules=("told",),
    shadow_rules=("tried",),
)

COMMON = (
    '"provider":"openai","endpoint":"chat.completions","tier":"free","model":"gpt-4o","requested_model":null,'
    '"response_model":{response_model},'
    '"attributes":{{"project":"acme","user":"ann","tier":"free"}},"streamed":{streamed}'
)
A_SERVED_ONE = COMMON.format(response_model='"gpt-4o-2024-08-06"', streamed="true")
ANOTHER = COMMON.format(response_model="null", streamed="false")
AT = '"timestamp":"2026-05-15T12:00:45.250Z","event":"exchange","request_id":"pd-1"'
USAGE = '"usage":{"input":7,"output":50,"cached_input":3,"reasoning":10},"usage_source":"reported"'
NO_USAGE = '"usage":null,"usage_source":"none"'
HELD = '"estimated_cost_usd":0.002025'
TOOK = '"confidence":"high","duration_ms":1250,"policy_ms":1.007'
PASSED = '"warned_by":[],"clamped_by":[],"switched_by":[],"rules":[],"shadow_rules":[]'
NOBODY = f'"denied_by":[],"shadow_denied_by":[],{PASSED}'

LINES = {
    Outcome.SERVED: f'{AT},"decision":"allow","outcome":"served",{NOBODY},"status":200,{A_SERVED_ONE},{USAGE},'
    f'{HELD},"actual_cost_usd":0.000521251,{TOOK},"error":null',
    Outcome.DENIED: f'{AT},"decision":"deny","outcome":"denied","denied_by":["project-monthly-spend","rate"],'
    f'"shadow_denied_by":["trial"],{PASSED},"status":402,{ANOTHER},{NO_USAGE},{HELD},"actual_cost_usd":0.00,{TOOK},'
    '"error":null',
    Outcome.CUT: f'{AT},"decision":"allow","outcome":"cut",{NOBODY},"status":200,{A_SERVED_ONE},'
    f'{USAGE.replace("reported", "counted")},{HELD},"actual_cost_usd":0.000521251,{TOOK},"error":"budget_exceeded"',
    Outcome.DISCONNECTED: f'{AT},"decision":"allow","outcome":"disconnected",{NOBODY},"status":null,{A_SERVED_ONE},'
    f'"usage":{{"input":10,"output":0}},"usage_source":"reported",{HELD},"actual_cost_usd":0.000521251,{TOOK},"error":null',
    Outcome.PROVIDER_ERROR: f'{AT},"decision":"allow","outcome":"provider_error",{NOBODY},"status":529,{ANOTHER},'
    f'{NO_USAGE},{HELD},"actual_cost_usd":0.00,{TOOK},"error":"overloaded"',
    Outcome.REJECTED: f'{AT},"decision":"deny","outcome":"rejected",{NOBODY},"status":400,"provider":"openai",'
    '"endpoint":"chat.completions","tier":null,"model":"","requested_model":null,"response_model":null,"attributes":{},'
    '"streamed":false,'
    f'{NO_USAGE},"estimated_cost_usd":0.00,"actual_cost_usd":0.00,"confidence":null,"duration_ms":1250,'
    '"policy_ms":0.000,"error":"body_unreadable"',
    Outcome.UNMETERED: f'{AT},"decision":"allow","outcome":"unmetered",{NOBODY},"status":null,'
    f"{ANOTHER.replace('chat.completions', 'models').replace('gpt-4o', '')},{NO_USAGE},{HELD},"
    f'"actual_cost_usd":0.00,{TOOK},"error":null',
    Outcome.EXPIRED: f'{AT},"decision":"allow","outcome":"expired",{NOBODY},"status":200,{A_SERVED_ONE},'
    f'"usage":null,"usage_source":"reported",{HELD},"actual_cost_usd":0.002025,{TOOK},'
    '"error":"the reservation expired unsettled"',
    Outcome.FAILED: f'{AT},"decision":"deny","outcome":"failed",{NOBODY},"status":503,{ANOTHER},{NO_USAGE},{HELD},'
    f'"actual_cost_usd":0.00,{TOOK},"error":"the disk is full"',
    Outcome.RELEASED: f'{AT},"decision":"allow","outcome":"released",{NOBODY},"status":null,{ANOTHER},{NO_USAGE},'
    f'{HELD},"actual_cost_usd":0.00,{TOOK},"error":null',
}


class TestTheLogLine:
    @pytest.mark.parametrize("outcome", Outcome)
    def test_of_every_outcome(self, outcome: Outcome) -> None:
        line = log_line(RECORDS[outcome]).decode()
        assert line == "{" + LINES[outcome] + "}"
        assert json.loads(line)["outcome"] == outcome

    def test_a_line_is_a_line(self) -> None:
        line = log_line(SERVED._replace(model="a\nb\r\u2028", error="c\n"))
        assert line.splitlines() == [line]

    def test_what_limits_changed(self) -> None:
        line = json.loads(log_line(CHANGED))
        assert (line["warned_by"], line["clamped_by"]) == (["soft"], ["daily", "monthly"])
        assert (line["switched_by"], line["requested_model"], line["model"]) == (["dear"], "o1", "gpt-4o")

    def test_the_rules_that_fired(self) -> None:
        line = json.loads(log_line(CHANGED))
        assert (line["rules"], line["shadow_rules"]) == (["told"], ["tried"])

    def test_usage_shows_input_and_output_always(self) -> None:
        assert usage_fields(Usage()) == {"input": 0, "output": 0}
        assert usage_fields(Usage(reasoning=5, cache_write_1h=2)) == {
            "input": 0,
            "output": 5,
            "cache_write_1h": 2,
            "reasoning": 5,
        }

    def test_money_is_never_a_float(self) -> None:
        nanos = 2**53 + 1
        line = log_line(SERVED._replace(actual_cost_nanos=nanos)).decode()
        assert '"actual_cost_usd":9007199.254740993,' in line


def telemetry(*labels: str) -> tuple[Telemetry, list[bytes]]:
    lines: list[bytes] = []
    return Telemetry(version="1.2.3", write_line=lines.append, attribute_labels=labels), lines


def samples(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Everything that a scrape reads, by name and labels."""
    text = generate_latest(telemetry.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return samples(telemetry).get((name, tuple(sorted(labels.items()))))


WHO = {"provider": "openai", "model": "gpt-4o"}


class TestMetrics:
    def test_what_was_learned(self) -> None:
        observer, _ = telemetry()
        observer.learned(LEARNED)
        assert value(observer, "policyd_learned_input_ratio", provider="anthropic", model="claude") == 1.15
        learned = {"provider": "openai", "endpoint": "chat.completions", "model": "gpt-4o"}
        assert value(observer, "policyd_learned_output_tokens", **learned) == 320
        observer.learned(Corrections())
        assert not any("learned" in name for name, _ in samples(observer)), "what is known no longer is not shown"

    def test_models_that_were_learned_of_are_bounded(self) -> None:
        observer, _ = telemetry()
        many = {Subject("input", "p", "", str(number)): Learned(1000, 20) for number in range(LABEL_VALUES_MAX + 9)}
        observer.learned(Corrections(many))
        assert sum(name == "policyd_learned_input_ratio" for name, _ in samples(observer)) == LABEL_VALUES_MAX

    def test_what_waits_for_the_store(self) -> None:
        observer, _ = telemetry()
        assert value(observer, "policyd_store_away") == 0
        status = OutageStatus(is_away=True, journalled=5, drained=3, unapplied=1, waiting_bytes=200, oldest_ms=1_000)
        observer.watch_outages(lambda: status, now_ms=lambda: 3_500)
        assert {
            name: found for (name, _), found in samples(observer).items() if "journal" in name or "away" in name
        } == {
            "policyd_store_away": 1,
            "policyd_journal_bytes": 200,
            "policyd_journal_oldest_seconds": 2.5,
            "policyd_journal_written_total": 5,
            "policyd_journal_drained_total": 3,
            "policyd_journal_unapplied_total": 1,
        }

    def test_every_name(self) -> None:
        """Dashboards and alerts are built on these."""
        observer, _ = telemetry()
        for record in (*RECORDS.values(), CHANGED):
            observer.ended(record, ESTIMATE)
        observer.store_call("reserve", 0.001, failed=True)
        observer.swept(Swept((), 0))
        observer.learned(LEARNED)
        observer.policy_in_force("abc")
        observer.policy_reloaded(ok=True)
        observer.prices_in_force(source="p 1", revision="123")
        observer.prices_reloaded(ok=True)
        # A histogram has one sample a bucket, beside its sum and count.
        names = {
            name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name, _ in samples(observer)
        }
        assert names == {
            "policyd_exchanges_total",
            "policyd_store_away",
            "policyd_journal_bytes",
            "policyd_journal_drained_total",
            "policyd_journal_oldest_seconds",
            "policyd_journal_unapplied_total",
            "policyd_journal_written_total",
            "policyd_learned_input_ratio",
            "policyd_learned_output_tokens",
            "policyd_denials_total",
            "policyd_changed_requests_total",
            "policyd_rules_total",
            "policyd_tokens_total",
            "policyd_cost_usd_total",
            "policyd_actual_to_expected_cost_ratio",
            "policyd_actual_to_held_cost_ratio",
            "policyd_decision_seconds",
            "policyd_exchange_seconds",
            "policyd_store_seconds",
            "policyd_store_errors_total",
            "policyd_errors_total",
            "policyd_cut_streams_total",
            "policyd_expired_reservations_total",
            "policyd_open_reservations",
            "policyd_open_exchanges",
            "policyd_policy_reloads_total",
            "policyd_policy_info",
            "policyd_prices_reloads_total",
            "policyd_prices_info",
            "policyd_build_info",
        }

    def test_what_is_charged_by_the_piece_is_no_token(self) -> None:
        observer, _ = telemetry()
        observer.ended(SERVED._replace(usage=Usage(input=7, pages=3, audio_input_ms=6_000)), ESTIMATE)
        for kind, tokens, pieces in (("input", 7, None), ("pages", None, 3), ("audio_input_ms", None, 6_000)):
            labels = {"kind": kind, "source": "reported", **WHO}
            assert value(observer, "policyd_tokens_total", **labels) == tokens
            assert value(observer, "policyd_pieces_total", **labels) == pieces

    def test_a_served_exchange(self) -> None:
        observer, lines = telemetry()
        observer.ended(SERVED, ESTIMATE)
        assert value(observer, "policyd_exchanges_total", decision="allow", outcome="served", **WHO) == 1
        assert {
            kind: value(observer, "policyd_tokens_total", kind=kind, source="reported", **WHO)
            for kind in ("input", "cached_input", "output", "reasoning", "audio_input")
        } == {"input": 7, "cached_input": 3, "output": 40, "reasoning": 10, "audio_input": None}
        assert value(observer, "policyd_cost_usd_total", outcome="served", **WHO) == 0.000521251
        assert value(observer, "policyd_exchange_seconds_sum", provider="openai") == 1.25
        assert value(observer, "policyd_decision_seconds_sum", decision="allow") == 0.001007
        ratios = {"provider": "openai", "confidence": "high"}
        expected, held = ESTIMATE.expected_cost_nanos, ESTIMATE.maximum_cost_nanos
        assert value(observer, "policyd_actual_to_expected_cost_ratio_sum", **ratios) == pytest.approx(
            521_251 / expected
        )
        assert value(observer, "policyd_actual_to_held_cost_ratio_sum", **ratios) == pytest.approx(521_251 / held)
        assert value(observer, "policyd_errors_total", error="") is None
        assert lines == [log_line(SERVED)]

    def test_a_denied_one(self) -> None:
        observer, _ = telemetry()
        observer.ended(RECORDS[Outcome.DENIED], None)
        assert value(observer, "policyd_exchanges_total", decision="deny", outcome="denied", **WHO) == 1
        assert value(observer, "policyd_denials_total", limit="rate", action="deny", **WHO) == 1
        assert value(observer, "policyd_denials_total", limit="project-monthly-spend", action="deny", **WHO) == 1
        assert value(observer, "policyd_denials_total", limit="trial", action="shadow", **WHO) == 1
        assert value(observer, "policyd_cost_usd_total", outcome="denied", **WHO) is None
        assert value(observer, "policyd_decision_seconds_count", decision="deny") == 1

    def test_one_that_limits_changed(self) -> None:
        observer, _ = telemetry()
        observer.ended(CHANGED, ESTIMATE)
        assert {
            (limit, action): value(observer, "policyd_changed_requests_total", limit=limit, action=action, **WHO)
            for limit, action in (("soft", "warn"), ("daily", "clamp"), ("monthly", "clamp"), ("dear", "switch_model"))
        } == {("soft", "warn"): 1, ("daily", "clamp"): 1, ("monthly", "clamp"): 1, ("dear", "switch_model"): 1}
        assert "policyd_denials_total" not in {name for name, _ in samples(observer)}

    def test_the_rules_that_fired(self) -> None:
        observer, _ = telemetry()
        observer.ended(CHANGED, ESTIMATE)
        assert value(observer, "policyd_rules_total", rule="told", mode="enabled", **WHO) == 1
        assert value(observer, "policyd_rules_total", rule="tried", mode="shadow", **WHO) == 1

    def test_only_what_was_served_tells_how_good_the_estimate_was(self) -> None:
        observer, _ = telemetry()
        for outcome, record in RECORDS.items():
            if outcome is not Outcome.SERVED:
                observer.ended(record, ESTIMATE)
        names = {name for name, _ in samples(observer)}
        assert "policyd_actual_to_expected_cost_ratio_count" not in names

    def test_cut_streams_and_errors(self) -> None:
        observer, _ = telemetry()
        observer.ended(RECORDS[Outcome.CUT], ESTIMATE)
        observer.ended(RECORDS[Outcome.FAILED], None)
        assert value(observer, "policyd_cut_streams_total", **WHO) == 1
        assert value(observer, "policyd_errors_total", error="budget_exceeded") == 1
        assert value(observer, "policyd_errors_total", error="the disk is full") == 1

    def test_the_store(self) -> None:
        observer, _ = telemetry()
        observer.store_call("reserve", 0.25, failed=False)
        observer.store_call("reserve", 0.5, failed=True)
        assert value(observer, "policyd_store_seconds_sum", operation="reserve") == 0.75
        assert value(observer, "policyd_store_errors_total", operation="reserve") == 1

    def test_sweeps(self) -> None:
        observer, _ = telemetry()
        observer.swept(Swept((SERVED, SERVED), 7))
        observer.swept(Swept((SERVED,), 5))
        assert value(observer, "policyd_expired_reservations_total") == 3
        assert value(observer, "policyd_open_reservations") == 5

    def test_what_the_server_tells(self) -> None:
        observer, _ = telemetry()
        open_exchanges = [3]
        observer.count_open_exchanges(lambda: open_exchanges[0])
        assert value(observer, "policyd_open_exchanges") == 3
        open_exchanges[0] = 4
        assert value(observer, "policyd_open_exchanges") == 4
        observer.policy_in_force("abc")
        observer.policy_in_force("def")
        assert value(observer, "policyd_policy_info", revision="def") == 1
        assert value(observer, "policyd_policy_info", revision="abc") is None
        observer.policy_reloaded(ok=False)
        assert value(observer, "policyd_policy_reloads_total", result="failed") == 1
        observer.prices_in_force(source="p 1", revision="123")
        observer.prices_in_force(source="p 2", revision="456")
        assert value(observer, "policyd_prices_info", source="p 2", revision="456") == 1
        assert value(observer, "policyd_prices_info", source="p 1", revision="123") is None
        observer.prices_reloaded(ok=False)
        assert value(observer, "policyd_prices_reloads_total", result="failed") == 1
        assert value(observer, "policyd_build_info", version="1.2.3") == 1

    def test_costs_are_summed_exactly(self) -> None:
        """A tenth of a cent a million times, and a billionth of a dollar once."""
        observer, _ = telemetry()
        for _ in range(100_000):
            observer._cost.add(("served", "openai", "gpt-4o"), 100_000)
        observer._cost.add(("served", "openai", "gpt-4o"), 1)
        assert value(observer, "policyd_cost_usd_total", outcome="served", **WHO) == 10.000000001
        assert observer._cost._totals["served", "openai", "gpt-4o"] == 10_000_000_001

    def test_created_series_are_left_out(self) -> None:
        observer, _ = telemetry()
        observer.ended(SERVED, ESTIMATE)
        assert not [name for name, _ in samples(observer) if name.endswith("_created")]


class TestLabels:
    def test_a_label_has_a_bounded_number_of_values(self) -> None:
        observer, _ = telemetry()
        for number in range(LABEL_VALUES_MAX + 50):
            observer.ended(SERVED._replace(model=f"model-{number}"), None)
        models = {dict(labels)["model"] for name, labels in samples(observer) if name == "policyd_exchanges_total"}
        assert len(models) == LABEL_VALUES_MAX + 1
        assert (
            value(
                observer,
                "policyd_exchanges_total",
                decision="allow",
                outcome="served",
                provider="openai",
                model="other",
            )
            == 50
        )
        # One that is known goes on being counted as itself.
        observer.ended(SERVED._replace(model="model-0"), None)
        assert (
            value(
                observer,
                "policyd_exchanges_total",
                decision="allow",
                outcome="served",
                provider="openai",
                model="model-0",
            )
            == 2
        )

    def test_made_up_models_take_no_place_from_real_ones(self) -> None:
        observer, _ = telemetry()
        made_up = RECORDS[Outcome.PROVIDER_ERROR]
        for number in range(LABEL_VALUES_MAX + 50):
            observer.ended(made_up._replace(model=f"made-up-{number}"), None)
        for number in range(LABEL_VALUES_MAX):
            observer.ended(SERVED._replace(model=f"real-{number}"), None)
        # One that was asked for before it was served is served all the same.
        observer.ended(made_up._replace(model="real-0"), None)
        models = [dict(labels)["model"] for name, labels in samples(observer) if name == "policyd_exchanges_total"]
        assert sum(model.startswith("made-up-") for model in models) == UNSERVED_MODELS_MAX
        assert {model for model in models if model.startswith("real-")} == {
            f"real-{number}" for number in range(LABEL_VALUES_MAX)
        }
        assert models.count("real-0") == 2

    def test_errors_are_bounded_too(self) -> None:
        observer, _ = telemetry()
        for number in range(LABEL_VALUES_MAX + 3):
            observer.ended(SERVED._replace(error=f"error-{number}"), None)
        assert value(observer, "policyd_errors_total", error="other") == 3

    def test_an_endless_value_is_not_shown(self) -> None:
        observer, _ = telemetry()
        observer.ended(SERVED._replace(model="m" * (LABEL_LENGTH_MAX + 1)), None)
        assert (
            value(
                observer,
                "policyd_exchanges_total",
                decision="allow",
                outcome="served",
                provider="openai",
                model="other",
            )
            == 1
        )

    def test_attributes_are_labels_only_where_switched_on(self) -> None:
        plain, _ = telemetry()
        plain.ended(SERVED, ESTIMATE)
        assert not [labels for _, labels in samples(plain) if {"user", "project"} & dict(labels).keys()]
        by_user, _ = telemetry("user", "session")
        by_user.ended(SERVED, ESTIMATE)
        labels = {**WHO, "user": "ann", "session": ""}
        assert value(by_user, "policyd_exchanges_total", decision="allow", outcome="served", **labels) == 1
        assert value(by_user, "policyd_cost_usd_total", outcome="served", **labels) == 0.000521251

    def test_what_is_a_label_already_is_none_twice(self) -> None:
        observer, _ = telemetry("model", "provider", "user")
        observer.ended(SERVED, ESTIMATE)
        assert value(observer, "policyd_exchanges_total", decision="allow", outcome="served", user="ann", **WHO) == 1


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The two ends of a pipe: of the reader, and of the writer."""
    reading, writing = os.pipe()
    reader, writer = os.fdopen(reading, "rb"), os.fdopen(writing, "wb")
    yield reader, writer
    reader.close()
    with suppress(OSError):
        writer.close()


FULL_PIPE = 1_000_000
"""More bytes than a pipe takes before somebody reads it."""


class TestTheLineWriter:
    def test_writes_every_line_in_order(self) -> None:
        stream = io.BytesIO()
        writer = LineWriter(stream)
        for number in range(10_000):
            writer.write(b"%d" % number)
        writer.close()
        assert stream.getvalue() == b"".join(b"%d\n" % number for number in range(10_000))

    def test_writes_a_line_at_once(self, pipe: tuple[BinaryIO, BinaryIO]) -> None:
        reader, stream = pipe
        writer = LineWriter(stream)
        writer.write(b"one")
        assert reader.readline() == b"one\n"
        writer.write(b"two")
        assert reader.readline() == b"two\n"
        writer.close()

    def test_a_reader_that_stalls_holds_nobody_up(self, pipe: tuple[BinaryIO, BinaryIO]) -> None:
        reader, stream = pipe
        writer = LineWriter(stream, lines_waiting_max=5)
        writer.write(b"x" * FULL_PIPE)
        # The thread stands in this line now, or soon will.
        assert reader.read(1) == b"x"
        for number in range(105):
            writer.write(b"%d" % number)
        assert reader.readline() == b"x" * (FULL_PIPE - 1) + b"\n"
        assert [reader.readline() for _ in range(5)] == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]
        assert reader.readline() == b'{"event":"log_lines_dropped","count":100}\n'
        # Told once.
        writer.write(b"more")
        assert reader.readline() == b"more\n"
        writer.close()

    def test_a_reader_that_stalls_for_good_does_not_hold_up_the_end(self, pipe: tuple[BinaryIO, BinaryIO]) -> None:
        reader, stream = pipe
        writer = LineWriter(stream, lines_waiting_max=1, close_seconds_max=0.01)
        writer.write(b"x" * FULL_PIPE)
        assert reader.read(1) == b"x"
        writer.write(b"waits")
        writer.close()
        # Else the thread would stay in this process for ever.
        reader.close()
        writer._thread.join()

    def test_a_reader_that_is_gone_is_told_of_once(
        self, pipe: tuple[BinaryIO, BinaryIO], caplog: pytest.LogCaptureFixture
    ) -> None:
        reader, stream = pipe
        reader.close()
        writer = LineWriter(stream, lines_waiting_max=10)
        writer.write(b"one")
        writer._thread.join()
        for _ in range(1000):
            writer.write(b"more")
        assert writer._lines.empty()
        writer.close()
        assert len(caplog.messages) == 1
        assert "no longer logged" in caplog.text

    def test_a_disk_that_is_full_for_a_while(self, caplog: pytest.LogCaptureFixture) -> None:
        class Disk(io.BytesIO):
            full = True
            refused = threading.Event()

            def write(self, lines: Any) -> int:
                if self.full:
                    self.refused.set()
                    raise OSError(errno.ENOSPC, "No space left on device")
                return super().write(lines)

        disk = Disk()
        writer = LineWriter(cast("BinaryIO", disk))
        writer.write(b"lost")
        assert disk.refused.wait(5)
        disk.full = False
        writer.write(b"kept")
        writer.close()
        assert disk.getvalue() == b'kept\n{"event":"log_lines_dropped","count":1}\n'
        assert "log lines are being lost" in caplog.text

    def test_a_stream_that_is_closed(self, caplog: pytest.LogCaptureFixture) -> None:
        stream = io.BytesIO()
        stream.close()
        writer = LineWriter(cast("BinaryIO", stream))
        writer.write(b"a")
        writer.close()
        assert not writer._thread.is_alive()
        assert "no longer logged" in caplog.text

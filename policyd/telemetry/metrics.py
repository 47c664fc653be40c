"""Metrics, fed by the one record that an exchange ends with.

Prometheus counts in floats; money does not. Costs are summed as integers of nano-USD here and turned into dollars only
when a scrape reads them.

Labels are bounded. Only the first `LABEL_VALUES_MAX` different values of a label get a time series of their own; later
ones count as `other`. Model names come from clients, who can make up any number of them: a model that no provider has
served yet gets one of `UNSERVED_MODELS_MAX` places apart, so that made-up names take none from real ones. Attributes
such as user or session become labels only where the operator switched them on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, disable_created_metrics

from policyd.core.estimate import Estimate
from policyd.core.events import OperatorEvent
from policyd.core.money import NANOS_PER_USD
from policyd.core.record import Outcome, Record
from policyd.core.usage import PIECE_KINDS
from policyd.learning import Corrections
from policyd.stores.base import Swept
from policyd.stores.outage.store import OutageStatus
from policyd.telemetry.families import Counts, Distributions
from policyd.telemetry.log_line import log_line
from policyd.telemetry.outages import Outages

LABEL_VALUES_MAX = 500
UNSERVED_MODELS_MAX = 50
"""How many models that were asked for and never served have a time series of their own."""

LABEL_LENGTH_MAX = 256
"""A longer value counts as `other` too."""

OTHER = "other"

_SECONDS_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_DURATION_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_RATIO_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, 10)

_SERVED = (Outcome.SERVED, Outcome.CUT)
"""Outcomes by which a provider has shown that it knows the model."""


class Telemetry:
    """The enforcer's observer: metrics in `registry`, log lines through `write_line`."""

    def __init__(
        self,
        *,
        version: str,
        write_line: Callable[[bytes], None],
        attribute_labels: tuple[str, ...] = (),
    ) -> None:
        # A `_created` series beside every counter doubles what a scrape carries and tells nobody anything.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._write_line = write_line
        # Provider and model are labels already.
        attribute_labels = tuple(name for name in attribute_labels if name not in ("provider", "model"))
        self._attribute_labels = attribute_labels
        self._seen: dict[str, set[str]] = defaultdict(set)

        who = ("provider", "model", *attribute_labels)
        self._exchanges = Counts(
            "policyd_exchanges", "Exchanges by how they ended.", ("decision", "outcome", *who), registry=registry
        )
        self._denials = Counts(
            "policyd_denials",
            "Requests that a limit, a rule or a block refused, or a limit would have refused in shadow.",
            ("limit", "action", *who),
            registry=registry,
        )
        self._changed = Counts(
            "policyd_changed_requests",
            "Requests that limits let pass with a warning, or that limits or rules clamped or sent to another model.",
            ("limit", "action", *who),
            registry=registry,
        )
        self._rules = Counts(
            "policyd_rules",
            "Requests that a rule or an anomaly fired for, or a rule would have in shadow.",
            ("rule", "mode", *who),
            registry=registry,
        )
        self._events = Counter(
            "policyd_events",
            "Events that rules and anomalies left for operators, one for each scope and period.",
            ("source",),
            registry=registry,
        )
        self._tokens = Counts("policyd_tokens", "Tokens by kind.", ("kind", "source", *who), registry=registry)
        self._pieces = Counts(
            "policyd_pieces",
            "What is charged by the piece or by the time, by kind.",
            ("kind", "source", *who),
            registry=registry,
        )
        self._cost = Counts(
            "policyd_cost_usd",
            "Money charged, in US dollars.",
            ("outcome", *who),
            registry=registry,
            unit=NANOS_PER_USD,
        )
        self._accuracy = Distributions(
            "policyd_actual_to_expected_cost_ratio",
            "Actual cost over the cost that was expected, for served exchanges.",
            ("provider", "confidence"),
            buckets=_RATIO_BUCKETS,
            registry=registry,
        )
        self._hold_use = Distributions(
            "policyd_actual_to_held_cost_ratio",
            "Actual cost over the cost that was held, for served exchanges.",
            ("provider", "confidence"),
            buckets=_RATIO_BUCKETS,
            registry=registry,
        )
        self._decision_seconds = Distributions(
            "policyd_decision_seconds",
            "Time from the whole request to the decision: reading, counting, pricing and reserving.",
            ("decision",),
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self._duration_seconds = Distributions(
            "policyd_exchange_seconds",
            "Time from the decision to the exchange's end.",
            ("provider",),
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self._store_seconds = Distributions(
            "policyd_store_seconds", "Time of store calls.", ("operation",), buckets=_SECONDS_BUCKETS, registry=registry
        )
        self._store_errors = Counts(
            "policyd_store_errors", "Store calls that failed.", ("operation",), registry=registry
        )
        self._errors = Counts(
            "policyd_errors", "Exchanges that ended with an error, by error.", ("error",), registry=registry
        )
        self._cut_streams = Counts(
            "policyd_cut_streams", "Streams that were ended because the budget was used up.", who, registry=registry
        )
        self._expired = Counter(
            "policyd_expired_reservations", "Holds whose exchange never came back.", registry=registry
        )
        self._open_holds = Gauge(
            "policyd_open_reservations", "Holds that are open in the store, as of the last sweep.", registry=registry
        )
        self._open_exchanges = Gauge(
            "policyd_open_exchanges", "Exchanges that are passing through this process now.", registry=registry
        )
        self._input_ratio = Gauge(
            "policyd_learned_input_ratio",
            "Input tokens that providers report over those that are counted, where counts are inexact.",
            ("provider", "model"),
            registry=registry,
        )
        self._output_tokens = Gauge(
            "policyd_learned_output_tokens",
            "How long a reply is expected to be, in tokens.",
            ("provider", "endpoint", "model"),
            registry=registry,
        )
        self._reloads = Counter(
            "policyd_policy_reloads", "Times the policy file was read again.", ("result",), registry=registry
        )
        self._policy = Info("policyd_policy", "The policy in force.", registry=registry)
        self._prices_reloads = Counter(
            "policyd_prices_reloads", "Times the price table was read again.", ("result",), registry=registry
        )
        self._prices = Info("policyd_prices", "The price table in force.", registry=registry)
        self._outages = Outages()
        registry.register(self._outages)
        Info("policyd_build", "What runs here.", registry=registry).info({"version": version})

    # --- the enforcer's observer ---

    def ended(self, record: Record, estimate: Estimate | None) -> None:
        who = self._who(record)
        self._exchanges.add((record.decision, record.outcome, *who))
        self._count_actions(record, who)
        if record.usage is not None:
            for kind, units in record.usage.by_kind().items():
                counter = self._pieces if kind in PIECE_KINDS else self._tokens
                counter.add((kind, record.usage_source, *who), units)
        if record.actual_cost_nanos:
            self._cost.add((record.outcome, *who), record.actual_cost_nanos)
        if record.outcome is Outcome.CUT:
            self._cut_streams.add(who)
        if record.error is not None:
            self._errors.add((self._bounded("error", record.error),))
        if estimate is not None:
            self._measure(record, estimate)
        if record.policy_us:
            self._decision_seconds.observe((record.decision,), record.policy_us / 1_000_000)
        self._write_line(log_line(record))

    def store_call(self, operation: str, seconds: float, *, failed: bool) -> None:
        self._store_seconds.observe((operation,), seconds)
        if failed:
            self._store_errors.add((operation,))

    def swept(self, swept: Swept) -> None:
        self._open_holds.set(swept.open_reservations)
        self._expired.inc(len(swept.expired))

    def learned(self, corrections: Corrections) -> None:
        self._input_ratio.clear()
        self._output_tokens.clear()
        for subject, found in corrections.learned.items():
            model = self._bounded("model", subject.model)
            if model == OTHER:
                continue
            if subject.kind == "input":
                self._input_ratio.labels(subject.provider, model).set(found.value / 1000)
            else:
                self._output_tokens.labels(subject.provider, subject.endpoint, model).set(found.value)

    def emitted(self, event: OperatorEvent) -> None:
        self._events.labels(event.source).inc()

    # --- what the server tells ---

    def count_open_exchanges(self, count: Callable[[], int]) -> None:
        """Reads the number of open exchanges from `count` at every scrape."""
        self._open_exchanges.set_function(count)

    def watch_outages(self, status: Callable[[], OutageStatus], *, now_ms: Callable[[], int]) -> None:
        """Reads at every scrape how things stand between this process and its store."""
        self._outages.watch(status, now_ms=now_ms)

    def policy_in_force(self, revision: str) -> None:
        self._policy.info({"revision": revision})

    def policy_reloaded(self, *, ok: bool) -> None:
        self._reloads.labels("ok" if ok else "failed").inc()

    def prices_in_force(self, *, source: str, revision: str) -> None:
        self._prices.info({"source": source, "revision": revision})

    def prices_reloaded(self, *, ok: bool) -> None:
        self._prices_reloads.labels("ok" if ok else "failed").inc()

    # --- parts ---

    def _count_actions(self, record: Record, who: tuple[str, ...]) -> None:
        """Counts what limits and rules did."""
        for limit in record.denied_by:
            self._denials.add((self._bounded("limit", limit), "deny", *who))
        for limit in record.shadow_denied_by:
            self._denials.add((self._bounded("limit", limit), "shadow", *who))
        for limit in record.warned_by:
            self._changed.add((limit, "warn", *who))
        for limit in record.clamped_by:
            self._changed.add((limit, "clamp", *who))
        for limit in record.switched_by:
            self._changed.add((limit, "switch_model", *who))
        for rule in record.rules:
            self._rules.add((rule, "enabled", *who))
        for rule in record.shadow_rules:
            self._rules.add((rule, "shadow", *who))

    def _measure(self, record: Record, estimate: Estimate) -> None:
        self._duration_seconds.observe((record.provider,), record.duration_ms / 1000)
        if record.outcome is not Outcome.SERVED or record.actual_cost_nanos is None:
            return
        labels = (record.provider, record.confidence or "")
        if estimate.expected_cost_nanos:
            self._accuracy.observe(labels, record.actual_cost_nanos / estimate.expected_cost_nanos)
        if estimate.maximum_cost_nanos:
            self._hold_use.observe(labels, record.actual_cost_nanos / estimate.maximum_cost_nanos)

    def _who(self, record: Record) -> tuple[str, ...]:
        who = (self._bounded("provider", record.provider), self._model(record))
        if not self._attribute_labels:
            return who
        return who + tuple(self._bounded(name, record.attributes.get(name, "")) for name in self._attribute_labels)

    def _model(self, record: Record) -> str:
        if record.outcome in _SERVED or record.model in self._seen["model"]:
            return self._bounded("model", record.model)
        return self._bounded("unserved model", record.model, values_max=UNSERVED_MODELS_MAX)

    def _bounded(self, label: str, value: str, *, values_max: int = LABEL_VALUES_MAX) -> str:
        seen = self._seen[label]
        if value not in seen:
            if len(seen) >= values_max or len(value) > LABEL_LENGTH_MAX:
                return OTHER
            seen.add(value)
        return value

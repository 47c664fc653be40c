"""One recorded exchange through the real readers, counter, estimator and price book, and how true each number is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from random import Random

from policyd.core.errors import RequestError
from policyd.core.estimate import Estimate, cost_nanos
from policyd.core.policy import default_policy
from policyd.core.price_book import PriceBook
from policyd.core.pricing import Price
from policyd.core.record import Outcome, Record
from policyd.core.usage import NO_USAGE, Usage
from policyd.estimator import Ask, Estimator, with_request_fee
from policyd.ext_proc.charging import ended
from policyd.ext_proc.meter import ReplyMeter
from policyd.price_finding import price_served
from policyd.prices.table import load_price_book
from policyd.providers.base import HeaderReader, Prompt, RequestFacts, WireFormat
from policyd.providers.endpoint import Endpoint
from policyd.providers.framing.choice import framer_for
from policyd.tokens import TokenCounter
from tests.accuracy.counts import EXACT_CLASSES, count_excuse
from tests.accuracy.genai import price_disagreement
from tests.accuracy.measured import Excuse, Measured, Number
from tests.accuracy.recorded import endpoint_of, headers, reply_body, reply_head, request_of, vendor_id
from tests.accuracy.reported import disagreements, has_truth, reported_input_tokens
from tests.accuracy.sessions import FORMATS, read_session, session_disagreements
from tests.providers.replay import random_chunks, single_bytes
from tests.recordings import Recording

SINGLE_BYTES_MAX = 8_192
"""The longest reply that is read one byte at a time as well; longer ones are cut at random alone."""

RANDOM_CUTS = 2
"""How often each reply is cut at random."""

POLICY = default_policy()


class Measurer:
    def __init__(self, *, seed: int, prices: PriceBook | None = None) -> None:
        """Cuts bodies by `seed`, and prices by the published table unless `prices` are given."""
        self._seed = seed
        self._prices = prices or load_price_book()
        self._estimator = Estimator(prices=self._prices, counter=TokenCounter())

    def measure(self, recording: Recording) -> Measured:
        measured = Measured(recording["id"], recording["wire"], is_synthetic="suspect-synthetic" in recording["notes"])
        measure = self._measure_session if recording["wire"] in FORMATS else self._measure_exchange
        try:
            measure(recording, measured)
        except Exception as error:  # noqa: BLE001 - a reader that raises is what this is there to find
            measured.judge(Number.USAGE, f"{type(error).__name__}: {error}")
        return measured

    def _measure_exchange(self, recording: Recording, measured: Measured) -> None:
        endpoint = endpoint_of(recording)
        if endpoint is None:
            measured.unmetered = "no wire format of policyd's"
            return
        if endpoint.wire is None:
            measured.unmetered = f"free of charge ({endpoint.name})"
            return
        facts, measured.request_unread = _facts_of(recording, endpoint, endpoint.wire)
        exchange = _Exchange(recording, endpoint, endpoint.wire, facts, self._estimator, self._seed)
        if measured.request_unread:
            exchange.check_usage(measured)
        else:
            exchange.measure(measured)

    def _measure_session(self, recording: Recording, measured: Measured) -> None:
        """A session's responses are charged one by one, so it is their usages and their prices that are compared."""
        readings = [read_session(recording, cut) for cut in _cuts(recording, self._seed)]
        reader, ends = readings[0]
        if any(other != ends for _, other in readings):
            measured.judge(Number.USAGE, "it depends on where the messages are cut")
            return
        measured.judge(Number.USAGE, ", ".join(session_disagreements(ends, recording)))
        model, provider, at_ms = reader.response_model or reader.model, vendor_id(recording), moment_ms(recording)
        priced = self._prices.find(provider=provider, model=model, at_ms=at_ms, terms={})
        compared = [
            price_disagreement(
                priced.price if priced is not None else None,
                end.usage or NO_USAGE,
                provider=provider,
                models=(model,),
                at_ms=at_ms,
                terms={},
            )
            for end in ends
        ]
        if any(wrong is not None for wrong in compared):
            measured.judge(Number.PRICE, ", ".join(filter(None, compared)))


def _cuts(recording: Recording, seed: int) -> Iterator[Callable[[bytes], Iterable[bytes]]]:
    """Ways to cut a body: not at all, at random places, and one byte at a time."""
    yield lambda body: [body] if body else []
    for turn in range(RANDOM_CUTS):
        yield lambda body, turn=turn: random_chunks(body, Random(f"{seed} {recording['id']} {turn}"))  # type: ignore[misc]
    yield lambda body: single_bytes(body) if len(body) <= SINGLE_BYTES_MAX else [body]


class _Exchange:
    """One exchange that is metered."""

    def __init__(
        self,
        recording: Recording,
        endpoint: Endpoint,
        wire: WireFormat,
        facts: RequestFacts,
        estimator: Estimator,
        seed: int,
    ) -> None:
        self._recording = recording
        self._endpoint = endpoint
        self._wire = wire
        self._estimator = estimator
        self._seed = seed
        self._at_ms = moment_ms(recording)
        self._facts = facts
        self._estimate = self._estimated()

    def measure(self, measured: Measured) -> None:
        meter = self.check_usage(measured)
        self._check_count(measured)
        ending = ended(reply_head(self._recording), meter, self._estimate)
        if ending.usage is None:
            return
        record = Record(
            request_id=measured.id,
            at_ms=self._at_ms,
            outcome=Outcome.SERVED,
            decision="allow",
            provider=self._endpoint.vendor.id,
            endpoint=self._endpoint.name,
            model=self._facts.model,
            attributes={},
            terms=self._facts.terms,
        )
        served = price_served(
            record,
            self._estimate.price,
            self._estimate.tariff,
            response_model=ending.response_model,
            terms=ending.terms,
        )
        terms = {**self._facts.terms, **ending.terms}
        wrong = price_disagreement(
            served,
            ending.usage,
            provider=self._endpoint.vendor.id,
            models=(ending.response_model or self._facts.model, self._facts.model),
            at_ms=self._at_ms,
            terms=terms,
        )
        if wrong is not None:
            measured.judge(Number.PRICE, wrong)
        if meter.reader.usage is not None:
            self._check_hold(measured, ending.usage, served)
            self._measure_input(measured)

    def _estimated(self) -> Estimate:
        ask = Ask(
            request_id=self._recording["id"],
            provider=self._endpoint.vendor.id,
            endpoint=self._endpoint.name,
            facts=self._facts,
            identity={},
            policy=POLICY,
        )
        return asyncio.run(self._estimator.estimate(ask, now_ms=self._at_ms))

    def _read(self, chunks: Iterable[bytes]) -> ReplyMeter:
        """The reply as it is metered in production, with whatever it needs granted."""
        head = reply_head(self._recording)
        reader = self._wire.reply_reader(self._facts, usage_added=False)
        if isinstance(reader, HeaderReader):
            reader.read_headers(headers(self._recording["response_headers"]))
        counter, vendor, model = self._estimator.counter, self._endpoint.vendor.id, self._facts.model
        meter = ReplyMeter(
            reader=reader,
            framing=head.framing(streamed=self._facts.streamed),
            framer=framer_for(head.content_type),
            decoder=None,
            estimate=self._estimate,
            held=self._estimate.maximum,
            count_text=lambda text: counter.count_text(text, provider=vendor, model=model),
        )
        for chunk in chunks:
            meter.feed(chunk)
            while short := meter.shortfall_tokens():
                meter.grant(meter.top_up_tokens(short))
                meter.read_on()
        meter.finish()
        return meter

    # --- the four numbers ---

    def check_usage(self, measured: Measured) -> ReplyMeter:
        """Reads the reply in every cutting; returns the one that read it whole."""
        body = reply_body(self._recording)
        meters = [self._read(cut(body)) for cut in _cuts(self._recording, self._seed)]
        usages = [meter.reader.usage for meter in meters]
        if any(usage != usages[0] for usage in usages):
            measured.judge(Number.USAGE, "it depends on where the body is cut")
        elif has_truth(self._recording):
            wrong = disagreements(usages[0], self._recording)
            measured.judge(Number.USAGE, ", ".join(wrong))
        elif usages[0] is not None and usages[0].tokens and self._recording["expected_usage"] is None:
            # What is charged by the piece is not among the recorded numbers.
            measured.judge(Number.USAGE, f"none was reported, and {usages[0].by_kind()} read")
        return meters[0]

    def _check_count(self, measured: Measured) -> None:
        check = self._recording["count_check"]
        if not check or check["class"] not in EXACT_CLASSES:
            return
        ours, theirs = self._estimate.expected.input, check["provider_count"]
        hides_input = self._facts.prompt.hides_input
        excuse = count_excuse(self._recording, ours=ours, at_ms=self._at_ms, hides_input=hides_input)
        measured.judge(Number.COUNT, f"{ours} tokens, not {theirs}" if ours != theirs else "", excuse)

    def _check_hold(self, measured: Measured, usage: Usage, served: Price | None) -> None:
        if self._facts.max_output_tokens is None or self._recording["status"] >= 400:
            return
        cost, held = cost_nanos(served, with_request_fee(usage, served)), self._estimate.maximum_cost_nanos
        maximum = self._estimate.maximum
        excuse = ""
        if usage.output_tokens > maximum.output_tokens:
            excuse = Excuse.LONGER_REPLY
        elif self._facts.prompt.hides_input:
            excuse = Excuse.HIDDEN_INPUT
        reason = (
            f"{cost} nano-USD for {usage.input_tokens} + {usage.output_tokens} tokens, {held} held for "
            f"{maximum.input_tokens} + {maximum.output_tokens} ({self._endpoint.vendor.id} {self._facts.model})"
        )
        measured.judge(Number.HOLD, reason if cost > held else "", excuse)

    def _measure_input(self, measured: Measured) -> None:
        reported = reported_input_tokens(self._recording)
        if reported and not self._facts.prompt.hides_input:
            measured.input_error = abs(self._estimate.expected.input_tokens - reported) / reported


def _facts_of(recording: Recording, endpoint: Endpoint, wire: WireFormat) -> tuple[RequestFacts, str]:
    """What the request says; where it was not recorded, or not so that it can be read, what a reply's reader needs."""
    unread = "the request was not recorded"
    if recording["request_body"]:
        try:
            return wire.read_request(request_of(recording, endpoint), vendor=endpoint.vendor), ""
        except RequestError as error:
            unread = f"the request is refused: {error}"
    stand_in = RequestFacts(
        recording["request_model"] or "unknown",
        streamed=bool(recording["streamed"]),
        prompt=Prompt(()),
        max_output_tokens=None,
    )
    return stand_in, unread


_NOW_MS = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()) * 1000
_CREATED = re.compile(r'"created(?:_at)?": ?([0-9]{10})\b')


def moment_ms(recording: Recording) -> int:
    """When the exchange took place, as far as its reply says so."""
    created = _CREATED.search(recording["response_body"])
    return int(created[1]) * 1000 if created else _NOW_MS

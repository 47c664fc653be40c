"""One recorded exchange through the real readers, counter, estimator and price book, and how true each number is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import localcontext
from enum import StrEnum
from random import Random

from genai_prices.data import providers as genai_providers
from genai_prices.types import ModelInfo, ModelPrice
from genai_prices.types import Provider as GenaiProvider

from policyd.core.errors import RequestError
from policyd.core.estimate import Estimate, cost_nanos
from policyd.core.policy import default_policy
from policyd.core.pricing import Price, PriceBook
from policyd.core.record import Outcome, Record
from policyd.core.usage import PIECE_KINDS, Usage
from policyd.estimator import Ask, Estimator, output_token_amounts, price_served, with_request_fee
from policyd.ext_proc.charging import ended
from policyd.ext_proc.meter import ReplyMeter
from policyd.prices.compile import KIND_BY_PRICE_KEY
from policyd.prices.table import load_price_book
from policyd.providers.base import HeaderReader, Prompt, RequestFacts, WireFormat
from policyd.providers.endpoint import Endpoint
from policyd.providers.framing.choice import framer_for
from policyd.tokens import TokenCounter
from tests.accuracy.recorded import endpoint_of, headers, reply_body, reply_head, request_of
from tests.accuracy.reported import disagreements, has_truth, reported_input_tokens
from tests.prices.test_price_agreement import AUDIO_TOKENS, cost_of, is_priced
from tests.providers.replay import random_chunks, single_bytes
from tests.recordings import Recording

SINGLE_BYTES_MAX = 8_192
"""The longest reply that is read one byte at a time as well; longer ones are cut at random alone."""

RANDOM_CUTS = 2
"""How often each reply is cut at random."""

POLICY = default_policy()


class Number(StrEnum):
    """What is measured of an exchange."""

    USAGE = "usage"
    PRICE = "price"
    COUNT = "count"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Miss:
    """A number that was wrong, and why. `excuse` names the class of misses that no reader could get right."""

    number: Number
    reason: str
    excuse: str = ""


@dataclass(slots=True)
class Measured:
    """What became of one recorded exchange."""

    id: str
    wire: str
    unmetered: str = ""
    """Why nothing was measured, if so."""
    request_unread: str = ""
    """Why there is no request to go by, so that the reply's usage alone was measured."""
    right: set[Number] = field(default_factory=set)
    misses: list[Miss] = field(default_factory=list)
    input_error: float | None = None
    """By how much the estimated input is off, as a share of what was reported."""


class Excuse(StrEnum):
    """The classes of misses that are named and not held against the figures."""

    LONGER_REPLY = "the reply is longer than the maximum that was asked for"
    HIDDEN_INPUT = (
        "input that the wire does not show (server-side tools, files by id, earlier responses, stored prompts)"
    )
    SYNTHETIC = "made by hand, not recorded"
    FIRST_WEEKS = "the first weeks of the Responses API (until April 2025), which counted 18 tokens more"


class Measurer:
    def __init__(self, *, seed: int, prices: PriceBook | None = None) -> None:
        """Cuts bodies by `seed`, and prices by the published table unless `prices` are given."""
        self._seed = seed
        self._estimator = Estimator(prices=prices or load_price_book(), counter=TokenCounter())

    def measure(self, recording: Recording) -> Measured:
        measured = Measured(recording["id"], recording["wire"])
        if recording["framing"].startswith("websocket"):
            measured.unmetered = "WebSocket: not read yet"
            return measured
        endpoint = endpoint_of(recording)
        if endpoint is None:
            measured.unmetered = "no wire format of policyd's"
            return measured
        if endpoint.wire is None:
            measured.unmetered = f"free of charge ({endpoint.name})"
            return measured
        facts, unread = _facts_of(recording, endpoint, endpoint.wire)
        exchange = _Exchange(recording, endpoint, endpoint.wire, facts, self._estimator, self._seed)
        try:
            if unread:
                measured.request_unread = unread
                exchange.check_usage(measured)
            else:
                exchange.measure(measured)
        except Exception as error:  # noqa: BLE001 - a reader that raises is what this is there to find
            measured.misses.append(Miss(Number.USAGE, f"{type(error).__name__}: {error}"))
        return measured


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
        self._check_price(measured, ending.usage, served, model=ending.response_model or self._facts.model, terms=terms)
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

    def _cuttings(self) -> Iterator[Iterable[bytes]]:
        """The reply's body whole, cut at random places, and one byte at a time."""
        body = reply_body(self._recording)
        yield [body] if body else []
        for turn in range(RANDOM_CUTS):
            yield random_chunks(body, Random(f"{self._seed} {self._recording['id']} {turn}"))
        if len(body) <= SINGLE_BYTES_MAX:
            yield single_bytes(body)

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
            token_amounts=output_token_amounts(self._estimate),
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
        meters = [self._read(cuts) for cuts in self._cuttings()]
        usages = [meter.reader.usage for meter in meters]
        if any(usage != usages[0] for usage in usages):
            measured.misses.append(Miss(Number.USAGE, "it depends on where the body is cut"))
        elif has_truth(self._recording):
            wrong = disagreements(usages[0], self._recording)
            self._judge(measured, Number.USAGE, ", ".join(wrong))
        elif usages[0] is not None and usages[0].tokens and self._recording["expected_usage"] is None:
            # What is charged by the piece is not among the recorded numbers.
            measured.misses.append(Miss(Number.USAGE, f"none was reported, and {usages[0].by_kind()} read"))
        return meters[0]

    def _check_price(
        self, measured: Measured, usage: Usage, served: Price | None, *, model: str, terms: dict[str, str]
    ) -> None:
        provider = _GENAI.get(self._endpoint.vendor.id)
        known = _genai_model(provider, model) or _genai_model(provider, self._facts.model)
        at = datetime.fromtimestamp(self._at_ms / 1000, UTC)
        if provider is None or known is None or not is_priced(known.get_prices(at, terms)):
            return
        usage = with_request_fee(_priced_by_genai(usage, known.get_prices(at, terms)), served)
        with localcontext() as context:
            context.prec = 80
            theirs = cost_of(known, provider, usage, at, terms)
        ours = cost_nanos(served, usage)
        self._judge(measured, Number.PRICE, f"{ours} nano-USD, not {theirs}" if abs(ours - theirs) > 1 else "")

    def _check_count(self, measured: Measured) -> None:
        check = self._recording["count_check"]
        if not check or check["class"] not in EXACT_CLASSES:
            return
        ours, theirs = self._estimate.expected.input, check["provider_count"]
        excuse = ""
        if self._facts.prompt.hides_input:
            excuse = Excuse.HIDDEN_INPUT
        elif self._recording["wire"] == "openai-responses" and self._at_ms < FIRST_WEEKS_UNTIL_MS:
            excuse = Excuse.FIRST_WEEKS
        self._judge(measured, Number.COUNT, f"{ours} tokens, not {theirs}" if ours != theirs else "", excuse)

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
        self._judge(measured, Number.HOLD, reason if cost > held else "", excuse)

    def _measure_input(self, measured: Measured) -> None:
        reported = reported_input_tokens(self._recording)
        if reported and not self._facts.prompt.hides_input:
            measured.input_error = abs(self._estimate.expected.input_tokens - reported) / reported

    def _judge(self, measured: Measured, number: Number, wrong: str, excuse: str = "") -> None:
        if not wrong:
            measured.right.add(number)
            return
        if "suspect-synthetic" in self._recording["notes"]:
            excuse = Excuse.SYNTHETIC
        measured.misses.append(Miss(number, wrong, excuse))


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


EXACT_CLASSES = ("text-plain", "raw-prompt", "embedding-text")
"""The requests whose count OpenAI's published vocabulary and chat format give: of text alone."""

FIRST_WEEKS_UNTIL_MS = 1_744_000_000_000

_NOW_MS = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()) * 1000
_CREATED = re.compile(r'"created(?:_at)?": ?([0-9]{10})\b')


def moment_ms(recording: Recording) -> int:
    """When the exchange took place, as far as its reply says so."""
    created = _CREATED.search(recording["response_body"])
    return int(created[1]) * 1000 if created else _NOW_MS


_GENAI = {provider.id: provider for provider in genai_providers}


def _genai_model(provider: GenaiProvider | None, name: str) -> ModelInfo | None:
    return provider.find_model(name, all_providers=genai_providers) if provider is not None and name else None


def _priced_by_genai(usage: Usage, prices: ModelPrice) -> Usage:
    """`usage` without what genai-prices has no price for: fees that it leaves out, audio that is sold by the time."""
    priced = {KIND_BY_PRICE_KEY[key] for key, price in vars(prices).items() if price is not None}
    left_out = {*PIECE_KINDS} - priced
    if prices.audio_hours is not None:
        left_out |= {*AUDIO_TOKENS}
    return replace(usage, **dict.fromkeys(left_out, 0))

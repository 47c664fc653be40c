"""What exchanges teach about the next ones: how far input counts are off, and how long replies are.

Where a provider publishes no tokenizer, or renders tools in a way of its own, the input is an approximation. Each
exchange whose provider reported its usage tells by how much: the ratio of the reported count to ours. It also tells how
long the reply was. Both are kept as histograms, per provider and model, and for lengths per endpoint too: an exchange
adds one to one bucket, so that one odd exchange moves nothing, whatever numbers it reports.

- **Input**: the median ratio of the last `DAYS` days, in steps of 5 %, between 0.5 and 2. Only inexact counts of
  `COUNTED_TOKENS_MIN` tokens or more whose input is all on the wire teach it, and nothing else is corrected by it.
- **Output**: the length that three of four replies do not pass, in steps of a quarter.

Below `EXCHANGES_MIN` exchanges nothing is said. Histograms are counters of the store, one set a day, which replicas
share; days that are older count no more, so what was learned follows a model as it changes.

This is arithmetic alone: it reads no clock and calls no store. Everything is an integer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from policyd.tokens.count import Ratio, TokenCount

DAYS = 7
"""How many days count, the present one included."""

EXCHANGES_MIN = 20
"""From how many exchanges on something is said."""

COUNTED_TOKENS_MIN = 64
"""The shortest input that teaches a ratio: in a shorter one the constant parts of a prompt are most of it."""

RATIO_PERMILLE_MIN = 500
RATIO_PERMILLE_MAX = 2000
_RATIO_STEP_PERMILLE = 50

PREFIX = "learned|"
"""What the names of all counters here begin with."""

MODEL_CHARS_MAX = 256
"""A longer name of a model teaches nothing."""

SUBJECTS_MAX = 2048
"""How many subjects one process learns of between two calls of the store, and knows at all: names come from clients."""

DAY_MS = 86_400_000

_LENGTHS = tuple(sorted({(4 + quarter) << power >> 2 for power in range(28) for quarter in range(4)} - {0}))
"""The upper ends of the buckets of lengths: 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ..."""

Kind = Literal["input", "output"]


class Subject(NamedTuple):
    """What something was learned of."""

    kind: Kind
    provider: str
    endpoint: str
    """Empty where the endpoint makes no difference."""
    model: str


class Learned(NamedTuple):
    """What is known of a subject."""

    value: int
    """Of input: permille of the count; of output: tokens."""
    exchanges: int


class Corrections:
    """What was learned up to a moment. Immutable."""

    def __init__(self, learned: Mapping[Subject, Learned] | None = None) -> None:
        self.learned: Mapping[Subject, Learned] = learned or {}

    def corrected(self, count: TokenCount, *, provider: str, model: str) -> TokenCount:
        """`count` as the provider is likely to report it. An exact count stays; a bound only ever grows."""
        found = self.learned.get(Subject("input", provider, "", model))
        if count.exact or found is None:
            return count
        tokens = Ratio(found.value, 1000).of(count.tokens)
        bound = Ratio(max(1000, found.value), 1000).of(count.upper_bound)
        return TokenCount(tokens, exact=False, upper_bound=max(bound, tokens))

    def output_tokens(self, *, provider: str, model: str, endpoint: str) -> int | None:
        """How long a reply is expected to be; `None` as long as too little is known."""
        found = self.learned.get(Subject("output", provider, endpoint, model))
        return found.value if found is not None else None


class Lessons:
    """What was seen since the last call of the store."""

    def __init__(self) -> None:
        self._counters: Counter[str] = Counter()

    def input(self, *, provider: str, model: str, counted_tokens: int, reported_tokens: int, now_ms: int) -> None:
        """A count that was inexact, and what the provider counted."""
        if counted_tokens >= COUNTED_TOKENS_MIN and reported_tokens > 0:
            permille = reported_tokens * 1000 // counted_tokens
            bounded = min(max(permille, RATIO_PERMILLE_MIN), RATIO_PERMILLE_MAX)
            step = (bounded + _RATIO_STEP_PERMILLE // 2) // _RATIO_STEP_PERMILLE * _RATIO_STEP_PERMILLE
            self._add(Subject("input", provider, "", model), step, now_ms=now_ms)

    def output(self, *, provider: str, model: str, endpoint: str, tokens: int, now_ms: int) -> None:
        """The length of one reply."""
        if tokens > 0:
            length = _LENGTHS[min(bisect_left(_LENGTHS, tokens), len(_LENGTHS) - 1)]
            self._add(Subject("output", provider, endpoint, model), length, now_ms=now_ms)

    def take(self) -> Mapping[str, int]:
        """What has to be added to the store's counters; it is the caller's to keep from now on."""
        taken, self._counters = self._counters, Counter()
        return taken

    def give_back(self, taken: Mapping[str, int]) -> None:
        """What was taken and could not be stored."""
        for name, count in taken.items():
            self._count(name, count)

    def _add(self, subject: Subject, bucket: int, *, now_ms: int) -> None:
        if len(subject.model) <= MODEL_CHARS_MAX and subject.model.isprintable():
            self._count(_name(subject, bucket, day=now_ms // DAY_MS), 1)

    def _count(self, name: str, count: int) -> None:
        if name in self._counters or len(self._counters) < SUBJECTS_MAX:
            self._counters[name] += count


def keep_until_ms(now_ms: int) -> int:
    """Until when counters that are added to now are of use."""
    return (now_ms // DAY_MS + DAYS) * DAY_MS


def corrections(counters: Mapping[str, int], *, now_ms: int) -> Corrections:
    """What the store's counters teach. Names and numbers that make no sense are left out."""
    today = now_ms // DAY_MS
    histograms: dict[Subject, Counter[int]] = {}
    for name, count in counters.items():
        parsed = _parse(name)
        if parsed is None or count <= 0:
            continue
        subject, bucket, day = parsed
        if today - DAYS < day <= today and (subject in histograms or len(histograms) < SUBJECTS_MAX):
            histograms.setdefault(subject, Counter())[bucket] += count
    return Corrections(
        {
            subject: Learned(_quantile(histogram.items(), _QUARTERS[subject.kind]), histogram.total())
            for subject, histogram in histograms.items()
            if histogram.total() >= EXCHANGES_MIN
        }
    )


_QUARTERS: Mapping[Kind, int] = {"input": 2, "output": 3}


def _quantile(buckets: Iterable[tuple[int, int]], quarters: int) -> int:
    """The least bucket that so many quarters of all that was counted do not pass."""
    ordered = sorted(buckets)
    wanted = -(-sum(count for _, count in ordered) * quarters // 4)
    for bucket, count in ordered:
        wanted -= count
        if wanted <= 0:
            return bucket
    return 0


def _name(subject: Subject, bucket: int, *, day: int) -> str:
    # The model stands last: it may have any character.
    return f"{PREFIX}{day}|{subject.kind}|{bucket}|{subject.provider}|{subject.endpoint}|{subject.model}"


def _parse(name: str) -> tuple[Subject, int, int] | None:
    parts = name.split("|", 6)
    if len(parts) != 7 or not (_is_number(parts[1]) and _is_number(parts[3])):
        return None
    _, day, kind, number, provider, endpoint, model = parts
    bucket = int(number)
    match kind:
        case "input" if RATIO_PERMILLE_MIN <= bucket <= RATIO_PERMILLE_MAX:
            return Subject("input", provider, endpoint, model), bucket, int(day)
        case "output" if 0 < bucket <= _LENGTHS[-1]:
            return Subject("output", provider, endpoint, model), bucket, int(day)
        case _:
            return None


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 12

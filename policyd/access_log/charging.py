"""What an exchange of the lean profile is charged when it ends: one rule for each way it can end.

Envoy tells the status, the usage that it picked out of the reply, how many bytes came of it, and whether that was all.

the reply ended, usage reported              the provider's numbers
the reply ended, no usage                    the maximum that was held, with no more output tokens than bytes came
status 4xx or 5xx, or an error document      nothing, unless it carries usage
nothing went to the provider                 nothing
the reply broke off, or its client hung up   `on_disconnect`, unless the usage was complete: the provider's numbers, and
                                             no less output than `observed`: a token for each byte that came, up to the
                                             maximum that was held; `expected`, `maximum`: those of the estimate
"""

from __future__ import annotations

from policyd.access_log.entry import LogEntry
from policyd.core.policy import OnDisconnect
from policyd.core.record import Outcome, Record, UsageSource
from policyd.core.usage import NO_USAGE, OUTPUT_TOKEN_KINDS, Usage
from policyd.enforcer import Ending
from policyd.providers.base import Prompt, ReplyReader, RequestFacts
from policyd.providers.leaves import read_leaves
from policyd.providers.registry import leaf_format


def ending_of(entry: LogEntry, record: Record, *, on_disconnect: OnDisconnect) -> Ending:
    """How the exchange that was granted with `record` ended, and what it is charged."""
    reader = _read(entry, record)
    reported = reader.usage if reader is not None else None
    error = reader.error if reader is not None else None
    if entry.status >= 400 or (error is not None and not record.streamed):
        return _ending(entry, record, reader, Outcome.PROVIDER_ERROR, reported, error=error or f"http_{entry.status}")
    if not entry.was_sent:
        return _ending(entry, record, reader, Outcome.DISCONNECTED, None)
    outcome = Outcome.SERVED if error is None else Outcome.PROVIDER_ERROR
    if reported is not None and reader is not None and reader.usage_complete:
        return _ending(entry, record, reader, outcome, reported, error=error)
    if entry.is_whole:
        usage = _at_least(_by_bytes(record.maximum or NO_USAGE, entry, record), reported)
        return _ending(entry, record, reader, outcome, usage, error=error, counted=True)
    usage = _at_least(_least(on_disconnect, entry, record), reported)
    return _ending(entry, record, reader, Outcome.DISCONNECTED, usage, error=error, counted=True)


def _read(entry: LogEntry, record: Record) -> ReplyReader | None:
    form = leaf_format(provider=record.provider, endpoint=record.endpoint)
    if form is None:
        return None
    facts = RequestFacts(
        model=record.model,
        streamed=record.streamed,
        prompt=Prompt(()),
        max_output_tokens=None,
        # A search that is made for every request is reported by no reply.
        pieces_min=Usage(web_searches=record.expected.web_searches if record.expected is not None else 0),
    )
    reader = form.reply_reader(facts, usage_added=False)
    read_leaves(form, reader, entry.picked, streamed=record.streamed, ended=entry.is_whole)
    return reader


def _least(on_disconnect: OnDisconnect, entry: LogEntry, record: Record) -> Usage:
    expected, maximum = record.expected or NO_USAGE, record.maximum or NO_USAGE
    match on_disconnect:
        case OnDisconnect.OBSERVED:
            return _by_bytes(expected, entry, record)
        case OnDisconnect.EXPECTED:
            return expected
        case OnDisconnect.MAXIMUM:
            return maximum


def _by_bytes(usage: Usage, entry: LogEntry, record: Record) -> Usage:
    """`usage` with as much output as the bytes that came can have been: a token has one at least."""
    held = record.maximum or NO_USAGE
    if held.output_tokens <= entry.reply_bytes:
        return usage._replace(**{kind: getattr(held, kind) for kind in OUTPUT_TOKEN_KINDS})
    return usage._replace(**{**dict.fromkeys(OUTPUT_TOKEN_KINDS, 0), "output": entry.reply_bytes})


def _at_least(least: Usage, reported: Usage | None) -> Usage:
    """What was reported, with the output and the pieces of `least` where that is more."""
    if reported is None:
        return least
    seen = reported.with_pieces_of(least)
    if seen.output_tokens >= least.output_tokens:
        return seen
    output = {kind: getattr(least, kind) for kind in OUTPUT_TOKEN_KINDS}
    return (seen if seen.input_tokens else least)._replace(**output)


def _ending(
    entry: LogEntry,
    record: Record,
    reader: ReplyReader | None,
    outcome: Outcome,
    usage: Usage | None,
    *,
    error: str | None = None,
    counted: bool = False,
) -> Ending:
    """`counted`: whether `usage` is not what the provider reported."""
    source = UsageSource.NONE if usage is None or counted else UsageSource.REPORTED
    return Ending(
        outcome=outcome,
        usage=usage,
        source=source,
        status=entry.status or None,
        response_model=reader.model if reader is not None else None,
        terms=reader.terms if reader is not None else {},
        streamed=record.streamed,
        error=error,
    )

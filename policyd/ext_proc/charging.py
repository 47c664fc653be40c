"""What an exchange is charged when it ends: one rule for each way it can end.

the reply ended, usage reported              the provider's numbers
the reply ended, no usage                    input as estimated, output counted
the reply cannot be read                     the maximum that was held: undecodable, or a document without usage or text
status 4xx or 5xx, or an error in a stream   nothing, unless it carries usage or served output
the stream was cut                           like a reply that ended there
client or connection gone                    `on_disconnect`, unless a stream was whole or a reply had told of an error
                                             before: then as if it had ended; a document that broke off before its
                                             usage is one that cannot be read
the provider goes on without its client      the maximum, unless the usage was complete already, however it ended here
"""

from __future__ import annotations

from msgspec.structs import replace

from policyd.core.estimate import Estimate
from policyd.core.policy import OnDisconnect
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.enforcer import Ending
from policyd.ext_proc.meter import ReplyMeter
from policyd.ext_proc.reply import ReplyHead


def ended(head: ReplyHead, meter: ReplyMeter | None, estimate: Estimate) -> Ending:
    """The reply has ended in an orderly way. `meter` is `None` where there was nothing to read or it was unreadable."""
    error = meter.reader.error if meter is not None else None
    outcome = Outcome.SERVED
    if head.status >= 400 or error is not None:
        outcome = Outcome.PROVIDER_ERROR
        error = error or f"http_{head.status}"
        if meter is None or not _served(meter):
            return Ending(outcome, usage=None, source=UsageSource.NONE, status=head.status or None, error=error)
    usage, source = _seen(head, meter, estimate)
    return Ending(
        outcome=outcome,
        usage=usage,
        source=source,
        status=head.status or None,
        response_model=meter.reader.model if meter is not None else None,
        terms=meter.reader.terms if meter is not None else {},
        streamed=meter is not None and meter.is_stream,
        error=error,
    )


def disconnected(
    head: ReplyHead, meter: ReplyMeter | None, estimate: Estimate, *, on_disconnect: OnDisconnect
) -> Ending:
    """The client hung up, or the provider's connection broke, before the reply's end."""
    ending = ended(head, meter, estimate)
    if meter is not None and (meter.reader.error is not None or (meter.is_stream and meter.reader.usage_complete)):
        # The reply had failed or was whole before: clients often go at a stream's last event, and miss nothing then.
        return ending
    ending = replace(ending, outcome=Outcome.DISCONNECTED)
    match on_disconnect:
        case OnDisconnect.OBSERVED:
            return ending
        case OnDisconnect.EXPECTED:
            least = estimate.expected
        case OnDisconnect.MAXIMUM:
            least = estimate.maximum
    return charged_at_least(least, ending, meter)


def charged_at_least(least: Usage, ending: Ending, meter: ReplyMeter | None) -> Ending:
    """`ending`, with the output and the pieces of `least` if less was seen of a reply whose usage is not complete."""
    if ending.usage is None or (meter is not None and meter.reader.usage_complete):
        return ending
    seen = ending.usage.with_pieces_of(least)
    if seen.output_tokens >= least.output_tokens:
        return replace(ending, usage=seen)
    if meter is not None and meter.reader.usage is not None and meter.reader.usage.input_tokens:
        # What the input was, the provider has told: only the rest is in question.
        least = seen._replace(output=least.output, reasoning=least.reasoning)
    return replace(ending, usage=least, source=UsageSource.NONE)


def _served(meter: ReplyMeter) -> bool:
    """Whether a reply that failed was served in part, and so is charged in part."""
    return meter.reader.usage is not None or meter.observed()[0].output_tokens > 0


def _seen(head: ReplyHead, meter: ReplyMeter | None, estimate: Estimate) -> tuple[Usage, UsageSource]:
    if head.has_body and (meter is None or meter.is_unread):
        return estimate.maximum, UsageSource.NONE
    if meter is not None:
        return meter.observed()
    return estimate.expected.pieces._replace(input=estimate.expected.input), UsageSource.COUNTED

"""What a realtime session has used and may still use: how much its next response needs, and what the current one had.

A provider charges each response for the whole conversation so far, so what is needed for the next one is known when the
last one ends: what that one read and wrote, and what the client has sent since. The client's part is not told before
the response is over. Until then it is counted, and a first allowance covers what is not seen at all (instructions that
the provider adds, for instance).
"""

from __future__ import annotations

from collections.abc import Callable

from policyd.core.policy import OnDisconnect
from policyd.core.record import Outcome, UsageSource
from policyd.core.usage import Usage
from policyd.enforcer import Ending, Verdict
from policyd.providers.base import Prompt, RequestFacts
from policyd.providers.realtime import (
    INPUT_KINDS,
    OUTPUT_KINDS,
    RealtimeReader,
    Received,
    ResponseEnd,
    Sent,
)

INPUT_ALLOWANCE_TOKENS = 4_096
"""How much input is held beyond what was seen. It is topped up as the client sends."""

TOP_UP_TOKENS_MIN = 256
"""The least that a growing response asks for at once."""

COUNTED_CHARACTERS_MAX = 32_768
"""A longer text is taken at a token for every character, so that counting it holds up nobody."""


class SessionMeter:
    def __init__(self, reader: RealtimeReader, *, count_text: Callable[[str], int]) -> None:
        self._reader = reader
        self._count = count_text
        self._context_tokens = 0
        """What the conversation had come to when the last response ended."""
        self._sent_tokens = 0
        """What the client has sent beyond that."""
        self._sent_while_open = 0
        """The part of it that came after a response had begun, which does not read it any more."""
        self._asked = 0
        """Responses that the client asked for and that have not begun."""
        self._open = 0
        """Responses that have begun and not ended; there can be several at once."""
        self._text_tokens = 0
        self._audio_tokens = 0
        self._latest_tokens = 0
        self._held_input = 0
        self._held_output = 0
        self._output_each = 0
        """What is held for the output of one response."""

    # --- holding ---

    def facts(self) -> RequestFacts:
        """The next response as a request: what has to be held so that it can begin."""
        responses = self._responses
        return RequestFacts(
            model=self._reader.model,
            streamed=True,
            prompt=Prompt(
                texts=(),
                overhead_tokens=self._input_tokens * responses,
                unread_bytes=INPUT_ALLOWANCE_TOKENS,
                exact=False,
                hides_input=True,
            ),
            max_output_tokens=self._reader.max_output_tokens,
            choices=responses,
            input_kinds=INPUT_KINDS,
            output_kinds=OUTPUT_KINDS,
        )

    def hold(self, verdict: Verdict) -> None:
        """The next response is held for."""
        held = verdict.decision.held
        self._held_input = held.input_tokens
        self._held_output = held.output_tokens
        self._output_each = held.output_tokens // self._responses

    def shortfall_tokens(self, *, of_input: bool) -> int:
        """How many more tokens have to be held before anything more passes."""
        if of_input:
            return max(0, self._input_tokens * self._responses - self._held_input)
        # For as much again as came last, so that what comes next should fit.
        growing = self._text_tokens + self._audio_tokens + self._latest_tokens
        needed = max(growing, self._output_each) + self._output_each * (self._responses - 1)
        return max(0, needed - self._held_output)

    def top_up_tokens(self, shortfall_tokens: int, *, of_input: bool) -> int:
        """How many to ask for, so that this is not asked at every message."""
        if of_input:
            return shortfall_tokens + INPUT_ALLOWANCE_TOKENS
        return max(shortfall_tokens, TOP_UP_TOKENS_MIN, self._held_output)

    def grant(self, tokens: int, *, of_input: bool) -> None:
        if of_input:
            self._held_input += tokens
        else:
            self._held_output += tokens

    # --- metering ---

    def sent(self, sent: Sent) -> None:
        """Takes what the client sends."""
        tokens = sent.tokens + self._count_text(sent.text)
        self._sent_tokens += tokens
        if self._open:
            self._sent_while_open += tokens
        self._asked += sent.responses

    def received(self, received: Received) -> None:
        """Takes what the provider sends."""
        if received.refused:
            self._asked = max(0, self._asked - 1)
        if received.began:
            self._asked = max(0, self._asked - 1)
            self._open += 1
        tokens = self._count_text(received.text)
        self._text_tokens += tokens
        self._audio_tokens += received.audio_tokens
        if tokens or received.audio_tokens:
            self._latest_tokens = tokens + received.audio_tokens

    def end_response(self, end: ResponseEnd) -> Ending:
        """What a response that has ended is charged. What is held is held for it; the next one needs a hold again."""
        usage, source = end.usage, UsageSource.REPORTED
        output_tokens = usage.output_tokens if usage is not None else self._text_tokens + self._audio_tokens
        if usage is None or not end.complete:
            usage, source = self._counted(usage), UsageSource.COUNTED
        if end.error is not None and end.usage is None and not usage.output_tokens:
            ending = Ending(Outcome.PROVIDER_ERROR, usage=None, source=UsageSource.NONE, error=end.error)
        else:
            outcome = Outcome.PROVIDER_ERROR if end.error is not None else Outcome.SERVED
            ending = self._ending(outcome, usage, source, error=end.error)
        self._context_tokens = usage.tokens if end.is_remembered else 0
        self._sent_tokens, self._sent_while_open = self._sent_while_open, 0
        self._open = max(0, self._open - 1)
        self._forget_output(output_tokens if self._open else None)
        return ending

    def end_session(self, outcome: Outcome, *, on_disconnect: OnDisconnect, verdict: Verdict) -> Ending:
        """What the responses that are open, or were asked for, when a session ends are charged."""
        if not self._open + self._asked:
            return Ending(Outcome.RELEASED, usage=None, source=UsageSource.NONE)
        usage = self._counted(None)
        if outcome is Outcome.DISCONNECTED and on_disconnect is not OnDisconnect.OBSERVED:
            estimate = verdict.decision.estimate
            least = estimate.maximum if on_disconnect is OnDisconnect.MAXIMUM else estimate.expected
            if usage.output_tokens < least.output_tokens:
                return self._ending(outcome, least, UsageSource.NONE)
        return self._ending(outcome, usage, UsageSource.COUNTED)

    # --- parts ---

    @property
    def _responses(self) -> int:
        """How many responses there have to be holds for: one that may begin at any time, or those that will."""
        return max(1, self._open + self._asked)

    @property
    def _input_tokens(self) -> int:
        return self._context_tokens + self._sent_tokens

    def _counted(self, reported: Usage | None) -> Usage:
        """What was seen, where the provider did not tell."""
        output = {"output": self._text_tokens, "audio_output": self._audio_tokens}
        if reported is not None:
            return reported + Usage(**output)
        read_tokens = self._input_tokens - self._sent_while_open
        return Usage(input=read_tokens * self._responses, **output)

    def _ending(self, outcome: Outcome, usage: Usage, source: UsageSource, *, error: str | None = None) -> Ending:
        return Ending(outcome, usage, source, response_model=self._reader.response_model, streamed=True, error=error)

    def _forget_output(self, tokens: int | None) -> None:
        """`tokens` of the output seen were of a response that has ended; `None`: all of it."""
        seen = self._text_tokens + self._audio_tokens
        left = 0 if tokens is None else max(0, seen - tokens)
        self._audio_tokens = min(self._audio_tokens, left)
        self._text_tokens = left - self._audio_tokens
        self._latest_tokens = 0

    def _count_text(self, text: str) -> int:
        if not text:
            return 0
        return self._count(text) if len(text) <= COUNTED_CHARACTERS_MAX else len(text)

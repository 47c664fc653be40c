"""What an exchange and a session have in common: who asks is found out, and policyd may answer in the provider's place.

Each is a life with states and a table of its own, which say what leads where. Here is what happens on the way that does
not depend on which of them it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic

from policyd.core.errors import RequestError
from policyd.core.policy import FailureMode, Policy
from policyd.core.record import Outcome, Record
from policyd.enforcer import Verdict
from policyd.ext_proc import messages as m
from policyd.ext_proc.headers import decision_headers, request_id_header
from policyd.ext_proc.refusal import denial, error_info, immediate, worth_retrying
from policyd.ext_proc.request import RequestSide
from policyd.ext_proc.settings import CountText, ExchangeSettings
from policyd.ext_proc.table import S
from policyd.providers.base import ErrorInfo, WireFormat


class Life(ABC, Generic[S]):
    # The states that every life has, as members of its own enumeration.
    IDLE: S
    AUTHENTICATING: S
    ENDED: S

    ends_stream = False
    """Whether its end is that of the gRPC stream, too: no more messages follow."""

    _request: RequestSide
    """From the request's headers on."""

    def __init__(
        self,
        *,
        request_id: str,
        began_ms: int,
        policy: Policy,
        settings: ExchangeSettings,
        count_text: CountText,
        error_wire: WireFormat,
    ) -> None:
        self.request_id = request_id
        self.state = self.IDLE
        self._policy = policy
        self._settings = settings
        self._count_text = count_text
        self._error_wire = error_wire
        """Who words a refusal."""
        self._began_ms = began_ms
        # What is recorded of a request that nothing is held for, as far as it is known by now.
        self._provider = ""
        self._endpoint_name = ""
        self._model = ""
        self._attributes: Mapping[str, str] = {}

    @abstractmethod
    def receive(self, event: m.Event) -> list[m.Effect]:
        """Takes an event and returns the effects to carry out, in order.

        Raises `ProtocolError` for an event that the state does not allow. Any other exception is a defect.
        """

    def give_up(self) -> None:
        """Ends without another word: what is held expires, and is charged."""
        self.state = self.ENDED

    # --- who asks ---

    def _authenticate(self, event: m.RequestHeaders, *, metered: bool) -> tuple[S, list[m.Effect]]:
        self._request = request = RequestSide(event, policy=self._policy)
        try:
            digest = request.key_digest()
        except RequestError as error:
            return self._refuse(error)
        if digest is None:
            return self._go_in()
        return self.AUTHENTICATING, [m.Authenticate(digest, self._endpoint_name, metered=metered)]

    def _identified(self, event: m.Identified) -> tuple[S, list[m.Effect]]:
        self._request.identify(event.key)
        return self._go_in()

    def _go_in(self) -> tuple[S, list[m.Effect]]:
        try:
            self._request.use_provider_key(self._provider, self._settings.provider_secrets(), self._policy)
        except RequestError as error:
            return self._refuse(error)
        return self._enter()

    @abstractmethod
    def _enter(self) -> tuple[S, list[m.Effect]]:
        """Goes on with a request whose sender is known, as far as the policy wants to know."""

    # --- answering in the provider's place ---

    def _refuse(self, error: RequestError) -> tuple[S, list[m.Effect]]:
        outcome = Outcome.FAILED if error.status >= 500 else Outcome.REJECTED
        return self._answer(self._error(error), outcome, error=error.reason)

    def _fail_closed(self, event: m.Failed) -> tuple[S, list[m.Effect]]:
        return self._answer(self._unavailable(), Outcome.FAILED, error=event.error, retry_after_seconds=1)

    def _may_pass(self, event: m.Failed) -> bool:
        """Whether the policy lets a request pass that it could not decide on, if it can be charged."""
        return self._policy.failure_mode is FailureMode.OPEN and not event.closes

    def _answer(
        self, info: ErrorInfo, outcome: Outcome, *, error: str, retry_after_seconds: int | None = None
    ) -> tuple[S, list[m.Effect]]:
        reply = immediate(
            self._error_wire,
            info,
            headers=request_id_header(self.request_id, self._settings.header_prefix),
            retry_after_seconds=retry_after_seconds,
            retry=retry_after_seconds is not None,
        )
        record = self._unheld(outcome, status=info.status, error=error)
        return self.ENDED, [reply, *self._conclude(record)]

    def _unheld(
        self,
        outcome: Outcome,
        *,
        status: int | None = None,
        error: str | None = None,
        denied_by: tuple[str, ...] = (),
    ) -> Record:
        """The record of a request that nothing is held for."""
        return Record(
            request_id=self.request_id,
            at_ms=self._began_ms,
            outcome=outcome,
            decision="allow" if outcome is Outcome.UNMETERED else "deny",
            provider=self._provider,
            endpoint=self._endpoint_name,
            model=self._model,
            attributes=self._attributes,
            status=status,
            error=error,
            denied_by=denied_by,
        )

    def _denial(self, verdict: Verdict) -> m.ImmediateReply:
        """The answer to a request that a limit or a rule has refused."""
        decision, prefix = verdict.decision, self._settings.header_prefix
        return immediate(
            self._error_wire,
            self._denial_info(verdict),
            headers={**decision_headers(verdict, prefix), **request_id_header(self.request_id, prefix)},
            retry_after_seconds=decision.retry_after_seconds,
            retry=worth_retrying(decision),
        )

    def _denial_info(self, verdict: Verdict) -> ErrorInfo:
        return denial(verdict.decision, request_id=self.request_id)

    @abstractmethod
    def _conclude(self, record: Record) -> list[m.Effect]:
        """Ends with `record`, and charges nothing; if something is held already, that is returned."""

    def _error(self, error: RequestError) -> ErrorInfo:
        return self._info(error.status, error.reason, str(error))

    def _unavailable(self) -> ErrorInfo:
        return self._info(503, "policy_unavailable", "The spending policy could not be checked; try again later.")

    def _info(self, status: int, reason: str, message: str) -> ErrorInfo:
        return error_info(status=status, reason=reason, message=message, request_id=self.request_id)

    # --- what means little ---

    def _pass_trailers(self, event: m.RequestTrailers | m.ResponseTrailers) -> tuple[S, list[m.Effect]]:
        return self.state, [m.TrailersReply(response=isinstance(event, m.ResponseTrailers))]

    def _ignore(self, _: m.Event) -> tuple[S, list[m.Effect]]:
        return self.state, []

    def _stop(self, _: m.Event) -> tuple[S, list[m.Effect]]:
        return self.ENDED, []

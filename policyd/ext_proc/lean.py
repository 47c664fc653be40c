"""An exchange of the lean profile: policyd sees its request, in one message, and nothing of its reply.

The request is decided and its cost held; Envoy is given the hold's id to keep with the request, and the gRPC stream
ends. What the reply used, Envoy picks out of it and puts into its access log: `policyd.access_log` settles by that. If
the log entry never comes, the hold expires. The life of such an exchange is `TABLE`:

    IDLE ----> DECIDING ----> ENDED (the request went upstream with its hold taken, or was refused)
      |            |
      |            +--> ABANDONED ----> SETTLING ----> ENDED
      |            +--> CHARGING ----> ENDED
      +--> AUTHENTICATING, from there on like IDLE

Envoy shows single headers with the body, and takes no changes of any: what identity was taken from is removed by its
configuration.
"""

from __future__ import annotations

from collections.abc import Mapping

from policyd.core.errors import AttributeInvalid, RequestError, RequestSigned
from policyd.core.record import Outcome
from policyd.enforcer import Verdict
from policyd.estimator import Ask
from policyd.ext_proc import messages as m
from policyd.ext_proc.admission import Admission, Step
from policyd.ext_proc.headers import decision_headers
from policyd.ext_proc.request import Misconfigured
from policyd.ext_proc.states import State
from policyd.ext_proc.table import Table, row, step
from policyd.providers.endpoint import Endpoint

HOLD_MARK = "request_id"
"""Under this name Envoy keeps the hold's id; the other marks are headers, by their names."""


class UsageListed(RequestError):
    """What the reply costs would stand where Envoy cannot pick it out."""

    status = 400
    reason = "usage_listed"


class LeanExchange(Admission):
    ends_stream = True

    # Set by the transition that leads out of IDLE.
    _whole: m.WholeRequest

    def receive(self, event: m.Event) -> list[m.Effect]:
        self.state, effects = step(TABLE, self, self.state, event)
        return effects

    def _begin_whole(self, event: m.WholeRequest) -> Step:
        self._whole = event
        return self._begin(event.head)

    def _enter(self) -> Step:
        request, endpoint, head = self._request, self._destination, self._whole.head
        if not isinstance(endpoint, Endpoint):
            return self._meet_unknown_endpoint(head)
        try:
            if endpoint.leaf is None:
                raise Misconfigured("this endpoint cannot be metered in the lean profile; it needs the default one")
            if (head.request_body_mode, head.response_body_mode) != (m.BodyMode.BUFFERED, m.BodyMode.NONE):
                raise Misconfigured("Envoy's processing_mode is neither the lean profile's nor shows policyd headers")
            _check_single(head.headers)
            request.check_signature()
            request.check_unchanged()
            request.check(body_bytes_max=self._settings.request_body_bytes_max, reply_is_shown=False)
        except RequestError as error:
            return self._refuse(error)
        self._endpoint, self._wire = endpoint, endpoint.leaf
        return self._read_request(m.RequestBody(self._whole.body, self._whole.end_of_stream))

    def _question(self, ask: Ask) -> m.Decide:
        if ask.facts.lists_usage and not ask.facts.streamed:
            raise UsageListed("the reply would tell what it costs in a list: ask for a stream")
        return m.Decide(ask, unattended=True)

    def _forward(self, verdict: Verdict) -> Step:
        try:
            body = self._request.edit(self._endpoint, self._wire, self._edits(verdict))
        except RequestSigned as error:
            return self._refuse(error)
        headers = decision_headers(verdict, self._settings.header_prefix)
        return State.ENDED, [m.MarkedBody(body, {**headers, HOLD_MARK: self.request_id})]

    def _pass_unmetered(self) -> Step:
        return State.ENDED, [m.MarkedBody(None, {}), m.Report(self._unheld(Outcome.UNMETERED))]

    def _pass_undecided(self) -> Step:
        return State.ENDED, [m.MarkedBody(None, {})]


def _check_single(headers: Mapping[str, str]) -> None:
    """Envoy tells a header that came several times as one: whoever adds a value must not make a new identity by it."""
    for name, value in headers.items():
        if "," in value and not name.startswith(":"):
            raise AttributeInvalid(f"{name!a} has several values or a comma; the lean profile takes one without")


_S, _X = State, LeanExchange

TABLE: Table[State, LeanExchange] = {
    (_S.IDLE, m.WholeRequest): row(_X._begin_whole, _S.AUTHENTICATING, _S.DECIDING, _S.ENDED),
    (_S.IDLE, m.Failed): row(_X._fail_closed, _S.ENDED),
    (_S.IDLE, m.Closed): row(_X._stop, _S.ENDED),
    (_S.AUTHENTICATING, m.Identified): row(_X._identified, _S.DECIDING, _S.ENDED),
    (_S.AUTHENTICATING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.AUTHENTICATING, m.Failed): row(_X._fail_closed, _S.ENDED),
    (_S.AUTHENTICATING, m.Closed): row(_X._stop, _S.ENDED),
    (_S.DECIDING, m.Decided): row(_X._decided, _S.ENDED),
    (_S.DECIDING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.DECIDING, m.Failed): row(_X._fail_undecided, _S.CHARGING, _S.ENDED),
    (_S.DECIDING, m.Closed): row(_X._abandon, _S.ABANDONED),
    (_S.CHARGING, m.Ended): row(_X._pass_charged, _S.ENDED),
    (_S.CHARGING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.CHARGING, m.Failed): row(_X._fail_closed, _S.ENDED),
    (_S.CHARGING, m.Closed): row(_X._stop, _S.ENDED),
    (_S.ABANDONED, m.Decided): row(_X._return_hold, _S.SETTLING, _S.ENDED),
    (_S.ABANDONED, m.Rejected): row(_X._stop, _S.ENDED),
    (_S.ABANDONED, m.Failed): row(_X._stop, _S.ENDED),
    (_S.ABANDONED, m.Closed): row(_X._ignore, _S.ABANDONED),
    (_S.SETTLING, m.Ended): row(_X._stop, _S.ENDED),
    (_S.SETTLING, m.Failed): row(_X._stop, _S.ENDED),
    (_S.SETTLING, m.Closed): row(_X._ignore, _S.SETTLING),
    (_S.ENDED, m.Identified): row(_X._ignore, _S.ENDED),
    (_S.ENDED, m.Rejected): row(_X._ignore, _S.ENDED),
    (_S.ENDED, m.Ended): row(_X._ignore, _S.ENDED),
    (_S.ENDED, m.Failed): row(_X._ignore, _S.ENDED),
    (_S.ENDED, m.Closed): row(_X._ignore, _S.ENDED),
}

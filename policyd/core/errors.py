"""Every error policyd raises on purpose.

    PolicydError
    ├── ConfigError              a policy file, flag or environment variable is wrong
    ├── RequestError             the client's request is refused whatever its budgets; it never reaches the provider
    │   ├── BodyUnreadable       the body is not what the endpoint takes: no JSON object, a field of the wrong type
    │   ├── BodyTooLarge         the body is over the limit
    │   ├── BodyTooSlow          the body took too long to come
    │   ├── AttributeMissing     `strict` is on and a limit needs an attribute that the request lacks
    │   ├── AttributeInvalid     an attribute's value is too long or holds control characters
    │   ├── KeyInvalid           the API key is missing, mistyped, unknown, expired or revoked
    │   ├── KeyForbidden         the API key is not for this model or endpoint
    │   ├── ProviderKeyMissing   policyd has to add the provider's key, and has none
    │   ├── TierUnknown          the request's tier is none of the policy's, and the policy has no default tier
    │   ├── Blocked              somebody has blocked or frozen the request's scope (defined in policyd.core.runtime)
    │   ├── ModelUnpriced        the model has no price and the policy says `unknown_model: deny`
    │   ├── OutputUnbounded      the request gives no output maximum and the policy says `unbounded: deny`
    │   ├── RequestSigned        its client signed it, and policy would have to change what the signature covers
    │   └── EndpointUnknown      a metered host, a path that no wire format knows
    ├── ReservationError         the reservation is not in a state that allows the call
    │   ├── ReservationNotFound  never existed, or ended longer ago than it is remembered
    │   ├── ReservationEnded     it ended otherwise already (settling what was released, and so on)
    │   └── ReservationMismatch  the same id was used for another content
    ├── StoreError               the store failed; nothing is known of the call's outcome
    │   ├── StoreDefect          its own code did, by an exception that nobody foresaw
    │   └── StoreUnavailable     the store cannot be reached or is shutting down; the call had no effect
    │       └── Unjournalled     nor can the journal take what it should have got: nothing passes, whatever the policy
    ├── StaleState               the run-time state changed since it was read; nothing was changed
    ├── ProtocolError            Envoy sent a message that its place in the exchange does not allow
    └── EnvoyFailed              Envoy, where policyd runs it, did not start or ended by itself (defined in policyd.up)

Anything else that escapes is a defect, and the exchange that meets it follows `failure_mode`.
"""

from __future__ import annotations


class PolicydError(Exception):
    """Base of every error that policyd raises on purpose. `str(error)` is fit to be shown to a user."""


class ConfigError(PolicydError):
    """A policy file, flag or environment variable is wrong. `problems` holds one message a mistake."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class RequestError(PolicydError):
    """The client's request is refused whatever its budgets; it never reaches the provider.

    `status` is the HTTP status and `reason` the stable code that the refusal carries.
    """

    status = 400
    reason = "invalid_request"


class BodyUnreadable(RequestError):
    reason = "body_unreadable"


class BodyTooLarge(RequestError):
    status = 413
    reason = "body_too_large"


class BodyTooSlow(RequestError):
    status = 408
    reason = "body_too_slow"


class AttributeMissing(RequestError):
    reason = "attribute_missing"


class AttributeInvalid(RequestError):
    reason = "attribute_invalid"


class KeyInvalid(RequestError):
    status = 401
    reason = "invalid_api_key"


class KeyForbidden(RequestError):
    status = 403
    reason = "api_key_not_allowed"


class ProviderKeyMissing(RequestError):
    status = 500
    reason = "provider_key_missing"


class TierUnknown(RequestError):
    status = 403
    reason = "tier_unknown"


class ModelUnpriced(RequestError):
    reason = "model_unpriced"


class OutputUnbounded(RequestError):
    reason = "output_unbounded"


class RequestSigned(RequestError):
    reason = "request_signed"


class EndpointUnknown(RequestError):
    status = 404
    reason = "endpoint_unknown"


class ReservationError(PolicydError):
    """The reservation is not in a state that allows the call. `reservation_id` names it."""

    def __init__(self, message: str, *, reservation_id: str) -> None:
        super().__init__(message)
        self.reservation_id = reservation_id


class ReservationNotFound(ReservationError):
    def __init__(self, reservation_id: str) -> None:
        super().__init__(
            f"reservation {reservation_id!r} is not known (it may have ended long ago)", reservation_id=reservation_id
        )


class ReservationEnded(ReservationError):
    def __init__(self, reservation_id: str, *, state: str, event: str) -> None:
        super().__init__(
            f"reservation {reservation_id!r} is {state} and cannot be changed by {event}", reservation_id=reservation_id
        )
        self.state = state
        self.event = event


class ReservationMismatch(ReservationError):
    def __init__(self, reservation_id: str) -> None:
        super().__init__(f"reservation {reservation_id!r} exists with other content", reservation_id=reservation_id)


class StoreError(PolicydError):
    """The store failed; nothing is known of the call's outcome."""


class StoreDefect(StoreError):
    """The store's own code failed, by an exception that nobody foresaw; nothing is known of the call's outcome."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or is shutting down; the call had no effect."""


class Unjournalled(StoreUnavailable):
    """The store is away, and the journal cannot take what the store should have got.

    Nothing passes then, whatever `failure_mode` says: it would never be charged.
    """


class StaleState(PolicydError):
    """The run-time state changed since it was read; nothing was changed. `revision` is that of now."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"the run-time state changed meanwhile (it is at revision {revision}); read it again")
        self.revision = revision


class ProtocolError(PolicydError):
    """Envoy sent a message that its place in the exchange does not allow."""

"""The request's side of an exchange: its headers and body on the way in, and how they go on upstream.

A metered request is withheld until it is decided. How depends on the body mode that Envoy was configured with:

    BUFFERED               Envoy holds headers and body back; one message has the whole body
    BUFFERED_PARTIAL       the same up to Envoy's buffer; a body that does not fit is refused
    STREAMED               headers go on at once; every piece is taken out, the whole body goes with the last one
    FULL_DUPLEX_STREAMED   nothing is answered until the body is whole, then all of it goes on
    NONE                   the body is never shown: a metered request is refused as misconfigured

A request that its client signed (AWS SigV4) goes on as it was signed, or not at all: see `signing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from policyd.core.api_keys import CREDENTIAL_HEADERS, PROTOCOL_HEADER
from policyd.core.attributes import (
    Identity,
    Place,
    check_value,
    parse_cookies,
    parse_query,
    strip_cookies,
    strip_query,
)
from policyd.core.errors import BodyTooLarge, BodyUnreadable, ProviderKeyMissing, RequestError
from policyd.core.policy import Policy, ProviderKeys
from policyd.core.provider_secrets import ProviderSecrets
from policyd.core.runtime import ApiKey
from policyd.estimator import Ask
from policyd.ext_proc import messages as m
from policyd.ext_proc.credentials import Credentials
from policyd.ext_proc.signing import is_signed, refuse_edits, refuse_new_query
from policyd.providers.base import RawRequest, RequestEdits, WireFormat
from policyd.providers.editing import edited, reread
from policyd.providers.endpoint import Endpoint
from policyd.providers.vendors import vendor_named

PROJECT = "project"
"""The attribute that a provider's key can be of."""

NO_UPGRADE = "this endpoint does not take a connection upgrade"

ENVOY_MINOR_WITHOUT_PIECE = 40
"""Envoy 1.38.4 to 1.39 keep a handshake, and its answer, until a piece of body comes, which nobody sends who waits for
them (envoy#47161). The versions before take an empty piece too; from 1.40 on it would be one too many."""

STREAMED_PIECE_BYTES = 65_536
"""A body sent in full duplex goes out in pieces of this size."""


class Misconfigured(RequestError):
    """Envoy's configuration does not show policyd what it needs."""

    status = 500
    reason = "misconfigured"


class RequestSide:
    def __init__(self, event: m.RequestHeaders, *, policy: Policy) -> None:
        strip = policy.identity.strip
        self._headers = event.headers
        self._key: ApiKey | None = None
        self._mode = event.request_body_mode
        self._has_body = not event.end_of_stream
        self._envoy_minor = event.envoy_minor
        self._envoy_attributes = event.envoy_attributes
        self._claims = event.claims
        self._reply_mode = event.response_body_mode
        self._body = bytearray()
        self._whole = False
        self.path, _, self._query = event.headers.get(":path", "").partition("?")
        self._signed = is_signed(event.headers, self._query)
        self._credentials = credentials = Credentials.of(event.headers, self._query, policy)
        set_headers = self._stripped_path((*strip.query, *credentials.parameters)) if self._query else {}
        removed = [name for name in (*strip.headers, *credentials.headers) if name in event.headers]
        for name, left in (("cookie", self._cookies_left(strip.cookies)), (PROTOCOL_HEADER, credentials.protocols)):
            if left:
                set_headers[name] = left
            elif left == "":
                removed.append(name)
        self._headers_reply = m.HeadersReply(response=False, set_headers=set_headers, remove_headers=tuple(removed))

    @property
    def in_full_duplex(self) -> bool:
        return self._mode is m.BodyMode.FULL_DUPLEX_STREAMED

    @property
    def upgrades(self) -> bool:
        """Whether the request asks for a connection that is no HTTP any more."""
        return "upgrade" in self._headers

    def key_digest(self) -> str | None:
        """Of the API key that the request comes with; `None` where it does not need one. Raises `KeyInvalid`."""
        return self._credentials.key_digest()

    def identify(self, key: ApiKey) -> None:
        """Says what the API key stands for."""
        self._key = key

    @property
    def identified_digest(self) -> str | None:
        """Of the API key that was found to hold."""
        return self._key.digest if self._key is not None else None

    def use_provider_key(self, provider: str, secrets: ProviderSecrets | None, policy: Policy) -> None:
        """Puts the provider's key in the place of policyd's, where that is policyd's to do.

        Raises `ProviderKeyMissing`, and `AttributeInvalid` for a project that cannot be one.
        """
        keyed = self._key is not None and secrets is not None
        if not provider or not (keyed or policy.provider_keys is ProviderKeys.ALL):
            return
        secret = secrets.of(provider, project=self._project(policy)) if secrets is not None else None
        if secret is None:
            raise ProviderKeyMissing(f"policyd has no key for the provider {provider}: its operator has to set one")
        added = self._credentials.replaced_by(secret, vendor_named(provider))
        reply = self._headers_reply
        # Also those that Envoy does not show: only one credential is to arrive.
        removed = (name for name in (*reply.remove_headers, *CREDENTIAL_HEADERS) if name not in added)
        self._headers_reply = replace(
            reply, set_headers={**reply.set_headers, **added}, remove_headers=tuple(dict.fromkeys(removed))
        )

    def _project(self, policy: Policy) -> str | None:
        """Whose key it may be. The body is not read yet: where it may name the project, the key is the provider's."""
        sources = policy.identity.sources.get(PROJECT, ())
        if any(source.place is Place.BODY for source in sources):
            return None
        return self._attributes(Identity({PROJECT: sources}), body={}).get(PROJECT)

    def check_signature(self) -> None:
        """Refuses a signed request whose query has to be changed. Raises `RequestSigned`."""
        if self._signed and ":path" in self._headers_reply.set_headers:
            refuse_new_query()

    def check(self, *, body_bytes_max: int, reply_is_shown: bool = True) -> None:
        """Refuses what the headers alone show cannot be metered. Raises `RequestError`s."""
        if self.upgrades:
            raise BodyUnreadable(NO_UPGRADE)
        if self._mode is m.BodyMode.NONE or (reply_is_shown and self._reply_mode is m.BodyMode.NONE):
            raise Misconfigured("Envoy's processing_mode shows policyd no bodies")
        if not self._has_body:
            raise BodyUnreadable("the request has no body; a JSON object is expected")
        if self._headers.get("content-encoding", "identity") != "identity":
            raise BodyUnreadable("the request body is compressed; send it uncompressed")
        if decimal(self._headers.get("content-length", ""), otherwise=0) > body_bytes_max:
            raise _too_large(body_bytes_max)

    def check_unchanged(self) -> None:
        """Refuses what would have to be changed in the headers, where Envoy takes no changes of them.

        Headers to be removed are left to Envoy's configuration, which knows their names. Raises `Misconfigured`.
        """
        if self._headers_reply.set_headers:
            changed = " and ".join(sorted(name.removeprefix(":") for name in self._headers_reply.set_headers))
            raise Misconfigured(f"policyd would have to change the request's {changed}, which Envoy does not let it")

    def withhold(self) -> list[m.Effect]:
        """Answers the headers of a metered request so that Envoy goes on to send the body."""
        reply = self._headers_reply
        if not (self._signed and "accept-encoding" in self._headers):
            # A compressed reply would have to be decoded before it can be read.
            set_headers = {**reply.set_headers, "accept-encoding": "identity"}
            reply = m.HeadersReply(response=False, set_headers=set_headers, remove_headers=reply.remove_headers)
            self._headers_reply = reply
        if self._mode is m.BodyMode.STREAMED:
            # The body may have another length when it goes on.
            reply = replace(reply, remove_headers=(*reply.remove_headers, "content-length"))
        return [] if self.in_full_duplex else [reply]

    def take(self, event: m.RequestBody, *, body_bytes_max: int) -> bool:
        """Takes a piece of the body; returns whether it is whole. Raises `BodyTooLarge`."""
        self._body += event.chunk
        if len(self._body) > body_bytes_max:
            raise _too_large(body_bytes_max)
        if self._mode is m.BodyMode.BUFFERED_PARTIAL and not event.end_of_stream:
            raise BodyTooLarge("the request body is larger than Envoy's buffer")
        # A buffered body is whole although trailers may follow.
        self._whole = event.end_of_stream or self._mode is m.BodyMode.BUFFERED
        return self._whole

    def await_more(self) -> list[m.Effect]:
        """Answers a piece that is not the last one: it does not go on yet."""
        return [] if self.in_full_duplex else [m.BodyReply(response=False, body=b"")]

    def ask(self, *, request_id: str, endpoint: Endpoint, wire: WireFormat, policy: Policy) -> Ask:
        """Reads the whole body. Raises `RequestError`s."""
        raw = RawRequest(
            bytes(self._body),
            path=endpoint.path,
            query=self._query,
            content_type=self._headers.get("content-type", ""),
        )
        facts = wire.read_request(raw, vendor=endpoint.vendor, identity_fields=policy.identity.body_fields)
        check_value("model", facts.model)
        return Ask(
            request_id=request_id,
            provider=endpoint.vendor.id,
            endpoint=endpoint.name,
            facts=facts,
            identity=self.identity(policy, body=facts.fields),
            policy=policy,
            content=raw.body,
            key_digest=self.identified_digest,
            reread=None if self._signed else lambda edits: reread(wire, raw, edits, vendor=endpoint.vendor),
        )

    def identity(self, policy: Policy, *, body: Mapping[str, str]) -> dict[str, str]:
        """The attributes of the request; `body` by dotted path. Raises `RequestError`s."""
        return self._attributes(policy.identity, body=body)

    def _attributes(self, identity: Identity, *, body: Mapping[str, str]) -> dict[str, str]:
        return identity.attributes(
            headers=self._headers,
            query=parse_query(self._query),
            body=body,
            cookies=parse_cookies(self._headers.get("cookie", "")),
            claims=self._claims,
            envoy=self._envoy_attributes,
            key=self._key.facts if self._key is not None else {},
        )

    def handshake(self, endpoint: Endpoint) -> RawRequest:
        """The request as a session's handshake, which is all in its address."""
        return RawRequest(b"", path=endpoint.path, query=self._query)

    def open_session(self) -> list[m.Effect]:
        """Lets a handshake go upstream; what then passes comes here first, uncompressed."""
        removed = (*self._headers_reply.remove_headers, "sec-websocket-extensions")
        reply = replace(self._headers_reply, remove_headers=removed, mode=IN_SESSION)
        return [reply, *self.release_headers(response=False)]

    def release_headers(self, *, response: bool) -> list[m.Effect]:
        """What an Envoy that keeps the headers of a handshake, or of the answer to it, needs to let them go."""
        if self._envoy_minor is None or self._envoy_minor >= ENVOY_MINOR_WITHOUT_PIECE:
            return []
        return [m.StreamedBody(response=response, body=b"", end_of_stream=False)]

    def forward(self, endpoint: Endpoint, wire: WireFormat, edits: RequestEdits) -> list[m.Effect]:
        """Lets the withheld request go upstream, with `edits`. Raises `RequestSigned`; then nothing has gone."""
        return self._send(lambda body: self._edited(body, endpoint, wire, edits))

    def edit(self, endpoint: Endpoint, wire: WireFormat, edits: RequestEdits) -> bytes | None:
        """The whole body with `edits`; `None` if they change nothing. Raises `RequestSigned`."""
        original = bytes(self._body)
        body = self._edited(original, endpoint, wire, edits)
        self._body.clear()
        return body if body != original else None

    def _edited(self, body: bytes, endpoint: Endpoint, wire: WireFormat, edits: RequestEdits) -> bytes:
        changed = edited(wire, body, edits, vendor=endpoint.vendor)
        if self._signed and changed != body:
            refuse_edits(edits)
        return changed

    def forward_unread(self) -> list[m.Effect]:
        """Lets the withheld request go upstream as it came, as far as it has; `pass_body` passes the rest."""
        return self._send(lambda body: body)

    def pass_headers(self) -> m.HeadersReply:
        """Lets an unmetered request pass; Envoy is asked to show no more of the exchange."""
        return replace(self._headers_reply, mode=UNMETERED)

    def pass_body(self, event: m.RequestBody) -> m.Effect:
        """Lets a piece of an unmetered request pass, where Envoy shows it all the same."""
        if self.in_full_duplex:
            return m.StreamedBody(response=False, body=event.chunk, end_of_stream=event.end_of_stream)
        return m.BodyReply(response=False)

    def _send(self, edit: Callable[[bytes], bytes]) -> list[m.Effect]:
        original = bytes(self._body)
        body = edit(original)
        # Not before: an edit that failed must not take the body with it.
        self._body.clear()
        if self.in_full_duplex:
            return [self._headers_reply, *_in_pieces(body, whole=self._whole)]
        if self._mode is m.BodyMode.STREAMED:
            return [m.BodyReply(response=False, body=body)]
        if body == original:
            return [m.BodyReply(response=False)]
        return [m.BodyReply(response=False, body=body, set_headers={"content-length": str(len(body))})]

    def _stripped_path(self, names: Sequence[str]) -> dict[str, str]:
        kept = strip_query(self._query, names)
        if kept == self._query:
            return {}
        return {":path": f"{self.path}?{kept}" if kept else self.path}

    def _cookies_left(self, names: Sequence[str]) -> str | None:
        """`None` where they stay as they are."""
        header = self._headers.get("cookie", "")
        if not header or not names:
            return None
        kept = strip_cookies(header, names)
        return None if kept == header else kept


UNMETERED = m.ModeOverride(
    request_body=m.BodyMode.NONE, response_body=m.BodyMode.NONE, response_headers=False, response_trailers=False
)

IN_SESSION = m.ModeOverride(
    request_body=m.BodyMode.FULL_DUPLEX_STREAMED,
    response_body=m.BodyMode.FULL_DUPLEX_STREAMED,
    request_trailers=True,
    response_trailers=True,
)
"""Both directions by themselves, so that policyd can answer either at any time."""


def decimal(text: str, *, otherwise: int) -> int:
    """A header's number; `otherwise` for anything that is not plain digits of sane length."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else otherwise


def _too_large(body_bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body is larger than {body_bytes_max} bytes")


def _in_pieces(body: bytes, *, whole: bool) -> list[m.Effect]:
    """At least one, so that the end is said of an empty body too."""
    return [
        m.StreamedBody(
            response=False,
            body=body[start : start + STREAMED_PIECE_BYTES],
            end_of_stream=whole and start + STREAMED_PIECE_BYTES >= len(body),
        )
        for start in range(0, max(1, len(body)), STREAMED_PIECE_BYTES)
    ]

"""The simulated provider as an ASGI app: which endpoint answers, and how its reply is sent."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from policyd.demo.simulated import anthropic_messages, openai_chat
from policyd.demo.simulated.reply import BadRequestError, CountText, Reply
from policyd.demo.simulated.script import Script
from policyd.demo.simulated.served import LastRequest, OpenRequest, Outcome, Tally
from policyd.demo.simulated.transfer import transfer

_ENDPOINTS: Mapping[tuple[str, str], Callable[[bytes, Script, CountText], Reply]] = {
    ("POST", "/v1/chat/completions"): openai_chat.chat_completion,
    ("GET", "/v1/models"): openai_chat.models,
    ("POST", "/v1/messages"): anthropic_messages.message,
    ("POST", "/v1/messages/count_tokens"): anthropic_messages.count_tokens,
}


def simulated_app(*, tally: Tally, count_text: CountText) -> Starlette:
    """The provider's paths, counted by `tally`, and below `/_sim/` what a test asks about them."""

    async def stats(_request: Request) -> Response:
        return Response(msgspec.json.encode(tally.served), media_type="application/json")

    async def reset(_request: Request) -> Response:
        tally.reset()
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/_sim/stats", stats, methods=["GET"]),
            Route("/_sim/reset", reset, methods=["POST"]),
            Mount("/", _Provider(tally, count_text)),
        ]
    )


class _Provider:
    """The provider's own paths, as an ASGI app."""

    def __init__(self, tally: Tally, count_text: CountText) -> None:
        self._tally = tally
        self._count_text = count_text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._tally.request(scope["path"]) as request:
            body = await _read_body(receive)
            if body is not None:
                arrived = _arrived(scope, body)
                request.read(arrived)
                await _unless_hung_up(receive, self._answer(arrived, request, send))

    async def _answer(self, arrived: LastRequest, request: OpenRequest, send: Send) -> None:
        reply, script = _scripted_reply(arrived, self._count_text)
        await asyncio.sleep(script.delay_ms / 1000)
        request.begin_reply(input_tokens=reply.input_tokens)
        await _send(reply, script, request, send)


def _arrived(scope: Scope, body: bytes) -> LastRequest:
    query = scope["query_string"]
    target = scope["raw_path"] + (b"?" + query if query else b"")
    return LastRequest(
        method=scope["method"],
        path=scope["path"],
        target=target.decode("latin-1"),
        headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
        body=body,
    )


def _scripted_reply(arrived: LastRequest, count_text: CountText) -> tuple[Reply, Script]:
    """What to answer, and the script to answer it by; a bad request is answered with the default script."""
    endpoint = _ENDPOINTS.get((arrived.method, arrived.path))
    resembles_anthropic = arrived.path.startswith("/v1/messages")
    error = anthropic_messages.error if resembles_anthropic else openai_chat.error
    try:
        script = Script.from_headers(dict(arrived.headers))
        if script.status is not None:
            return error(script.status), script
        if endpoint is None:
            return error(404, f"Invalid URL ({arrived.method} {arrived.path})"), script
        return endpoint(arrived.body, script, count_text), script
    except BadRequestError as bad_request:
        return error(400, str(bad_request)), Script()


async def _send(reply: Reply, script: Script, request: OpenRequest, send: Send) -> None:
    transferred = transfer(reply, script)
    await send({"type": "http.response.start", "status": transferred.status, "headers": transferred.headers})
    chunks = iter(transferred.chunks)
    chunk = next(chunks, None)
    while chunk is not None:
        following = next(chunks, None)
        ends = following is None and not transferred.breaks_off
        request.send(chunk)
        if ends:
            request.end(Outcome.FAILED if reply.fails else Outcome.COMPLETED)
        await send({"type": "http.response.body", "body": chunk.data, "more_body": not ends})
        if following is not None:
            # Without a delay too: it gives the loop a chance to notice a hang-up.
            await asyncio.sleep(script.chunk_delay_ms / 1000)
        chunk = following
    if transferred.breaks_off:
        # Returning without a last body message makes the server drop the connection.
        request.end(Outcome.BROKEN_OFF)


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None where the client hung up before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _unless_hung_up(receive: Receive, answer: Coroutine[Any, Any, None]) -> None:
    """Runs `answer` to its end, or until the client hangs up."""
    answering = asyncio.create_task(answer)
    hang_up = asyncio.create_task(_hang_up(receive))
    hang_up.add_done_callback(lambda _: answering.cancel())
    try:
        await answering
    except asyncio.CancelledError:
        stopped_by_server = not hang_up.done()
        if stopped_by_server:
            raise
    finally:
        hang_up.cancel()


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""Anthropic messages as api.anthropic.com answers them: JSON, SSE, errors, and the counting of input tokens.

Input tokens are the tokens of the text in the system prompt, the messages and the tools (as compact JSON). Anthropic
publishes no recipe for what it adds around them, so nothing is added; images and documents count nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from policyd.demo.simulated import text
from policyd.demo.simulated.reply import Chunk, CountText, Reply, decode_request, error_after, identifier
from policyd.demo.simulated.script import Script

_ERROR_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_Content = str | list[dict[str, Any]]


class _Message(msgspec.Struct):
    role: str
    content: _Content


class _CountRequest(msgspec.Struct, kw_only=True):
    model: str
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    system: _Content | None = None
    tools: list[dict[str, Any]] | None = None


class _MessageRequest(_CountRequest, kw_only=True):
    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    stream: bool = False


def message(body: bytes, script: Script, count_text: CountText) -> Reply:
    """Answers `POST /v1/messages`; raises BadRequestError."""
    request = decode_request(body, _MessageRequest)
    written = _write(request, script, count_text)
    if not request.stream:
        return _json_reply(
            written.json(script),
            input_tokens=written.input_tokens,
            output_tokens=written.output_tokens,
        )
    events = written.events(reports_usage=not script.no_usage)
    request_id = _request_id()
    if script.error_after_chunks is not None:
        error_event = _event(_error_json(529, request_id=request_id))
        events = error_after(events, events_before=script.error_after_chunks, error=error_event)
    return Reply(
        media_type="text/event-stream; charset=utf-8",
        headers=(("request-id", request_id),),
        chunks=events,
        input_tokens=written.input_tokens,
        fails=script.error_after_chunks is not None,
    )


def count_tokens(body: bytes, _script: Script, count_text: CountText) -> Reply:
    """Answers `POST /v1/messages/count_tokens`, which costs nothing; raises BadRequestError."""
    return _json_reply({"input_tokens": _input_tokens(decode_request(body, _CountRequest), count_text)})


def error(status: int, message: str | None = None) -> Reply:
    """An error in Anthropic's shape."""
    request_id = _request_id()
    return _json_reply(
        _error_json(status, message, request_id=request_id),
        status=status,
        request_id=request_id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """What the model wrote, and what it costs in tokens."""

    id: str
    model: str
    input_tokens: int
    output_tokens: int
    stop_reason: str

    def json(self, script: Script) -> dict[str, Any]:
        """The whole message as one object, in the order in which Anthropic writes its fields."""
        content = text.text(tokens=self.output_tokens) + text.padding(about_bytes=script.pad_bytes)
        usage = None if script.no_usage else self._usage(output_tokens=self.output_tokens)
        return self._message(content=[{"type": "text", "text": content}], stop_reason=self.stop_reason, usage=usage)

    def events(self, *, reports_usage: bool) -> Iterator[Chunk]:
        """The message as a stream of one text block, one token a delta."""
        first_usage = self._usage(output_tokens=min(1, self.output_tokens)) if reports_usage else None
        opening = self._message(content=[], stop_reason=None, usage=first_usage)
        block = {"type": "text", "text": ""}
        yield _event({"type": "message_start", "message": opening})
        yield _event({"type": "content_block_start", "index": 0, "content_block": block})
        yield _event({"type": "ping"})
        for position in range(self.output_tokens):
            delta = {"type": "text_delta", "text": text.token(position=position)}
            yield _event({"type": "content_block_delta", "index": 0, "delta": delta}, output_tokens=1)
        yield _event({"type": "content_block_stop", "index": 0})
        yield _event(
            {
                "type": "message_delta",
                "delta": {"stop_reason": self.stop_reason, "stop_sequence": None},
                **({"usage": self._last_usage()} if reports_usage else {}),
            }
        )
        yield _event({"type": "message_stop"})

    def _message(
        self, *, content: list[dict[str, Any]], stop_reason: str | None, usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        return {
            "model": self.model,
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            **({} if usage is None else {"usage": usage}),
        }

    def _usage(self, *, output_tokens: int) -> dict[str, Any]:
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": output_tokens,
            "service_tier": "standard",
        }

    def _last_usage(self) -> dict[str, int]:
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": self.output_tokens,
        }


def _write(request: _MessageRequest, script: Script, count_text: CountText) -> _Written:
    return _Written(
        id=identifier("msg_01", characters=22),
        model=script.model or request.model,
        input_tokens=_input_tokens(request, count_text),
        output_tokens=min(script.output_tokens, request.max_tokens),
        stop_reason="max_tokens" if request.max_tokens < script.output_tokens else "end_turn",
    )


def _input_tokens(request: _CountRequest, count_text: CountText) -> int:
    return sum(map(count_text, _request_texts(request)))


def _request_texts(request: _CountRequest) -> Iterator[str]:
    if request.system is not None:
        yield from _content_texts(request.system)
    for message in request.messages:
        yield from _content_texts(message.content)
    for tool in request.tools or ():
        yield msgspec.json.encode(tool).decode()


def _content_texts(content: Any) -> Iterator[str]:
    """The text of a message: plain, or in blocks, of which a tool's result holds blocks of its own."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for block in content:
            match block:
                case {"type": "text", "text": str() as written}:
                    yield written
                case {"type": "tool_use", "name": str() as name, "input": arguments}:
                    yield name
                    yield msgspec.json.encode(arguments).decode()
                case {"type": "tool_result", "content": result}:
                    yield from _content_texts(result)
                case _:
                    pass  # images and documents: nothing to count


def _error_json(status: int, message: str | None = None, *, request_id: str) -> dict[str, Any]:
    kind = _ERROR_TYPE.get(status, "api_error" if status >= 500 else "invalid_request_error")
    words = message or f"The simulated provider was asked to answer {status}."
    return {"type": "error", "error": {"type": kind, "message": words}, "request_id": request_id}


def _event(payload: dict[str, Any], *, output_tokens: int = 0) -> Chunk:
    """An SSE event under the name that its payload has as `type`."""
    data = b"event: %s\ndata: %s\n\n" % (payload["type"].encode(), msgspec.json.encode(payload))
    return Chunk(data, output_tokens)


def _json_reply(
    payload: dict[str, Any],
    *,
    status: int = 200,
    request_id: str | None = None,
    input_tokens: int = 0,
    output_tokens: int = 0,
) -> Reply:
    return Reply(
        status=status,
        headers=(("request-id", request_id or _request_id()),),
        chunks=[Chunk(msgspec.json.encode(payload), output_tokens)],
        input_tokens=input_tokens,
        fails=status >= 400,
    )


def _request_id() -> str:
    return identifier("req_011", characters=21)

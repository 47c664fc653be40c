"""OpenAI chat completions as api.openai.com answers them: JSON, SSE, errors, the list of models.

Input tokens are counted by the published recipe (OpenAI Cookbook, "How to count tokens with tiktoken"): the text of
each message's role, content and name, 3 tokens more a message, 1 more for a name, and 3 that prime the reply. Tool
calls and tool definitions count as their text and their compact JSON; images and audio count nothing.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from policyd.demo.simulated import text
from policyd.demo.simulated.reply import (
    BadRequestError,
    Chunk,
    CountText,
    Reply,
    decode_request,
    error_after,
    identifier,
)
from policyd.demo.simulated.script import Script

_TOKENS_PER_MESSAGE = 3
_TOKENS_PER_NAME = 1
_TOKENS_PRIMING_REPLY = 3

_MODELS = ("gpt-4o", "gpt-4o-mini")
_MODEL_CREATED = 1_715_367_049

_ERROR_TYPE_AND_CODE: dict[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    429: ("requests", "rate_limit_exceeded"),
}

# Recent chunks carry filler of varying length, so that the size of a packet does not tell the length of a token.
_OBFUSCATION = "Qm7xT2vLk9RzW4pB"

_TokenCount = Annotated[int, msgspec.Meta(ge=1)]


class _ToolCallFunction(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class _ToolCall(msgspec.Struct):
    function: _ToolCallFunction = msgspec.field(default_factory=_ToolCallFunction)


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    include_obfuscation: bool = True


class _ChatRequest(msgspec.Struct):
    model: str
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_tokens: _TokenCount | None = None
    max_completion_tokens: _TokenCount | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[dict[str, Any]] | None = None


def chat_completion(body: bytes, script: Script, count_text: CountText) -> Reply:
    """Answers `POST /v1/chat/completions`; raises BadRequestError."""
    request = decode_request(body, _ChatRequest)
    if request.stream_options is not None and not request.stream:
        raise BadRequestError("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    completion = _complete(request, script, count_text)
    if not request.stream:
        return _json_reply(
            completion.json(script),
            input_tokens=completion.input_tokens,
            output_tokens=completion.output_tokens,
        )
    options = request.stream_options or _StreamOptions()
    events = completion.events(options, reports_usage=options.include_usage and not script.no_usage)
    if script.error_after_chunks is not None:
        events = error_after(events, events_before=script.error_after_chunks, error=_event(_error_json(500)))
    return Reply(
        media_type="text/event-stream; charset=utf-8",
        headers=_request_id_header(),
        chunks=events,
        input_tokens=completion.input_tokens,
        fails=script.error_after_chunks is not None,
    )


def models(_body: bytes, _script: Script, _count_text: CountText) -> Reply:
    """Answers `GET /v1/models`."""
    return _json_reply(
        {
            "object": "list",
            "data": [
                {"id": model, "object": "model", "created": _MODEL_CREATED, "owned_by": "system"} for model in _MODELS
            ],
        }
    )


def error(status: int, message: str | None = None) -> Reply:
    """An error in OpenAI's shape."""
    return _json_reply(_error_json(status, message), status=status)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Completion:
    """What the model wrote, and what it costs in tokens."""

    id: str
    created: int
    model: str
    input_tokens: int
    choices: int
    tokens_per_choice: int
    finish_reason: str

    @property
    def output_tokens(self) -> int:
        return self.choices * self.tokens_per_choice

    def json(self, script: Script) -> dict[str, Any]:
        """The whole reply as one object, in the order in which OpenAI writes its fields."""
        padding = text.padding(about_bytes=script.pad_bytes)
        choices: list[dict[str, Any]] = [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": text.text(tokens=self.tokens_per_choice, choice=index) + (padding if index == 0 else ""),
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": self.finish_reason,
            }
            for index in range(self.choices)
        ]
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **({} if script.no_usage else {"usage": self._usage()}),
            "service_tier": "default",
            "system_fingerprint": "fp_560af6e559",
        }

    def events(self, options: _StreamOptions, *, reports_usage: bool) -> Iterator[Chunk]:
        """The reply as a stream: roles, one token a delta with the choices taking turns, finish reasons, usage."""
        head = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": "fp_560af6e559",
        }

        def chunk(choices: list[dict[str, Any]], *, token: str = "", usage: dict[str, Any] | None = None) -> Chunk:
            payload: dict[str, Any] = {**head, "choices": choices}
            if reports_usage:
                payload["usage"] = usage
            if options.include_obfuscation:
                payload["obfuscation"] = _OBFUSCATION[len(token) % len(_OBFUSCATION) :]
            return _event(payload, output_tokens=1 if token else 0)

        def choice(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
            return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

        for index in range(self.choices):
            yield chunk([choice(index, {"role": "assistant", "content": "", "refusal": None})])
        for position in range(self.tokens_per_choice):
            for index in range(self.choices):
                token = text.token(position=position, choice=index)
                yield chunk([choice(index, {"content": token})], token=token)
        for index in range(self.choices):
            yield chunk([choice(index, {}, self.finish_reason)])
        if reports_usage:
            yield chunk([], usage=self._usage())
        yield Chunk(b"data: [DONE]\n\n")

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


def _complete(request: _ChatRequest, script: Script, count_text: CountText) -> _Completion:
    maxima = [bound for bound in (request.max_tokens, request.max_completion_tokens) if bound is not None]
    tokens_per_choice = min([script.output_tokens, *maxima])
    return _Completion(
        id=identifier("chatcmpl-", characters=29),
        created=int(time.time()),
        model=script.model or request.model,
        input_tokens=_input_tokens(request, count_text),
        choices=request.n or 1,
        tokens_per_choice=tokens_per_choice,
        finish_reason="length" if tokens_per_choice < script.output_tokens else "stop",
    )


def _input_tokens(request: _ChatRequest, count_text: CountText) -> int:
    tools = sum(count_text(msgspec.json.encode(tool).decode()) for tool in request.tools or ())
    messages = sum(_message_tokens(message, count_text) for message in request.messages)
    return tools + messages + _TOKENS_PRIMING_REPLY


def _message_tokens(message: _Message, count_text: CountText) -> int:
    tokens = _TOKENS_PER_MESSAGE + sum(map(count_text, _message_texts(message)))
    return tokens if message.name is None else tokens + _TOKENS_PER_NAME


def _message_texts(message: _Message) -> Iterator[str]:
    yield message.role
    if isinstance(message.content, str):
        yield message.content
    else:
        yield from (part["text"] for part in message.content or () if isinstance(part.get("text"), str))
    if message.name is not None:
        yield message.name
    for call in message.tool_calls or ():
        yield call.function.name
        yield call.function.arguments


def _error_json(status: int, message: str | None = None) -> dict[str, Any]:
    kind, code = _ERROR_TYPE_AND_CODE.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return {
        "error": {
            "message": message or f"The simulated provider was asked to answer {status}.",
            "type": kind,
            "param": None,
            "code": code,
        }
    }


def _event(payload: dict[str, Any], *, output_tokens: int = 0) -> Chunk:
    return Chunk(b"data: " + msgspec.json.encode(payload) + b"\n\n", output_tokens)


def _json_reply(payload: dict[str, Any], *, status: int = 200, input_tokens: int = 0, output_tokens: int = 0) -> Reply:
    data = msgspec.json.format(msgspec.json.encode(payload), indent=2) + b"\n"
    return Reply(
        status=status,
        headers=_request_id_header(),
        chunks=[Chunk(data, output_tokens)],
        input_tokens=input_tokens,
        fails=status >= 400,
    )


def _request_id_header() -> tuple[tuple[str, str], ...]:
    return (("x-request-id", identifier("req_", characters=32)),)
